"""Options of `lite3r bench`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from .option import OUTPUT, Option, require
from .output_names import require_suffix
from .prediction import Device, Dtype, LiteConfig, Model, PredictConfig, Seed

MEASUREMENT = "Measurement"
MOST_VIEWS = 100_000
COMPARE = ("dense-eager", "dense", "lite")


def numbers(texts: Iterable[str]) -> tuple[int, ...]:
    """ "2", "8,32" … → (2, 8, 32). Raises UsageError."""
    parts = [part for text in texts for part in text.split(",") if part]
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part)]
    if wrong:
        raise UsageError(f"--views takes numbers of views, not {wrong[0][:40]!r}")
    return tuple(map(int, parts))


def size(text: str | None) -> tuple[int, int | None] | None:
    """ "518" → (518, None), the longest side; "392x518" → (392, 518), height and width. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})(?:[x×](\d{1,9}))?", text)
    if found is None:
        raise UsageError(f"--resolution takes the longest side or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(found[1]), int(found[2]) if found[2] else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@dataclass(frozen=True)
class BenchConfig:
    """Options of `lite3r bench`."""

    model: Model = PredictConfig.model
    views: Annotated[
        tuple[int, ...],
        Option(
            MEASUREMENT,
            "Numbers of views: --views 2 8 32, or 2,8,32.",
            metavar="N...",
            parse=numbers,
            text=list[str],
            default=["2,8"],
        ),
    ] = (2, 8)
    size: Annotated[
        tuple[int, int | None] | None,
        Option(
            MEASUREMENT,
            "Image size inside the network: the longest side, or HEIGHTxWIDTH.",
            ("--resolution", "-r"),
            metavar="PIXELS",
            shown="the model's, 4:3",
            parse=size,
        ),
    ] = None  # longest side, or (height, width)
    images: Annotated[
        Path | None,
        Option(
            MEASUREMENT,
            "Photos to run on. They are repeated if there are fewer than views.",
            metavar="DIR",
            shown="synthetic images",
        ),
    ] = None
    compare: Annotated[
        tuple[str, ...],
        Option(
            MEASUREMENT,
            "Variants to measure; the first is the baseline. dense-eager: layer by layer; dense: fused kernels; "
            "lite: fused kernels, sparse attention and FP8.",
            metavar="NAMES",
            parse=_names,
            default=",".join(COMPARE),
        ),
    ] = COMPARE
    repeats: Annotated[int, Option(MEASUREMENT, "Timed runs of each variant.", metavar="N")] = 7
    plot: Annotated[
        Path | None, Option(MEASUREMENT, "Draw time and memory to this image file.", metavar="FILE.png", shown="none")
    ] = None
    overwrite: Annotated[bool, Option(OUTPUT, "Replace an existing --plot file.")] = False
    lite: LiteConfig = LiteConfig()
    device: Device = PredictConfig.device
    dtype: Dtype = PredictConfig.dtype
    seed: Seed = PredictConfig.seed

    def __post_init__(self) -> None:
        PredictConfig(model=self.model, device=self.device, dtype=self.dtype, seed=self.seed)  # same rules
        require(
            bool(self.views) and min(self.views) >= 1,
            f"--views takes numbers from 1 on, not {', '.join(map(str, self.views)) or 'nothing'}",
        )
        require(max(self.views) <= MOST_VIEWS, f"--views takes at most {MOST_VIEWS}, not {max(self.views)}")
        require(self.repeats >= 1, f"--repeats must be at least 1, not {self.repeats}")
        if self.plot is not None:
            require_suffix("--plot", self.plot, "a plot", ".png")
        known = all(name in COMPARE for name in self.compare)
        require(
            known and len(set(self.compare)) == len(self.compare) > 0,
            f"--compare takes some of {','.join(COMPARE)}, each once, not {','.join(self.compare)!r}",
        )
        require(
            self.size is None or all(s is None or 28 <= s <= 4096 for s in self.size),
            "--resolution must lie between 28 and 4096 pixels",
        )
