"""The tables of figures in README and docs, made from the measurements in benchmarks/results/.

python benchmarks/figures.py           writes them between their marks, <!-- figures: NAME --> and <!-- /figures -->
python benchmarks/figures.py --check   measures and writes nothing; fails where a page says something else
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import attention_tables
import paper_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "checkpoints/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
PHOTOGRAPHS = {"fountain-P11": 11, "herz-jesu-P8": 8, "entry-P10": 10}
INDOORS = {"rgbd-office": "indoors, small motion", "rgbd-desk": "indoors, dark, little overlap"}
PROCEDURAL = [f"proc-{i:02d}" for i in range(8)]
NETWORKS = {
    "VGGT-1B": ("vggt-eager", "vggt-2", "vggt-8-32", "vggt-100", "vggt-long"),
    "DA3-Large": ("da3-2", "da3-8-32-100"),
    "`mini`": ("mini-100", "mini-long"),
}  # the files of each
VARIANTS = {
    "dense-eager": "{}, layer by layer, bfloat16 by autocast",
    "dense": "{}, `dense`: fused kernels, nothing approximated but by rounding",
    "lite": "{}, `lite`: FP8, 90 % of the attention across views skipped, or more",
}
# Milliseconds / GiB for 2, 8, 32, 100, 300, 500, 1,000 views.
VIEWS = (2, 8, 32, 100, 300, 500, 1000)
TARGETS = {
    ("VGGT-1B", "dense"): {2: (17,), 8: (55,), 32: (370,), 100: (2650,)},
    ("VGGT-1B", "lite"): {
        2: (16, 1.7), 8: (36, 2.1), 32: (130, 2.4), 100: (560, 4), 300: (2600, 8), 500: (4800, 13), 1000: (12000, 24),
    },
    ("DA3-Large", "lite"): {2: (6,), 8: (14,), 32: (58,), 100: (230,)},
    ("`mini`", "lite"): {100: (120,), 1000: (3000,)},
}  # fmt: skip
STEPS = ("ask", "summarise_blocks", "block_shares", "list_blocks", "gathered_attention")
MARK = re.compile(r"(<!-- figures: ([\w-]+) -->\n)(.*?)(<!-- /figures -->)", re.DOTALL)


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines).replace("| --- ", "|---").replace("|--- |", "|---|")


def accuracy() -> str:
    """`mini`, four views at a time."""
    rows = load("mini-accuracy")["models"]["mini"]["rows"]

    def cells(name: str, scenes: Sequence[str]) -> list[str]:
        def mean(key: str) -> float | None:
            values = [rows[scene][key] for scene in scenes if rows[scene][key] is not None]
            return fmean(values) if values else None

        depth = mean("absrel")
        return [
            name,
            f"{mean('auc30'):.2f}",
            f"{mean('rotation_deg'):.1f}°",
            f"{mean('translation_deg'):.1f}°",
            f"{mean('focal_pct'):.0f} %",
            "–" if depth is None else f"{depth:.2f}",
        ]

    return table(
        ("scene", "AUC@30", "rotation", "translation", "focal length", "depth: AbsRel"),
        [
            *(cells(f"{scene} (photographs)", [scene]) for scene in PHOTOGRAPHS),
            *(cells(f"{scene} ({what})", [scene]) for scene, what in INDOORS.items()),
            cells("eight foreign procedural scenes, mean", PROCEDURAL),
        ],
    )


def refine() -> str:
    """`--refine` and pycolmap alone."""
    scenes = load("refine-xeon-2cores")["scenes"]

    def cells(name: str, those: Sequence[str], kinds: bool) -> list[str]:
        def mean(way: str, key: str) -> float:
            return fmean(scenes[scene][way][key] for scene in those)

        return [
            name,
            *(f"{mean(way, 'auc5'):.2f}" for way in ("network", "refine", "pycolmap")),
            f"{mean('refine', 'seconds'):.0f} s" + (", dense" if kinds else ""),
            f"{mean('pycolmap', 'seconds'):.0f} s" + (", sparse" if kinds else ""),
        ]

    return table(
        ("", "AUC@5: network", "with `--refine`", "pycolmap alone", "time", "pycolmap's"),
        [
            *(cells(f"{name}, {n} photographs", [name], i == 0) for i, (name, n) in enumerate(PHOTOGRAPHS.items())),
            cells("eight procedural scenes, mean", PROCEDURAL, False),
        ],
    )


def _speed_rows(network: str) -> dict[tuple[str, int], dict]:
    rows = [row for name in NETWORKS[network] for row in load(f"h100-{name}")["rows"]]
    return {(row["variant"], row["views"]): row for row in rows}


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _with_flash(network: str, variant: str) -> dict[int, float]:
    """Views → ms with FlashAttention-4, of another lease than the rest."""
    rows = load("fa4-h100")["networks"] if network == "VGGT-1B" else []
    return {row["views"]: attention_tables.with_flash(row) for row in rows if row["variant"] == variant}


def speed() -> str:
    """Time and memory on one H100, as README shows it."""
    lines = []
    for network in NETWORKS:
        rows = _speed_rows(network)
        for variant, what in VARIANTS.items():
            found = [rows.get((variant, views)) for views in VIEWS]
            if any(found):
                cells = ("–" if row is None else f"{_ms(row['median_ms'])} / {row['peak_gib']:.1f}" for row in found)
                lines.append([what.format(network), *cells])
            if flash := _with_flash(network, variant):
                cells = (_ms(flash[views]) if views in flash else "–" for views in VIEWS)
                lines.append([f"{network}, `{variant}`, with the extra `hopper`", *cells])
    return table(("one H100: ms / GiB", *(f"{n:,}" for n in VIEWS)), lines)


def targets() -> str:
    """The same beside what is aimed at; bold: reached. For `lite` also how often faster than `dense` it is."""
    lines = []
    for (network, variant), wanted in TARGETS.items():
        rows = _speed_rows(network)
        aims, found, faster = ([f"{network}, {variant}: {what}"] for what in ("target", "measured", "times as fast"))
        for views in VIEWS:
            row, goal = rows.get((variant, views)), wanted.get(views, ())
            aims.append(" / ".join(_ms(x) if i == 0 else f"{x:g}" for i, x in enumerate(goal)) or "–")
            values = (
                ()
                if row is None
                else ((_ms(row["median_ms"]), row["median_ms"]), (f"{row['peak_gib']:.2f}", row["peak_gib"]))
            )
            cells = [f"**{said}**" if i < len(goal) and x <= goal[i] else said for i, (said, x) in enumerate(values)]
            found.append(" / ".join(cells) or "–")
            dense = rows.get(("dense", views))
            faster.append(f"{dense['median_ms'] / row['median_ms']:.2f} ×" if row and dense else "–")
        flash = [f"{network}, {variant}: with FlashAttention-4"]
        for views, ms in ((views, _with_flash(network, variant).get(views)) for views in VIEWS):
            reached = ms is not None and views in wanted and ms <= wanted[views][0]
            flash.append("–" if ms is None else f"**{_ms(ms)}**" if reached else _ms(ms))
        lines += [aims, found, *([flash] if any(cell != "–" for cell in flash[1:]) else [])]
        lines += [faster] if variant == "lite" else []
    return table(("ms / GiB", *(f"{n:,} views" for n in VIEWS)), lines)


def floors() -> str:
    """The least time that the card could take, as `lite3r bench` computes it."""
    lines = []
    for network in NETWORKS:
        rows = _speed_rows(network)
        for variant in ("dense", "lite"):
            found = [rows.get((variant, views)) for views in VIEWS]
            lines.append([f"{network}, `{variant}`", *("–" if row is None else _ms(row["floor_ms"]) for row in found)])
    return table(("floor, ms", *(f"{n:,} views" for n in VIEWS)), lines)


def stages() -> str:
    """Where the time of `lite` goes, without a graph."""
    lines, names = [], []
    for network in NETWORKS:
        for (variant, views), row in sorted(_speed_rows(network).items()):
            if variant == "lite" and views >= 32:
                names = list(row["stages"])
                lines.append([f"{network}, {views:,}", *(_ms(row["stages"][name]) for name in names)])
    return table(("`lite`, ms", *names), lines)


def kernels() -> str:
    """One layer of sparse attention over packed tokens, step by step."""
    rows = load("packed-h100")["rows"]
    head = [f"{row['shape']}, {row['tokens']:,} tokens, {row['queries']} queries a list" for row in rows]

    def line(name: str, values: Sequence[float], digits: int = 2) -> list[str]:
        return [name, *(f"{x:.{digits}f}" if x < 10 else f"{x:.1f}" for x in values)]

    lines = [line(f"`{step}`", [row[step] for row in rows]) for step in STEPS]
    lines.append(line("together", [sum(row[step] for step in STEPS) for row in rows]))
    lines.append(line("`gathered_attention` without means", [row["without means"] for row in rows]))
    lines.append(["its rate, TF/s", *(f"{row['tflops of kept pairs']:.0f}" for row in rows)])
    lines.append(line("dense attention by cuDNN", [row["dense by cuDNN"] for row in rows]))
    return table(("ms", *head), lines)


def _against_dense(row: dict) -> list[str]:
    relative = "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*(100 * x for x in row["absrel"]))
    points = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * x for x in row[key])) for key in ("auc30", "auc5")]
    cells = [relative, *points, f"{row['depth']:.4f}", f"{row['rotation_median']:.2f}°"]
    return [cell.replace("-", "−") for cell in cells]


_ACCURACY_HEAD = ("skipped", "AbsRel", "AUC@30, points", "AUC@5, points", "dense: AbsRel", "rotation, median")


def packed_accuracy() -> str:
    """Packed tokens on `mini` by the fast path, FP8: the schedule that the program uses."""
    lines = []
    results = load("packed-accuracy")["results"]
    for row in sorted(results, key=lambda row: (round(row["skipped"], 2), row["form"] and row["form"]["group"])):
        form = row["form"]
        if form is None:
            lines.append(["dense", "0 %", *_against_dense(row)])
        elif form["schedule"] == "usual":
            lines.append([f"{form['group']} queries a list", f"{100 * row['skipped']:.1f} %", *_against_dense(row)])
    return table(("form", *_ACCURACY_HEAD), lines)


def many_views() -> str:
    """`mini` with hundreds of views, by the fast path."""
    lines = []
    for views, document in load("many-views").items():
        for row in document["results"]:
            if row["form"] is not None:
                count = f"{views} ({len(document['windows'])} scenes)"
                lines.append([count, f"{100 * row['skipped']:.0f} %", *_against_dense(row)])
    return table(("views", *_ACCURACY_HEAD), lines)


def adapters() -> str:
    """What training weights of `mini` did to the distance from its teacher."""
    lines = []
    for row in load("adapters")["results"]:
        if "course" in row:
            values = [f"{measured:.3f}" for step, measured in row["course"] if step != 148]
            cost = [f"{row['trained']:,}", f"{row['lr']:g}", f"{row['seconds']:.0f} s", f"{row['peak_gib']:.0f} GiB"]
            lines.append([row["name"], *cost, *values])
    return table(("trained", "numbers", "peak rate", "time", "memory", "step 0", "37", "74", "111", "150"), lines)


def attention_cpu() -> str:
    """Sparse against dense attention on two quiet cores."""
    lines = []
    rows = [(run, row) for run in load("attention-cpu")["runs"] for row in run["results"]]
    for _, row in sorted(rows, key=lambda each: (each[1]["dtype"], round(each[1]["skipped"], 2), each[1]["views"])):
        factor = row["dense_s"] / row["sparse_s"]
        cells = [row["dtype"], f"{100 * row['skipped']:.0f} %", f"{row['views']}", f"{row['tokens']:,}"]
        lines.append([*cells, f"{1e3 * row['dense_s']:,.0f} ms", f"{1e3 * row['sparse_s']:,.0f} ms", f"{factor:.2f} ×"])
    return table(("arithmetic", "skipped", "views", "tokens", "dense", "sparse", "dense / sparse"), lines)


def int8_cpu() -> str:
    """A linear layer of `mini` in int8 beside bfloat16."""
    names = {"attn.qkv": "`qkv`", "attn.proj": "`proj`", "mlp.fc1": "`fc1`", "mlp.fc2": "`fc2`"}
    kinds = {
        "bfloat16": "bfloat16",
        "int8 by token and row": "int8, a scale a token and a row (`torch._int_mm`)",
        "int8, the product alone": "the product of that alone",
        "int8, dynamic": "int8, one scale for all activations (torch's dynamic layer, oneDNN)",
        "FP8, emulated": "FP8, emulated",
    }
    rows = {(row["kind"], row["layer"]): row for row in load("int8-cpu")["results"]}
    lines = []
    for kind, words in kinds.items():
        times = [f"{1e3 * rows[kind, layer]['cpu_s']:.0f} ms" for layer in names]
        errors = [100 * rows[kind, layer]["error"] for layer in names]
        lines.append([words, *times, f"{min(errors):.1f} to {max(errors):.1f} %"])
    return table(("arithmetic", *names.values(), "error of the output"), lines)


CARD = {
    "auc5": "AUC@5",
    "auc15": "AUC@15",
    "auc30": "AUC@30",
    "rotation_deg": "rotation °",
    "translation_deg": "translation °",
    "focal_pct": "focal %",
    "absrel": "AbsRel",
    "delta1": "δ<1.25",
}


def card_cell(value: float | None) -> str:
    """A figure of the model card."""
    return "–" if value is None else f"{value:.3f}" if value < 1.5 else f"{value:.1f}"


def card(model: str) -> str:
    """All scenes of the model card, for one file of weights."""
    rows = load("mini-accuracy")["models"][model]["rows"]
    return table(
        ("scene", *CARD.values()), [[name, *(card_cell(row[key]) for key in CARD)] for name, row in rows.items()]
    )


def mini_lenses() -> str:
    """`mini` through other lenses, beside the weights before."""
    document = load("mini-lenses")["fields_of_view"]
    lines = []
    for degrees, rows in document.items():
        cells = [
            f"{rows[who][key]:.{digits}f}{unit}"
            for key, digits, unit in (("focal_pct", 1, " %"), ("auc30", 2, ""), ("absrel", 3, ""))
            for who in ("mini", "before")
        ]
        lines.append([f"{degrees}°", *cells])
    return table(("field of view", "focal length", "before", "AUC@30", "before", "AbsRel", "before"), lines)


def picture_size() -> str:
    """Small photographs at their own size and enlarged."""
    rows = {(row["pictures"], row["inside"], row["scene"]): row for row in load("picture-size")["rows"]}
    lines = []
    for pixels in (336, 420):
        for inside, how in (("own size", "own size"), (518, "enlarged to 518")):
            mean, desk, office = (rows[pixels, inside, scene] for scene in ("mean", "rgbd-desk", "rgbd-office"))
            depth = [f"{row['absrel']:.3f}" for row in (desk, office)]
            lines.append([f"{pixels} px, {how}", f"{mean['auc30']:.3f}", f"{mean['focal_pct']:.1f}", *depth])
    return table(("", "AUC@30", "focal %", "AbsRel: rgbd-desk", "rgbd-office"), lines)


def sparse_loss() -> str:
    """What each setting of sparse attention costs `mini`, without training."""
    results = load("sparse-loss")["results"]
    rows = {(row["setting"], row["keep_ratio"]): row for row in results}
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in results if row["keep_ratio"] < 1):
        cells = []
        for keep in (0.25, 0.1):
            row = rows[setting, keep]
            fewer = f" ({100 * row['skipped']:.0f} %)" if row["skipped"] < 0.98 * (1 - keep) else ""
            cells += [f"{row['depth']:.3f}{fewer}", f"{row['rotation_deg']:.2f}°", f"{row['shift']:.3f}"]
        default = setting.endswith("(the default)")
        name = f'**{setting.removesuffix(" (the default)")} ("the default" of these rows)**' if default else setting
        lines.append([name, *cells])
    return table(("setting", "75 % skipped: depth", "rotation", "shift", "90 %: depth", "rotation", "shift"), lines)


def paper() -> str:
    """The paper's comparison: what was measured here, beside what its authors published."""
    return paper_report.markdown(load("paper-tables-mini"))


