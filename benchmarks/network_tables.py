"""The tables about networks of others and their files, for `figures.py`: conversion, kept keys, the cache."""

from __future__ import annotations

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
        "VGGT": ("vggt_small",), "Depth-Anything-3": ("da3_",), "VGGT-Ω": ("vggt_omega_",), "π³": ("pi3_",),
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


def cache_precision() -> str:
    """What the precision of LingBot-Map's cache changes."""
    lines = [
        [row["cache"], f"{row['degrees']:.3f}°", f"{100 * row['positions']:.2f} %", f"{100 * row['depth']:.3f} %"]
        for row in load("cache-precision")["rows"]
    ]
    return table(("cache in", "rotations", "positions", "depth"), lines)
