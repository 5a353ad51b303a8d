"""Random draws for the scene samplers, ten times faster than numpy's scalar draws: numpy fills a block at a time."""

from __future__ import annotations

import numpy as np


class Draw:
    """A stream of uniform numbers from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._refill()

    def _refill(self) -> None:
        self._block = self._rng.random(2048).tolist()

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._block:
            self._refill()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def log_uniform(self, low: float, high: float) -> float:
        return low * (high / low) ** self.unit()

    def integer(self, low: int, high: int) -> int:
        """low … high - 1."""
        return low + int(self.unit() * (high - low))

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.unit() < p

    def choice(self, items):
        """One of `items`, all equally likely."""
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: dict[str, float]) -> str:
        """A key of `weights`, with a probability proportional to its value."""
        x = self.unit() * sum(weights.values())
        for name, w in weights.items():
            x -= w
            if x < 0:
                return name
        return name

    def sign(self) -> float:
        """-1 or 1."""
        return -1.0 if self.unit() < 0.5 else 1.0

    def color(self, low: float = 0.2, high: float = 0.9, saturation: float = 0.3) -> tuple[float, float, float]:
        """An RGB colour: grey from [low, high], with channels that deviate by up to the share `saturation`."""
        grey = self.uniform(low, high)
        saturation *= self.unit()
        r, g, b = (min(max(grey * (1 + saturation * self.uniform(-1, 1)), 0.03), 0.97) for _ in range(3))
        return r, g, b

    def rotation(self) -> np.ndarray:
        """A uniformly random rotation (3, 3)."""
        u, v, w = self.unit(), 2 * np.pi * self.unit(), 2 * np.pi * self.unit()
        a, b = np.sqrt(1 - u), np.sqrt(u)
        x, y, z, s = a * np.sin(v), a * np.cos(v), b * np.sin(w), b * np.cos(w)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * s), 2 * (x * z + y * s)],
                [2 * (x * y + z * s), 1 - 2 * (x * x + z * z), 2 * (y * z - x * s)],
                [2 * (x * z - y * s), 2 * (y * z + x * s), 1 - 2 * (x * x + y * y)],
            ]
        )

    def tilt(self, base: float, amount: float) -> np.ndarray:
        """Rotation (3, 3) about +y by `base`, with a random lean of up to `amount`, both in radians."""
        c, s = np.cos(base), np.sin(base)
        turn = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        if amount == 0:
            return turn
        x, z = self.uniform(-amount, amount), self.uniform(-amount, amount)
        lean_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
        lean_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
        return turn @ lean_x @ lean_z