def lenses() -> str:
    """Scenes seen through lenses with k1, with the lens to be found."""

    def cells(scene: str, k1: str, rows: dict) -> list[str]:
        ours, other = rows["refine"], rows["pycolmap"]
        found = "pinhole" if ours["model"] == "pinhole" else f"{ours['distortion'][0]:.3f}"

        def off(row: dict) -> str:
            return (
                "failed"
                if row["focal_error"] is None or row["focal_error"] > 1
                else f"{100 * row['focal_error']:.2f} %"
            )

        return [scene, k1, found, off(ours), f"{ours['auc5']:.3f}", f"{off(other)}, {other['auc5']:.3f}"]

    return table(
        ("scene", "k1", "k1 found", "focal length off by", "AUC@5", "pycolmap, told SIMPLE_RADIAL"),
        [cells(scene, k1, row) for scene, each in load("refine-lenses")["scenes"].items() for k1, row in each.items()],
    )


TABLES: dict[str, Callable[[], str]] = {
    "lenses": lenses,
    "accuracy": accuracy,
    "refine": refine,
    "speed": speed,
    "targets": targets,
    "floors": floors,
    "stages": stages,
    "kernels": kernels,
    "flash-layers": lambda: table(*attention_tables.layers(load("fa4-h100"))),
    "flash-sparse": lambda: table(*attention_tables.sparse(load("fa4-h100"))),
    "flash-networks": lambda: table(*attention_tables.networks(load("fa4-h100"))),
    "packed-accuracy": packed_accuracy,
    "many-views": many_views,
    "adapters": adapters,
    "attention-cpu": attention_cpu,
    "int8-cpu": int8_cpu,
    "paper": paper,
    "card-fp8": lambda: card("mini"),
    "mini-lenses": mini_lenses,
    "card-before": lambda: card("before"),
    "picture-size": picture_size,
    "sparse-loss": sparse_loss,
}


