"""Undistortion: distorted pictures as pinhole pictures of the same size without blank pixels.

Functions on pictures (the sweep, the fusion, the exports) support only pinholes: they read these pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import cv2
import numpy as np

from ..errors import InputError
from ..io.decode import Picture
from ..io.images import ImageSet
from ..scene.distortion import DistortedCamera
from ..scene.posed_view import View

_WIDEST = np.radians(110.0)  # along the longer side: limit of a pinhole without large magnification at the border
_NARROWEST = 20.0  # longest focal length, in longer sides
_BORDER = 256  # points along each side that must be inside the picture


@dataclass(frozen=True)
class Undistortion:
    """From pictures of a distorted camera to those of a pinhole with the largest field of view without blank pixels, at
    most 110 degrees along the longer side.

    Raises InputError for a camera without such a pinhole.
    """

    camera: DistortedCamera

    @property
    def K(self) -> np.ndarray:
        """(3, 3) of the undistorted picture: one focal length, the principal point at the centre."""
        return _pinhole(self.camera).copy()

    def picture(self, rgb: np.ndarray) -> np.ndarray:
        """The undistorted picture (H, W, 3) uint8 of a picture of the camera's size."""
        return cv2.remap(rgb, *self._maps(rgb.shape[:2]), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """The undistorted mask (H, W) bool."""
        found = cv2.remap(mask.astype(np.uint8), *self._maps(mask.shape), cv2.INTER_NEAREST)
        return found > 0

    def map(self, values: np.ndarray) -> np.ndarray:
        """A map (h, w) float32 of any size undistorted by nearest neighbour, because depth must not be mixed."""
        return cv2.remap(values, *self._maps(values.shape), cv2.INTER_NEAREST)

    def points(self, pixels: np.ndarray) -> np.ndarray:
        """Positions of points (N, 2) of the original picture in the undistorted one; NaN beyond the camera's field of
        view.
        """
        K, rays = self.K, self.camera.rays(pixels)
        with np.errstate(all="ignore"):
            flat = np.where(rays[:, 2:] > 1e-3, rays[:, :2] / rays[:, 2:], np.nan)
        return flat * K[0, 0] + K[:2, 2]

    def _maps(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        return _remap(self.camera, int(shape[0]), int(shape[1]))


def undistorted_view(view: View, lens: Undistortion) -> View:
    """The view of the undistorted picture for a view of a distorted one: K and maps change, the pose does not."""
    depth, confidence = (None if m is None else lens.map(m) for m in (view.depth, view.confidence))
    return replace(view, K=lens.K, lens=lens.camera, depth=depth, confidence=confidence)


def undistorted(rgb: np.ndarray, view: View) -> np.ndarray:
    """The undistorted picture (H, W, 3) of a view, at any size, from the original."""
    return rgb if view.lens is None else Undistortion(view.lens).picture(rgb)


@dataclass
class UndistortedImages(ImageSet):
    """An image set in which some pictures are read undistorted, including masks."""

    lenses: Mapping[str, Undistortion] = field(default_factory=dict)  # by the picture's name
    inner: ImageSet = field(default_factory=lambda: ImageSet([]))  # the set of the original pictures

    @classmethod
    def of(cls, images: ImageSet, views: Sequence[View], indices: Sequence[int]) -> ImageSet:
        """The set in which views[j] belongs to picture indices[j]: those with a lens are read undistorted."""
        pairs = zip(views, indices, strict=True)
        lenses = {images.records[i].name: Undistortion(view.lens) for view, i in pairs if view.lens is not None}
        return cls.through(images, lenses)

    @classmethod
    def through(cls, images: ImageSet, lenses: Mapping[str, Undistortion]) -> ImageSet:
        """The set in which the pictures of these names are read undistorted; none is undistorted twice."""
        if not lenses:
            return images
        if isinstance(images, UndistortedImages):
            lenses = {**images.lenses, **lenses}
        shared = {name: getattr(images, name) for name in ImageSet.__dataclass_fields__}
        return cls(**shared, lenses=lenses, inner=images.stored())

    def read_picture(self, i: int, least: tuple[int, int] | None = None) -> Picture:
        picture = self.inner.read_picture(i, least)
        lens = self.lenses.get(self.records[i].name)
        if lens is None:
            return picture
        opaque = None if picture.opaque is None else lens.mask(picture.opaque)
        return replace(picture, rgb=lens.picture(picture.rgb), opaque=opaque)

    def _drawn_mask(self, i: int) -> np.ndarray | None:
        mask, lens = self.inner._drawn_mask(i), self.lenses.get(self.records[i].name)
        return mask if mask is None or lens is None else lens.mask(mask)

    def stored(self) -> ImageSet:
        return self.inner

    def as_stored(self, i: int) -> bool:
        return self.records[i].name not in self.lenses and self.inner.as_stored(i)


@lru_cache(maxsize=16)
def _pinhole(camera: DistortedCamera) -> np.ndarray:
    """K of the widest pinhole whose whole border is inside the picture: bisection of its focal length."""
    longest = max(camera.width, camera.height)
    near, far = 0.5 * longest / np.tan(_WIDEST / 2), _NARROWEST * longest
    if not _all_seen(camera, far):
        raise InputError(f"a {camera.model} camera with {camera.params} sees nothing along its axis")
    if _all_seen(camera, near):
        far = near
    while far - near > 1e-4 * near:
        middle = np.sqrt(near * far)
        near, far = (near, middle) if _all_seen(camera, middle) else (middle, far)
    return _matrix(camera, far)


def _matrix(camera: DistortedCamera, focal: float) -> np.ndarray:
    return np.array([[focal, 0, camera.width / 2], [0, focal, camera.height / 2], [0, 0, 1.0]])


def _all_seen(camera: DistortedCamera, focal: float) -> bool:
    across, down = (np.linspace(0, size, _BORDER) for size in (camera.width, camera.height))
    left, top = np.zeros(_BORDER), np.zeros(_BORDER)
    sides = [(across, top), (across, top + camera.height), (left, down), (left + camera.width, down)]
    border = np.concatenate([np.stack(side, axis=1) for side in sides])
    pixels = camera.pixels(_rays(_matrix(camera, focal), border))
    return bool(((pixels >= 0) & (pixels <= [camera.width, camera.height])).all())  # false for NaN


def _rays(K: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    flat = (pixels - K[:2, 2]) / [K[0, 0], K[1, 1]]
    return np.concatenate([flat, np.ones((*flat.shape[:-1], 1))], axis=-1)


@lru_cache(maxsize=8)
def _remap(camera: DistortedCamera, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """cv2.remap's maps for pictures of the camera at (height, width)."""
    size = np.array([width / camera.width, height / camera.height])
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = _rays(_pinhole(camera), np.stack([u, v], axis=-1) / size)
    found = camera.pixels(rays) * size - 0.5  # cv2 counts pixel centres from 0
    found = np.where(np.isfinite(found), found, -1e4).astype(np.float32)
    return np.ascontiguousarray(found[..., 0]), np.ascontiguousarray(found[..., 1])
