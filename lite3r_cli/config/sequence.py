"""Options of long videos and large sets, which are processed in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .option import INPUT, OUTPUT, Option, require

ONE_PASS = 200  # up to this number of views one pass is used
SMALLEST_CHUNK = 3


@dataclass(frozen=True)
class LongConfig:
    """Overlapping chunks of views."""

    chunk: Annotated[
        str,
        Option(
            INPUT,
            "Process long sets in overlapping chunks of N views. auto: if there are more than 200 views, more than "
            "60 frames of a video on a CPU, or more views than fit into memory; off: always in one pass.",
            metavar="N",
        ),
    ] = "auto"
    loops: Annotated[
        bool,
        Option(INPUT, "With chunks: skip loop closure (the search for places that are seen again).", off="--no-loops"),
    ] = True
    resume: Annotated[
        bool,
        Option(
            OUTPUT, "With chunks: keep finished chunks if the run is stopped, and continue after them in the next run."
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
        """The requested number of views per chunk."""
        return None if self.chunk in ("auto", "off") else int(self.chunk)