# Tables of figures that no stored measurement makes: first cells of the head → where the figures are from.
BY_HAND: dict[str, str] = {
    "| | |": "facts of the file, and the shape of the network",
    "| | hardware | time | steps": "the training logs",
    "| measure | goal | reached": "read off the tables of the card",
    "| | facade, 518 px": "masked-keys.json, typed by hand",
    "| case | what happens": "exit codes",
    "| form, 90 % skipped": "sparse-forms.json, typed by hand",
    "| 90 % skipped | AbsRel": "sparse-forms.json, typed by hand",
    "| student | skipped": "distill-mini.json and its ablations, typed by hand; early checkpoint: none",
    "| views | tokens | skipped": "no measurement kept: benchmarks/attention_cpu.py",
    "| views | tokens | bfloat16": "no measurement kept: benchmarks/attention_cpu.py",
    "| name | parameters": "names and sizes of networks",
    "| `--model` | weights": "names and licences",
    "| network | takes": "published figures, and the errors that benchmarks/parity.py prints; typed by hand",
    "| | file | peak memory": "no measurement kept: benchmarks/convert_memory.py",
    "| kernel | in one pass": "sizes of tiles",
    "| VGGT-1B | linear layers": "h100-profile.json, typed by hand",
    "| kernel, 33,312 tokens": "no measurement kept: measured by hand",
    "| views | target": "xeon-2cores-mini.json, typed by hand",
    "| | start | load | read": "now: h100-end-to-end-quick.json, typed by hand; before: none kept",
    "| | before | now": "no measurement kept: a machine that is gone",
    "| scene | pycolmap: s": "refine-xeon-2cores.json, typed by hand",
    "| target | reached": "read off the table before it",
    "| set | pycolmap: s": "refine-larger-xeon-2cores.json, typed by hand",
}
NUMBER = re.compile(r"\d+\.\d+|\d{2,}")
FEW = 6  # numbers: a table of fewer is no table of figures


def unknown_tables(text: str) -> list[str]:
    """Heads of the tables of figures in a page that are neither made here nor named in BY_HAND."""
    found = re.findall(r"(?:^\|[^\n]*\n)+", MARK.sub("", text), re.MULTILINE)
    heads = [part.split("\n")[0] for part in found if len(NUMBER.findall("".join(part.split("\n")[2:]))) >= FEW]
    return [head for head in heads if not any(head.startswith(known) for known in BY_HAND)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page says something else")
    check = parser.parse_args().check
    seen: set[str] = set()
    wrong = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        for _, name, found, _ in MARK.findall(text):
            seen.add(name)
            if found != TABLES[name]():
                wrong.append(f"{page}: the table {name!r} is not what benchmarks/results/ says")
        wrong += [f"{page}: no measurement makes the table {head!r}" for head in unknown_tables(text)]
        made = MARK.sub(lambda m: m[1] + TABLES[m[2]]() + m[4], text)
        if made != text and not check:
            path.write_text(made, encoding="utf-8")
            print(f"{page}: written")
    wrong += [f"no page has the table {name!r}" for name in TABLES.keys() - seen]
    if check and wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print(f"{len(seen)} tables in {len(PAGES)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
