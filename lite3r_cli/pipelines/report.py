"""The outcome of a run, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Report:
    """The outcome of a run, for the table and for --json."""

    cloud: Path
    folder: Path
    images: int  # given, with a readable header
    views: int
    points: int
    skipped: list[dict[str, str]]
    warnings: list[str]
    runtime: dict[str, dict[str, Any]]
    seconds: dict[str, float]  # by stage; stages may overlap
    wall: float  # seconds since the program began
    peak_memory: dict[str, int]
    files: list[str] = field(default_factory=list)  # relative to the folder of the cloud
