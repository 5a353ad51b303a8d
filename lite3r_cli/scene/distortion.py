"""Cameras with lens distortion: COLMAP's models.

Pinhole-like models distort the point x/z, y/z by a polynomial of its radius (Brown 1966). Fisheye models distort the
angle to the axis (Kannala & Brandt, PAMI 2006) and reach beyond 180 degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import InputError

_STEPS = 2000  # in the search for the largest radius of a model
_ROUNDS = 8  # of removing the tangential distortion
_NEWTON = 20
_STEP = 1e-5  # of a numerical derivative
_MOST_RADIUS = 12.0  # tangent of the largest angle to the axis of a pinhole-like model: 85 degrees


_Curve = Callable[[np.ndarray, tuple[float, ...]], np.ndarray]
_Prism = Callable[[np.ndarray, np.ndarray, tuple[float, ...]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Model:
    focal: int  # focal lengths: 1 for both axes, or 2
    fisheye: bool
    radial: tuple[int, ...] = ()  # parameters, after the principal point, for r², r⁴ …
    below: tuple[int, ...] = ()  # of these, those in the denominator
    tangential: tuple[int, ...] = ()  # of p1, p2
    curve: _Curve | None = None  # factor of a radius, if it is not a polynomial
    prism: _Prism | None = None  # distortion of a point whose radius is the angle, if it is not radial
    further: int = 0  # parameters of `curve` or `prism`

    @property
    def count(self) -> int:
        return self.focal + 2 + len(self.radial) + len(self.below) + len(self.tangential) + self.further


def _field_of_view(r: np.ndarray, p: tuple[float, ...]) -> np.ndarray:
    """Devernay and Faugeras (MVA 2001)."""
    r = np.maximum(np.abs(r), 1e-9)
    return np.arctan(2 * r * np.tan(p[0] / 2)) / (p[0] * r) if abs(p[0]) > 1e-8 else np.ones_like(r)


def _division(r: np.ndarray, p: tuple[float, ...]) -> np.ndarray:
    """r = d / (1 + k d²) (Fitzgibbon, CVPR 2001), solved for d; NaN for an r that the lens cannot see."""
    return 2 / (1 + np.sqrt(1 - 4 * p[0] * r**2))


def _unified(r: np.ndarray, p: tuple[float, ...]) -> np.ndarray:
    """The extended unified model (Khomutenko et al., RA-L 2016)."""
    return 1 / (p[0] * np.sqrt(p[1] * r**2 + 1) + 1 - p[0])


def _thin_prism(u: np.ndarray, v: np.ndarray, p: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, sx, sy = p
    rr = u * u + v * v
    radial = 1 + rr * (k1 + rr * (k2 + rr * (k3 + rr * k4)))
    return (
        u * radial + 2 * p1 * u * v + p2 * (rr + 2 * u * u) + sx * rr,
        v * radial + 2 * p2 * u * v + p1 * (rr + 2 * v * v) + sy * rr,
    )


def _aria(u: np.ndarray, v: np.ndarray, p: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    tt = u * u + v * v
    radial = 1 + sum((k * tt**n for n, k in enumerate(p[:6], 1)), np.zeros_like(tt))
    u, v = u * radial, v * radial
    p0, p1, s0, s1, s2, s3 = p[6:]
    rr = u * u + v * v
    return (
        u + (2 * u * u + rr) * p0 + 2 * u * v * p1 + rr * (s0 + s1 * rr),
        v + (2 * v * v + rr) * p1 + 2 * u * v * p0 + rr * (s2 + s3 * rr),
    )


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
    "SIMPLE_FISHEYE": _Model(1, True),
    "FISHEYE": _Model(2, True),
    "FOV": _Model(2, False, curve=_field_of_view, further=1),
    "SIMPLE_DIVISION": _Model(1, False, curve=_division, further=1),
    "DIVISION": _Model(2, False, curve=_division, further=1),
    "EUCM": _Model(2, False, curve=_unified, further=2),
    "THIN_PRISM_FISHEYE": _Model(2, True, prism=_thin_prism, further=8),
    "RAD_TAN_THIN_PRISM_FISHEYE": _Model(2, True, prism=_aria, further=12),
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
        """The distortion parameters."""
        return self.params[MODELS[self.model].focal + 2 :]

    @property
    def distorted(self) -> bool:
        """Whether the model has distortion; a fisheye has it also with coefficients of 0."""
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
        """Pixels (…, 2) of directions (…, 3) in camera axes; NaN behind a pinhole-like camera and beyond the largest
        angle at which the model is one-to-one.
        """
        model, rays = MODELS[self.model], np.asarray(rays, np.float64)
        x, y, z = np.moveaxis(rays, -1, 0)
        with np.errstate(all="ignore"):
            if model.fisheye:
                across = np.hypot(x, y)
                r = np.arctan2(across, z)
                scale = np.where(across > 1e-12, self._bent(r) / np.maximum(across, 1e-12), 1 / np.maximum(z, 1e-12))
                u, v = x * scale, y * scale
                if model.prism is not None:
                    u, v = model.prism(u, v, self.coefficients)
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
        """Unit directions (N, 3) of pixels (N, 2); NaN without a direction."""
        model = MODELS[self.model]
        seen = (np.asarray(pixels, np.float64) - self.centre) / self.focal
        if model.prism is not None:
            return self._prism_rays(seen)
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
        result: np.ndarray = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return result

    def _prism_rays(self, seen: np.ndarray) -> np.ndarray:
        """`rays` of a model with `prism`, by Newton's method in its plane."""
        flat = seen.copy()
        for _ in range(_NEWTON):
            bent = self._prism(flat)
            slopes = [(self._prism(flat + _STEP * axis) - bent) / _STEP for axis in np.eye(2)]
            jacobian = np.stack(slopes, axis=2) + 1e-12 * np.eye(2)
            flat = flat + np.linalg.solve(jacobian, (seen - bent)[..., None])[..., 0]
        angle = np.linalg.norm(flat, axis=1)
        off = np.linalg.norm(self._prism(flat) - seen, axis=1)
        angle = np.where((off < 1e-6) & (angle <= self._reach), angle, np.nan)
        axis = flat / np.maximum(angle, 1e-12)[:, None]
        return np.concatenate([axis * np.sin(angle)[:, None], np.cos(angle)[:, None]], axis=1)

    def _prism(self, flat: np.ndarray) -> np.ndarray:
        """Points (N, 2) whose radius is the angle, distorted by a model with `prism`."""
        prism = MODELS[self.model].prism
        assert prism is not None
        return np.stack(prism(flat[:, 0], flat[:, 1], self.coefficients), axis=1)

    def _straight(self, bent: np.ndarray) -> np.ndarray:
        """The undistorted radius (or angle) of distorted ones (N,): from a table, then by Newton's method; NaN beyond
        the largest radius.
        """
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
        """The distortion factor of a radius."""
        model = MODELS[self.model]
        if model.curve is not None:
            with np.errstate(all="ignore"):
                return model.curve(r, self.coefficients)
        above, below = (
            sum((k * r ** (2 * n) for n, k in enumerate(self._coefficients(places), 1)), np.ones_like(r))
            for places in (model.radial, model.below)
        )
        return above / below

    def _bent(self, r: np.ndarray) -> np.ndarray:
        result: np.ndarray = r * self._factor(r)
        return result

    def _tangential(self, x: np.ndarray, y: np.ndarray, rr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = MODELS[self.model].tangential
        p1, p2 = self._coefficients(places) if places else (0.0, 0.0)
        return 2 * p1 * x * y + p2 * (rr + 2 * x * x), 2 * p2 * x * y + p1 * (rr + 2 * y * y)

    @cached_property
    def _reach(self) -> float:
        """The largest radius (or angle, of a fisheye) up to which the distorted one increases."""
        r = np.linspace(0, np.pi if MODELS[self.model].fisheye else _MOST_RADIUS, _STEPS)
        falls = np.flatnonzero(~(np.diff(self._along_axes(r)) > 0).all(axis=0))
        return float(r[falls[0]] if len(falls) else r[-1])

    def _along_axes(self, r: np.ndarray) -> np.ndarray:
        """Distorted radii (directions, R) of radii or angles (R,); one direction if all are equal."""
        prism = MODELS[self.model].prism
        if prism is None:
            return self._bent(r)[None]
        turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)[:, None]
        return np.hypot(*prism(r * np.cos(turns), r * np.sin(turns), self.coefficients))
