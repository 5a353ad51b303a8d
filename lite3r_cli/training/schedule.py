"""Which shapes a training step sees: number of views, resolution, aspect ratio, landscape or portrait, source of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lite3r_cli.errors import UsageError

PATCH = 14
VIEWS = {2: 0.15, 3: 0.15, 4: 0.25, 5: 0.10, 6: 0.10, 8: 0.15, 10: 0.10}
ASPECTS = {4 / 3: 0.40, 3 / 2: 0.35, 16 / 9: 0.10, 1.0: 0.15}
LONGEST_EARLY = {224: 0.60, 280: 0.30, 336: 0.10}
LONGEST = {224: 0.25, 280: 0.20, 336: 0.20, 392: 0.15, 448: 0.10, 518: 0.10}


@dataclass(frozen=True)
class Shape:
    """One step's bucket; the same on every GPU."""

    batch: int
    views: int
    height: int
    width: int
    photos: bool = False  # real photographs instead of procedural scenes


@dataclass(frozen=True)
class ShapeSchedule:
    """Shape of a step, a pure function of (seed, step).

    `tokens` is what one GPU processes in a step, `low_resolution_steps` the number of first steps at 224-336 px,
    `portrait` and `photos` the shares of portrait images and of real photographs.
    """

    tokens: int = 49_152
    low_resolution_steps: int = 0
    portrait: float = 0.3
    photos: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1024:
            raise UsageError("--tokens must be at least 1024")
        if not 0 <= self.photos <= 1:
            raise UsageError("--photo-share must lie between 0 and 1")

    def __call__(self, step: int) -> Shape:
        rng = np.random.default_rng([self.seed, step, 1])
        views = _draw(rng, VIEWS)
        longest = _draw(rng, LONGEST_EARLY if step < self.low_resolution_steps else LONGEST)
        shortest = max(PATCH, round(longest / _draw(rng, ASPECTS) / PATCH) * PATCH)
        height, width = (longest, shortest) if rng.random() < self.portrait else (shortest, longest)
        per_scene = views * (1 + (height // PATCH) * (width // PATCH))
        return Shape(max(1, self.tokens // per_scene), views, height, width, bool(rng.random() < self.photos))


def _draw(rng: np.random.Generator, weights: dict) -> float:
    options = list(weights)
    return options[rng.choice(len(options), p=np.array(list(weights.values())) / sum(weights.values()))]
