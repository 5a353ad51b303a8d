"""Worker processes of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .option import Option, require

WORKERS = "Workers"  # heading in --help


@dataclass(frozen=True)
class PoolConfig:
    """Number and place of the worker processes."""

    workers: Annotated[
        int,
        Option(
            WORKERS,
            "Number of worker processes on this machine. They share the GPUs and divide the CPU cores.",
            metavar="N",
        ),
    ] = 1

    ray: Annotated[
        str | None,
        Option(
            WORKERS,
            "Run the workers on a Ray cluster: its address, or auto (pip install 'lite3r\\[ray]'). All machines "
            "need the same folders.",
            metavar="ADDRESS",
        ),
    ] = None

    def __post_init__(self) -> None:
        require(self.ray != "", "--ray is empty: give the address of the cluster, or auto")
        require(self.workers >= 1, f"--workers must be at least 1, not {self.workers}")

    @property
    def is_single(self) -> bool:
        """Whether the main process makes all scenes itself."""
        return self.workers == 1 and self.ray is None
