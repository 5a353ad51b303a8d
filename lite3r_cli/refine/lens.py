"""Groups pictures by camera and lens, and models these lenses.

Lengths are pixels of the pictures at the size of their features. A lens that several pictures share is far better
determined than one per picture; the matches decide whether they share one (see lens_choice.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..scene import geometry
from ..scene.distortion import MODELS, PINHOLES, DistortedCamera
from ..scene.facing import Facing
from ..scene.posed_view import View
from .backend import require_pycolmap
from .refine_config import RefineConfig

DISTORTED = {"simple-radial": "SIMPLE_RADIAL", "opencv": "OPENCV", "opencv-fisheye": "OPENCV_FISHEYE"}  # --camera-model
_AHEAD = float(np.cos(np.radians(85)))
_ZOOM = 1.3  # ratio of the predicted focal lengths of one size from which pictures are assumed to have been zoomed


@dataclass(frozen=True)
class Lens:
    """A camera model of pycolmap with its parameters, in its order."""

    model: str
    params: tuple[float, ...]
    size: tuple[int, int]
    fixed: bool = False  # known beforehand
    centred: bool = True  # the principal point is fixed at the centre of the picture

    @property
    def distorted(self) -> bool:
        """Whether the lens may have distortion."""
        return self.model not in PINHOLES

    def of_picture(self, width: int, height: int) -> DistortedCamera:
        """The camera of the pictures at another size."""
        return DistortedCamera(self.model, self.params, *self.size).scaled(width, height)

    def ahead(self, pixels: np.ndarray) -> np.ndarray:
        """Which pixels (N, 2) look less than 85 degrees away from the axis: pycolmap's rays end at 90."""
        return self.of_picture(*self.size).rays(pixels)[:, 2] > _AHEAD

    def bending(self, model: str) -> Lens:
        """The same lens as a `model` with zero distortion; its focal length is that on the axis."""
        camera = DistortedCamera(self.model, self.params, *self.size)
        shape = MODELS[model]
        focal = camera.focal if shape.focal == 2 else (float(np.sqrt(camera.focal[0] * camera.focal[1])),)
        rest = (0.0,) * (shape.count - shape.focal - 2)
        return replace(self, model=model, params=(*focal, *camera.centre, *rest))

    def camera(self, number: int):
        """As a pycolmap.Camera."""
        return require_pycolmap().Camera(
            camera_id=number, model=self.model, width=self.size[0], height=self.size[1], params=list(self.params),
            has_prior_focal_length=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Lenses:
    """The lenses of a set, and the lens of each view."""

    lenses: tuple[Lens, ...]
    of_view: tuple[int, ...]  # the lens of each view
    focal_of_two: bool = False  # two views adjust a shared focal length, which they determine poorly
    facings: tuple[Facing | None, ...] = ()  # of each view: the views of one 360° picture form a rig; () = none

    @property
    def fixed(self) -> set[int]:
        """Numbers in pycolmap (one more than here) of the known lenses."""
        return {k + 1 for k, lens in enumerate(self.lenses) if lens.fixed}

    @property
    def views_each(self) -> list[int]:
        """How many views each lens has."""
        return np.bincount(self.of_view, minlength=len(self.lenses)).tolist()

    def cameras(self) -> list:
        """Each view's lens as a pycolmap.Camera."""
        return [self.lenses[k].camera(i + 1) for i, k in enumerate(self.of_view)]

    def each_its_own(self) -> Lenses:
        """The same with one lens per view, except known ones."""
        lenses: list[Lens] = []
        of_view: list[int] = []
        kept: dict[int, int] = {}
        for k in self.of_view:
            if not (self.lenses[k].fixed and k in kept):
                kept[k] = len(lenses)
                lenses.append(self.lenses[k])
            of_view.append(kept[k])
        return replace(self, lenses=tuple(lenses), of_view=tuple(of_view))

    def adjusted(self, model) -> Lenses:
        """With the parameters of a pycolmap model of these lenses."""
        found = tuple(
            replace(lens, params=tuple(float(p) for p in model.camera(k + 1).params))
            if k + 1 in model.cameras
            else lens
            for k, lens in enumerate(self.lenses)
        )
        return replace(self, lenses=found)


def start_lenses(views: Sequence[View], sizes: Sequence[tuple[int, int]], config: RefineConfig) -> Lenses:
    """One pinhole for all pictures of one camera: equal size and `config.lens_keys`. One per picture if the predicted
    focal lengths indicate a zoom, or with `config.intrinsics` "per-image"; never with "shared".
    """
    focal = [_focal(view, size) for view, size in zip(views, sizes, strict=True)]
    keys: list[tuple] = []
    for i, size in enumerate(sizes):
        known = i in config.fixed_focal
        own = config.intrinsics == "per-image" and not known
        label: tuple = (config.lens_keys[i] if config.lens_keys else "",)
        facing = views[i].facing
        if facing is not None:  # the sensors of a rig need different cameras
            label = (*label, facing.number)
        keys.append((size, label, i if own else -1, focal[i] if known else None))
    groups = {key: [i for i, other in enumerate(keys) if other == key] for key in dict.fromkeys(keys)}
    lenses: list[Lens] = []
    of_view = [0] * len(views)
    for key, members in groups.items():
        zoomed = _zoomed([focal[i] for i in members]) and config.intrinsics != "shared"
        for part in [[i] for i in members] if zoomed else [members]:
            for i in part:
                of_view[i] = len(lenses)
            lens = _pinhole([focal[i] for i in part], key[0], key[3] is not None)
            asked = DISTORTED.get(config.camera_model)
            lenses.append(lens if asked is None or lens.fixed else lens.bending(asked))
    facings = tuple(view.facing for view in views)
    return Lenses(tuple(lenses), tuple(of_view), facings=facings if any(facings) else ())


def known_lenses(views: Sequence[View], sizes: Sequence[tuple[int, int]]) -> Lenses:
    """The views' known cameras, with both focal lengths and the principal point."""
    lenses = []
    for view, size in zip(views, sizes, strict=True):
        K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
        lenses.append(Lens("PINHOLE", (K[0, 0], K[1, 1], K[0, 2], K[1, 2]), size, True))
    return Lenses(tuple(lenses), tuple(range(len(views))))


def _focal(view: View, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy at an image size."""
    K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


def _zoomed(focal: Sequence[tuple[float, ...]]) -> bool:
    lengths = np.array([np.sqrt(f[0] * f[1]) for f in focal])
    return float(np.percentile(lengths, 90) / np.percentile(lengths, 10)) > _ZOOM


def _pinhole(focal: Sequence[tuple[float, ...]], size: tuple[int, int], fixed: bool) -> Lens:
    if fixed:
        return Lens("PINHOLE", focal[0], size, True)
    length = float(np.median([np.sqrt(f[0] * f[1]) for f in focal]))
    return Lens("SIMPLE_PINHOLE", (length, size[0] / 2, size[1] / 2), size)
