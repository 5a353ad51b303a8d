"""The measurements in benchmarks/results/, and tables of them as Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines).replace("| --- ", "|---").replace("|--- |", "|---|")


def duration(value: float | None) -> str:
    """Seconds as a table shows them."""
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.1f}"
