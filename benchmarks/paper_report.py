"""The tables of benchmarks/paper_tables.py, with the figures that the paper's authors published beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

FORMS = {  # name: what it is called in the tables
    "dense": "dense",
    "sparse": "sparse-linear",
    "fp8": "FP8",
    "both": "sparse-linear, FP8",
}
PAPER_NETWORKS = ("vggt-1b", "da3-large")
DATA = {"blendedmvs": "BlendedMVS", "dtu": "DTU"}

# Lite3R, arXiv 2605.11354. AbsRel: BlendedMVS, from the paper. Milliseconds and MB: one A100, two views of 518×518,
# from the figure on https://aigeeksgroup.github.io/Lite3R/. Only what these sources state stands here; the authors
# timed their dense networks in float32.
PUBLISHED: dict[tuple[str, str], dict[str, float]] = {
    ("vggt-1b", "dense"): {"absrel": 0.0184, "ms": 483, "mb": 5706},
    ("vggt-1b", "both"): {"absrel": 0.0271, "ms": 274, "mb": 2455},
    ("da3-large", "dense"): {"absrel": 0.0862, "ms": 187, "mb": 2713},
    ("da3-large", "both"): {"absrel": 0.0889, "ms": 95, "mb": 1368},
}

POSE = {
    "auc5": ("AUC@5", 3),
    "auc30": ("AUC@30", 3),
    "rotation_deg": ("rotation °", 2),
    "translation_deg": ("translation °", 2),
}
DEPTH = {
    "absrel": ("AbsRel", 4),
    "delta1": ("δ<1.25", 3),
    "accuracy_pct": ("accuracy %", 2),
    "completeness_pct": ("completeness %", 2),
}
COST = {"ms": ("ms", 0), "mb": ("MB", 0)}


def markdown(report: Mapping[str, Any]) -> str:
    """All tables of a report, and what is missing."""
    settings = report["settings"]
    parts = []
    for data, title in DATA.items():
        columns = POSE | (DEPTH if data == "blendedmvs" else {})
        counts = [_count(row, data) for row in report["rows"] if _count(row, data)]
        measured = f"{max(counts)} sets of {settings['views']} views" if counts else "not measured"
        about = f"**{title}**, {measured}, {settings['size']}×{settings['size']} pixels"
        parts.append(f"{about}\n\n{_table(report, columns, lambda row, d=data: means(row, d))}")
    devices = sorted({row["time"]["device"] for row in report["rows"] if row.get("time")})
    where = "; ".join(devices) or "figures of a GPU, not measured"
    about = f"**Time and memory**, {settings['views']} views: {where} (published: one A100)"
    parts.append(f"{about}\n\n{_table(report, COST, lambda row: row.get('time') or {})}")
    if any(not row["trained"] for row in report["rows"] if row["form"] in ("sparse", "both")):
        parts.append("*: sparse-linear attention that was not trained; `--student` names a distilled checkpoint.\n")
    if report["missing"]:
        parts.append("Missing:\n\n" + "".join(f"- {text}\n" for text in report["missing"]))
    return "\n".join(parts)


def means(row: Mapping[str, Any], data: str) -> dict[str, float]:
    """The mean of each measure over the sets of views that have it."""
    samples = [scores for scores in row["data"].get(data, {}).values() if "error" not in scores]
    found = {key: [scores[key] for scores in samples if scores.get(key) is not None] for key in POSE | DEPTH}
    return {key: fmean(values) for key, values in found.items() if values}


def _count(row: Mapping[str, Any], data: str) -> int:
    return sum("error" not in scores for scores in row["data"].get(data, {}).values())


def _table(
    report: Mapping[str, Any],
    columns: Mapping[str, tuple[str, int]],
    values_of: Callable[[Mapping[str, Any]], Mapping[str, float]],
) -> str:
    rows = {(row["model"], row["form"]): row for row in report["rows"]}
    models = list(dict.fromkeys([*PAPER_NETWORKS, *(row["model"] for row in report["rows"])]))
    lines = []
    for model in models:
        for form, title in FORMS.items():
            row, published = rows.get((model, form)), PUBLISHED.get((model, form), {})
            if row is None and (model not in PAPER_NETWORKS or not published.keys() & columns.keys()):
                continue
            values = {} if row is None else values_of(row)
            untrained = row is not None and form in ("sparse", "both") and not row["trained"]
            cells = [_cell(values.get(key), published.get(key), digits) for key, (_, digits) in columns.items()]
            lines.append((model, title + ("*" if untrained else ""), *cells))
    head = ("network", "form", *(name for name, _ in columns.values()))
    return _rows(head, lines)


def _cell(value: float | None, published: float | None, digits: int) -> str:
    ours = "–" if value is None else f"{value:,.{digits}f}"
    return ours if published is None else f"{ours} (published {published:,.{digits}f})"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = "|---" * len(head) + "|"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
