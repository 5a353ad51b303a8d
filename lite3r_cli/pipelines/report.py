"""What a run did, for people and programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Report:
    """What a run did, for the table and for --json."""

    cloud: Path
    folder: Path
    images: int  # given and readable by their header
    views: int
    points: int
    skipped: list[dict[str, str]]
    warnings: list[str]
    runtime: dict[str, dict[str, Any]]
    seconds: dict[str, float]  # by stage; stages may overlap
    wall: float  # seconds since the program began
    peak_memory: dict[str, int]
    files: list[str] = field(default_factory=list)  # relative to the folder of the cloud
