"""The tables about networks of others and their files, for `figures.py`: conversion, kept keys, the cache."""

from __future__ import annotations

from statistics import fmean

from model_tables import steady_rate
from stored import load, table

NAMES = {"vggt-omega-1b-512": "vggt-omega"}  # name of a list of shapes → model


def conversion() -> str:
    """File sizes and the peak memory of `lite3r convert`."""
    lines = []
    for row in sorted(load("convert-memory")["rows"], key=lambda row: row["values"]):
        name = NAMES.get(row["model"], row["model"])
        sizes = (f"{row[key] / 1e6:,.0f} MB" for key in ("before", "after"))
        lines.append([f"`{name}`", f"{row['values'] / 1e6:,.0f} M", *sizes, f"{row['peak_bytes'] / 1e9:.2f} GB"])
    return table(("", "values in the file", "float32", "FP8", "peak memory of the conversion"), lines)


def kept_forms() -> str:
    """Largest difference of any output from the authors' code where sparse attention keeps every key."""
    results = load("parity-forms")["results"]
    marks = {
        "VGGT": ("vggt_small", "vggt_1b_"), "Depth-Anything-3": ("da3_",), "VGGT-Ω": ("vggt_omega_",), "π³": ("pi3_",),
        "Pi3X": ("pi3x_",), "MapAnything, both": ("map_anything_",), "LingBot-Map": ("lingbot_",),
    }  # fmt: skip
    lines = []
    for network, starts in marks.items():
        cells = []
        for form in ("packed tokens", "blocks"):
            those = [e for name, e in results.items() if name.startswith(starts) and name.endswith(f", {form}")]
            cells.append(f"{max(value for errors in those for value in errors.values()):.1e} ({len(those)})")
        lines.append([network, *cells])
    return table(("network", "packed tokens (fixtures)", "blocks (fixtures)"), lines)


SPEED_VIEWS = (8, 32, 100, 300)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def speeds() -> str:
    """Milliseconds, floor, arithmetic operations and time per operation of every network on the fast engine."""
    rows = load("h200-networks")["rows"]
    lines = []
    for variant in ("dense", "lite"):
        for model in dict.fromkeys(row["model"] for row in rows):
            found = {r["views"]: r for r in rows if (r["model"], r["variant"]) == (model, variant)}
            cells = []
            for views in SPEED_VIEWS:
                row = found.get(views)
                cells.append("–" if row is None else (
                    f"{_figure(row['ms'])} / {_figure(row['floor_ms'])} / {_figure(row['tera_operations'])} / "
                    f"{row['time_per_operation']:.2f}"))  # fmt: skip
            memory = found[100]["peak_gib"] if 100 in found else None
            if found:
                cells.append("–" if memory is None else f"{memory:.1f} GiB")
                lines.append([f"`{model}`", variant, *cells])
    heads = [f"{views} views" for views in SPEED_VIEWS]
    return table(("network", "form", *heads, "memory at 100"), lines)


def streaming() -> str:
    """Frames a second and memory of streams, and how far small frames are off."""
    lines = []
    for run in load("h200-streaming")["runs"]:
        for form, found in run["forms"].items():
            rows, off = found["rows"], run["checks"][form]
            first = next(row for row in rows if row["frame"] >= 100)
            lines.append([
                STREAM_FORMS[form] + (" *" if run.get("before") else ""),
                f"{rows[-1]['frame']:,} of {run['frames']:,}", f"{steady_rate(rows):.1f}",
                f"{found['said_bytes'] / 1e9:.2f} GB", f"{first['memory'] / 1e9:.2f} GB",
                f"{rows[-1]['memory'] / 1e9:.2f} GB", f"{100 * off['depth']:.1f} %, {100 * off['cameras']:.0f} %",
            ])  # fmt: skip
    head = ("form", "frames", "frames/s after 100", "cache as printed", "memory after 100 frames", "at the end")
    return table((*head, "depth and cameras off"), lines)


def known_input() -> str:
    """What `mini` predicts with known cameras as its input: means over scenes."""
    rows = [row for row in load("known-cameras-input")["rows"] if row["kind"] == "input"]
    names = {"nothing": "nothing", "focal": "focal lengths", "poses": "poses", "both": "both"}

    def mean(case: str, key: str) -> float:
        by_scene: dict[str, list[float]] = {}
        for row in rows:
            if row["case"] == case and row[key] is not None:
                by_scene.setdefault(row["scene"], []).append(row[key])
        return fmean(fmean(values) for values in by_scene.values())

    lines = [
        [
            what,
            f"{mean(case, 'focal_percent'):.1f} %",
            *(f"{mean(case, key):.3f}" for key in ("auc5", "auc30", "absrel")),
        ]
        for case, what in names.items()
    ]
    return table(("known", "focal length", "AUC@5", "AUC@30", "AbsRel"), lines)


STREAM_FORMS = {"ordinary": "layer by layer, bfloat16", "fast": "`--engine fast`, bfloat16",
                "fp8": "`--engine fast`, FP8 weights"}  # fmt: skip


def cache_precision() -> str:
    """What the precision of LingBot-Map's cache changes."""
    lines = [
        [row["cache"], f"{row['degrees']:.3f}°", f"{100 * row['positions']:.2f} %", f"{100 * row['depth']:.3f} %"]
        for row in load("cache-precision")["rows"]
    ]
    return table(("cache in", "rotations", "positions", "depth"), lines)
