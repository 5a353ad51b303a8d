"""How long videos and large sets are taken in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .option import INPUT, OUTPUT, Option, require

ONE_PASS = 200  # views up to which one pass over all of them is taken
SMALLEST_CHUNK = 3


@dataclass(frozen=True)
class LongConfig:
    """Chunks of views that overlap, one after the other."""

    chunk: Annotated[
        str,
        Option(
            INPUT,
            "Take long sets in chunks of N views that overlap; auto: where there are more than 200 in order; off: all "
            "in one pass, whatever memory that takes.",
            metavar="N",
        ),
    ] = "auto"
    loops: Annotated[
        bool, Option(INPUT, "In chunks: do not look for places that are seen again.", off="--no-loops")
    ] = True
    resume: Annotated[
        bool,
        Option(
            OUTPUT, "In chunks: keep those that are finished if the run stops, and go on after them when it runs again."
        ),
    ] = False

    def __post_init__(self) -> None:
        number = self.chunk.isascii() and self.chunk.isdigit() and int(self.chunk) >= SMALLEST_CHUNK
        require(
            self.chunk in ("auto", "off") or number,
            f"--chunk takes auto, off or a number of views of at least {SMALLEST_CHUNK}, not {self.chunk!r}",
        )

    @property
    def size(self) -> int | None:
        """The number of views that was asked for."""
        return None if self.chunk in ("auto", "off") else int(self.chunk)
