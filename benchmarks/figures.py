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

import paper_report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/performance.md", "docs/paper.md")
PHOTOGRAPHS = {"fountain-P11": 11, "herz-jesu-P8": 8, "entry-P10": 10}
INDOORS = {"rgbd-office": "indoors, small motion", "rgbd-desk": "indoors, dark, little overlap"}
PROCEDURAL = [f"proc-{i:02d}" for i in range(8)]
NETWORKS = {"vggt": "VGGT-1B", "da3": "DA3-Large"}
VARIANTS = {
    "dense-eager": "{}, layer by layer, bfloat16 by autocast",
    "dense": "{}, `dense`: fused kernels, nothing approximated but by rounding",
    "lite": "{}, `lite`: FP8, 90 % of the attention across views skipped from 8 views on",
}
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
    rows = [row for name in ("2", "8-32", "100") for row in load(f"h100-{network}-{name}")["rows"]]
    return {(row["variant"], row["views"]): row for row in rows}


def speed() -> str:
    """Time and memory on one H100."""
    lines = []
    for network, title in NETWORKS.items():
        rows = _speed_rows(network)
        for variant, what in VARIANTS.items():
            cells = [what.format(title)]
            for views in (2, 8, 32, 100):
                row = rows[variant, views]
                ms = f"{row['median_ms']:,.0f}" if row["median_ms"] >= 10 else f"{row['median_ms']:.1f}"
                cells.append(f"{ms} / {row['peak_gib']:.1f}")
            lines.append(cells)
    head = ("one H100, random weights: ms / GiB", "2 views of 518×518", "8 of 392×518", "32", "100")
    return table(head, lines)


def floors() -> str:
    """The least time that the card could take, as `lite3r bench` computes it."""
    lines = []
    for network, title in NETWORKS.items():
        rows = _speed_rows(network)
        pairs = [[rows[variant, n]["floor_ms"] for variant in ("dense", "lite")] for n in (2, 8, 32, 100)]
        lines.append([title, *(" / ".join(f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" for ms in p) for p in pairs)])
    return table(("floor of `dense` / `lite`, ms", "2 views", "8", "32", "100"), lines)


def paper() -> str:
    """The paper's comparison: what was measured here, beside what its authors published."""
    return paper_report.markdown(load("paper-tables-mini"))


TABLES: dict[str, Callable[[], str]] = {
    "accuracy": accuracy,
    "refine": refine,
    "speed": speed,
    "floors": floors,
    "paper": paper,
}


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
