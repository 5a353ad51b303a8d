"""Cameras whose lens bends straight lines: COLMAP's models, from rays to pixels.

Pinhole-like models bend the point x/z, y/z by a polynomial of its radius (Brown 1966); fisheye ones bend the angle to
the axis (Kannala & Brandt, PAMI 2006), so that they reach beyond 180 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import InputError

_STEPS = 2000  # in which the reach of a model is looked for
_ROUNDS = 8  # of taking the tangential part away
_STEP = 1e-5  # of a numerical slope
_MOST_RADIUS = 12.0  # tangent of the angle to the axis up to which a pinhole-like model is asked: 85 degrees


@dataclass(frozen=True)
class _Model:
    focal: int  # focal lengths: 1 for both axes, or 2
    fisheye: bool
    radial: tuple[int, ...] = ()  # places, after the principal point, of k of r², r⁴ …
    below: tuple[int, ...] = ()  # of those in the denominator
    tangential: tuple[int, ...] = ()  # of p1, p2

    @property
    def count(self) -> int:
        return self.focal + 2 + len(self.radial) + len(self.below) + len(self.tangential)


MODELS: dict[str, _Model] = {
    "SIMPLE_PINHOLE": _Model(1, False),
    "PINHOLE": _Model(2, False),
    "SIMPLE_RADIAL": _Model(1, False, (0,)),
    "RADIAL": _Model(1, False, (0, 1)),
    "OPENCV": _Model(2, False, (0, 1), (), (2, 3)),
    "FULL_OPENCV": _Model(2, False, (0, 1, 4), (5, 6, 7), (2, 3)),
    "SIMPLE_RADIAL_FISHEYE": _Model(1, True, (0,)),
    "RADIAL_FISHEYE": _Model(1, True, (0, 1)),
    "OPENCV_FISHEYE": _Model(2, True, (0, 1, 2, 3)),
}
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")


@dataclass(frozen=True)
class DistortedCamera:
    """A camera of one of COLMAP's `MODELS`, its parameters in COLMAP's order, in pixels with centres at +0.5.

    Raises InputError for another model or a wrong number of parameters.
    """

    model: str
    params: tuple[float, ...]
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise InputError(f"camera model {self.model}: known are {', '.join(MODELS)}")
        if len(self.params) != MODELS[self.model].count:
            raise InputError(f"{self.model} has {MODELS[self.model].count} parameters, not {len(self.params)}")

    @property
    def focal(self) -> tuple[float, float]:
        """fx, fy."""
        return self.params[0], self.params[MODELS[self.model].focal - 1]

    @property
    def centre(self) -> tuple[float, float]:
        """The principal point."""
        first = MODELS[self.model].focal
        return self.params[first], self.params[first + 1]

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The parameters that bend."""
        return self.params[MODELS[self.model].focal + 2 :]

    @property
    def distorted(self) -> bool:
        """Whether the model bends lines; also with coefficients of 0 a fisheye does."""
        model = MODELS[self.model]
        return model.fisheye or any(self.coefficients)

    def scaled(self, width: int, height: int) -> DistortedCamera:
        """The camera of the same picture at another size."""
        model, (sx, sy) = MODELS[self.model], (width / self.width, height / self.height)
        focal = (self.params[0] * np.sqrt(sx * sy),) if model.focal == 1 else (self.params[0] * sx, self.params[1] * sy)
        centre = (self.centre[0] * sx, self.centre[1] * sy)
        params = (*map(float, (*focal, *centre)), *self.params[model.focal + 2 :])
        return DistortedCamera(self.model, params, width, height)

    def pixels(self, rays: np.ndarray) -> np.ndarray:
        """Pixels (…, 2) of directions (…, 3) in the camera's axes; NaN behind a pinhole-like camera and beyond the
        angle up to which the model is one to one."""
        model, rays = MODELS[self.model], np.asarray(rays, np.float64)
        x, y, z = np.moveaxis(rays, -1, 0)
        with np.errstate(all="ignore"):
            if model.fisheye:
                across = np.hypot(x, y)
                r = np.arctan2(across, z)
                scale = np.where(across > 1e-12, self._bent(r) / np.maximum(across, 1e-12), 1 / np.maximum(z, 1e-12))
                u, v = x * scale, y * scale
            else:
                x, y = np.where(z > 0, x / z, np.nan), np.where(z > 0, y / z, np.nan)
                r = np.hypot(x, y)
                u, v = self._tangential(x, y, r**2)
                factor = self._factor(r)
                u, v = u + x * factor, v + y * factor
            beyond = ~(r <= self._reach)
        (fx, fy), (cx, cy) = self.focal, self.centre
        return np.stack([np.where(beyond, np.nan, u * fx + cx), np.where(beyond, np.nan, v * fy + cy)], axis=-1)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Directions (N, 3), unit length, of pixels (N, 2); NaN where no direction leads."""
        model = MODELS[self.model]
        seen = (np.asarray(pixels, np.float64) - self.centre) / self.focal
        bend = np.zeros_like(seen)
        for _ in range(_ROUNDS if model.tangential else 1):
            bent = seen - bend
            length = np.linalg.norm(bent, axis=1)
            r = self._straight(length)
            flat = bent * np.where(length > 1e-12, r / np.maximum(length, 1e-12), 1.0)[:, None]
            bend = np.stack(self._tangential(flat[:, 0], flat[:, 1], r**2), axis=1)
        if model.fisheye:
            axis = bent / np.maximum(length, 1e-12)[:, None]
            return np.concatenate([axis * np.sin(r)[:, None], np.cos(r)[:, None]], axis=1)
        rays = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def _straight(self, bent: np.ndarray) -> np.ndarray:
        """The radius (or angle) of bent ones (N,): out of a table, then by Newton's method; NaN beyond the reach."""
        table = np.linspace(0, self._reach, _STEPS)
        values = self._bent(table)
        r = np.interp(bent, values, table)
        for _ in range(3):
            slope = (self._bent(r + _STEP) - self._bent(r - _STEP)) / (2 * _STEP)
            r = np.clip(r - (self._bent(r) - bent) / np.maximum(slope, 1e-3), 0, self._reach)
        return np.where(bent <= values[-1], r, np.nan)

    def _coefficients(self, places: tuple[int, ...]) -> tuple[float, ...]:
        first = MODELS[self.model].focal + 2
        return tuple(self.params[first + place] for place in places)

    def _factor(self, r: np.ndarray) -> np.ndarray:
        """By what a radius grows."""
        model = MODELS[self.model]
        above, below = (
            sum((k * r ** (2 * n) for n, k in enumerate(self._coefficients(places), 1)), np.ones_like(r))
            for places in (model.radial, model.below)
        )
        return above / below

    def _bent(self, r: np.ndarray) -> np.ndarray:
        return r * self._factor(r)

    def _tangential(self, x: np.ndarray, y: np.ndarray, rr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = MODELS[self.model].tangential
        p1, p2 = self._coefficients(places) if places else (0.0, 0.0)
        return 2 * p1 * x * y + p2 * (rr + 2 * x * x), 2 * p2 * x * y + p1 * (rr + 2 * y * y)

    @cached_property
    def _reach(self) -> float:
        """Radius (or angle, of a fisheye) up to which the bent one grows."""
        r = np.linspace(0, np.pi if MODELS[self.model].fisheye else _MOST_RADIUS, _STEPS)
        falls = np.flatnonzero(~(np.diff(self._bent(r)) > 0))
        return float(r[falls[0]] if len(falls) else r[-1])
