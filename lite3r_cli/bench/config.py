"""What `lite3r bench` is asked. Checked when built, free of heavy imports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..config import LiteConfig, PredictConfig
from ..errors import UsageError

COMPARE = ("dense-eager", "dense", "lite")


@dataclass(frozen=True)
class BenchConfig:
    model: str = PredictConfig.model
    views: tuple[int, ...] = (2, 8)
    size: tuple[int, int | None] | None = None  # longest side, or (height, width); None: what the model's authors use
    images: Path | None = None  # a folder of photographs instead of stand-in pictures
    compare: tuple[str, ...] = COMPARE
    lite: LiteConfig = LiteConfig()
    repeats: int = 7
    device: str = PredictConfig.device
    dtype: str = PredictConfig.dtype
    seed: int = PredictConfig.seed

    def __post_init__(self) -> None:
        PredictConfig(model=self.model, device=self.device, dtype=self.dtype, seed=self.seed)  # same rules
        if not self.views or min(self.views) < 1:
            raise UsageError(f"--views takes numbers from 1 on, not {', '.join(map(str, self.views)) or 'nothing'}")
        if self.repeats < 1:
            raise UsageError(f"--repeats must be at least 1, not {self.repeats}")
        unknown = [name for name in self.compare if name not in COMPARE]
        if unknown or not self.compare or len(set(self.compare)) < len(self.compare):
            raise UsageError(f"--compare takes some of {','.join(COMPARE)}, each once, not {','.join(self.compare)!r}")
        if self.size is not None and not all(s is None or 28 <= s <= 4096 for s in self.size):
            raise UsageError("--resolution must lie between 28 and 4096 pixels")


def numbers(texts: tuple[str, ...]) -> tuple[int, ...]:
    """«2», «8,32» … → (2, 8, 32)."""
    parts = [part for text in texts for part in text.split(",") if part]
    wrong = [part for part in parts if not part.isdecimal()]
    if wrong:
        raise UsageError(f"--views takes numbers, not {wrong[0]!r}")
    return tuple(map(int, parts))


def size(text: str | None) -> tuple[int, int | None] | None:
    """«518» → (518, None), the longest side; «392x518» → (392, 518), height and width."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text)
    if found is None:
        raise UsageError(f"--resolution takes the longest side or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(found[1]), int(found[2]) if found[2] else None
