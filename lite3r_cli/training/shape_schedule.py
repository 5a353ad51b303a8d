"""The shape of each training step: number of views, resolution, aspect ratio, landscape or portrait, data source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lite3r_cli.config.training_run import ShapeConfig

PATCH = 14
VIEWS = {2: 0.14, 3: 0.14, 4: 0.25, 5: 0.04, 6: 0.14, 8: 0.15, 10: 0.05, 12: 0.06, 24: 0.03}
# (longest, shortest) side → weight. Few sizes and few numbers of frames, because cuDNN and Triton tune or compile
# kernels for each.
SMALL = {(224, 168): 0.35, (252, 168): 0.35, (224, 224): 0.15, (280, 154): 0.15}
LARGE = {(224, 168): 0.03, (252, 168): 0.04, (336, 224): 0.08, (336, 252): 0.08, (392, 392): 0.03,
         (448, 252): 0.05, (448, 294): 0.13, (518, 350): 0.30, (518, 392): 0.26}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """The shape of one step, the same on every GPU."""

    batch: int
    views: int
    height: int
    width: int
    photos: bool = False  # real photographs instead of procedural scenes


@dataclass(frozen=True)
class ShapeSchedule(ShapeConfig):
    """A function: step → shape, depending only on (seed, step).

    `tokens` is the number of tokens per GPU and step, `low_resolution_steps` the number of initial steps at 224–280 px;
    `portrait` and `photos` are the shares of portrait images and of real photographs.
    """

    def __call__(self, step: int) -> Shape:
        rng = np.random.default_rng([self.seed, step, 1])
        longest, shortest = _draw(rng, SMALL if step < self.low_resolution_steps else LARGE)
        height, width = (longest, shortest) if rng.random() < self.portrait else (shortest, longest)
        frames = self.tokens // (1 + (height // PATCH) * (width // PATCH))
        unit = 24 if frames >= 96 else 12  # has many divisors, and thus many possible numbers of views
        frames = max(unit, frames // unit * unit)
        views = _draw(rng, {n: weight for n, weight in VIEWS.items() if frames % n == 0})
        return Shape(frames // views, views, height, width, bool(rng.random() < self.photos))


def _draw(rng: np.random.Generator, weights: dict):
    options = list(weights)
    return options[rng.choice(len(options), p=np.array(list(weights.values())) / sum(weights.values()))]
