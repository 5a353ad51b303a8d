"""Camera hypotheses: models made by bundle adjustment from different starts.

From the prediction: points start on the predicted depth maps, and outliers are removed round by round. By incremental
and global mapping: these start only from the focal lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View
from . import observations
from .adjustment import Free, adjust, drop_outliers, drop_weak_points
from .backend import require_pycolmap
from .lens import Lenses
from .mapping import Workshop
from .matching import Matches
from .observations import Tracks
from .refine_config import RefineConfig

PREDICTED, GLOBAL = "bundle adjustment", "global mapping"  # paths of hypotheses; the first starts from the prediction
# (loss scale, largest reprojection error afterwards), both in thousandths of the image diagonal; focal lengths free?
_COARSE_ROUNDS = ((40.0, 120.0, False), (15.0, 40.0, True), (5.0, 12.0, True))
_COARSE_TRACKS = 4000  # enough for the cameras; the longest tracks are used
_MIN_COARSE_TRACKS = 16
_FINE_ROUNDS = 6  # maximum number of rounds of re-triangulation and adjustment
_ROUND_TOLERANCE = 1e-4  # relative decrease of the cost that ends an adjustment; the one after the last round uses 1e-5
_SOME = 2000  # points that tell the usual triangulation angle
_SETTLED = 1e-3  # relative change of a focal length, and rotation in radians, below which no further round follows


@dataclass(frozen=True)
class Hypothesis:
    """Cameras of some or all views, and their origin."""

    path: str  # "bundle adjustment", "incremental mapping", "global mapping" or "given"
    poses: dict[int, np.ndarray]  # view -> cam_from_world (3, 4)
    lenses: Lenses
    model: Any = None  # pycolmap.Reconstruction with points


def from_model(model, lenses: Lenses, path: str) -> Hypothesis:
    """The hypothesis of a pycolmap model with these lenses."""
    poses = {i - 1: model.image(i).cam_from_world().matrix() for i in sorted(model.reg_image_ids())}
    return Hypothesis(path, poses, lenses.adjusted(model), model)


def from_prediction(views: Sequence[View], matches: Matches, used: Tracks, workshop: Workshop) -> Hypothesis | None:
    """Adjust the predicted cameras of all matched views; None if too few matches or points are left."""
    if not used.count:
        return None
    points, known = observations.start_points(views, matches, used, workshop.lenses)
    model = _start_model(views, used, points, known, workshop)
    if model.num_points3D() < _MIN_COARSE_TRACKS:
        return None
    scale = _diagonal(matches) / 1000
    for loss, error, focal in _COARSE_ROUNDS:
        adjust(model, loss * scale, freedom(model, workshop.lenses, focal=focal), tolerance=1e-4)
        drop_outliers(model, error * scale)
        if model.num_points3D() < _MIN_COARSE_TRACKS:
            return None
    return from_model(model, workshop.lenses, PREDICTED)


def usual_angle(found: Hypothesis) -> tuple[float, float]:
    """The median over (at most `_SOME`) points of the largest angle between two of their rays, and the median
    reprojection error as an angle, both in degrees.
    """
    angles, errors = [], []
    centres = {i: -pose[:, :3].T @ pose[:, 3] for i, pose in found.poses.items()}
    numbers = sorted(found.model.point3D_ids())
    for number in numbers[:: len(numbers) // _SOME + 1]:
        point = found.model.point3D(number)
        seen = [element.image_id - 1 for element in point.track.elements]
        rays = point.xyz - np.stack([centres[i] for i in seen])
        rays /= np.maximum(np.linalg.norm(rays, axis=1, keepdims=True), 1e-12)
        angles.append(np.linalg.norm(rays[:, None] - rays[None], axis=2).max())  # chord: nearly the angle
        lens = found.lenses.lenses[found.lenses.of_view[seen[0]]]
        errors.append(point.error / np.mean(lens.of_picture(*lens.size).focal))
    return float(np.degrees(np.median(angles))), float(np.degrees(np.median(errors)))


def incremental(workshop: Workshop) -> Hypothesis | None:
    """COLMAP's incremental mapping; None without a model."""
    models = workshop.incremental()
    return from_model(models[0], workshop.lenses, "incremental mapping") if models else None


def by_global_mapping(workshop: Workshop) -> Hypothesis | None:
    """COLMAP's global mapping; None without a model."""
    models = workshop.globally()
    return from_model(models[0], workshop.lenses, GLOBAL) if models else None


def given(views: Sequence[View], workshop: Workshop, config: RefineConfig) -> Hypothesis | None:
    """The given cameras, with points triangulated from the verified matches; None without points."""
    model = workshop.triangulate(workshop.model({i: view.cam_from_world for i, view in enumerate(views)}))
    if model is None or model.num_points3D() == 0:
        return None
    drop_weak_points(model, config.max_error, config.min_angle_deg)
    return from_model(model, workshop.lenses, "given")


def settle(
    found: Hypothesis, workshop: Workshop, config: RefineConfig, rounds: int = _FINE_ROUNDS
) -> Hypothesis | None:
    """Re-triangulate and adjust until convergence, with the lenses of `workshop`; None if no point is left."""
    model = workshop.model(found.poses)
    for _ in range(rounds):
        before = _cameras(model)
        model = workshop.triangulate(model)
        if model is None or model.num_points3D() == 0:
            return None
        adjust(model, 1.0, freedom(model, workshop.lenses), tolerance=_ROUND_TOLERANCE)
        drop_weak_points(model, config.max_error, config.min_angle_deg)
        if _change(before, _cameras(model)) < _SETTLED:
            break
    drop_weak_points(model, config.max_error / 2, config.min_angle_deg)
    adjust(model, 1.0, freedom(model, workshop.lenses))
    return from_model(model, workshop.lenses, found.path) if model.num_points3D() else None


def freedom(model, lenses: Lenses, focal: bool = True) -> Free:
    """What an adjustment may change. Two views do not determine their focal lengths reliably, see lens_choice."""
    free = focal and (model.num_reg_images() >= 3 or lenses.focal_of_two)
    return Free(
        focal=free,
        distortion=free and any(lens.distorted for lens in lenses.lenses),
        centre=free and not all(lens.centred for lens in lenses.lenses),
        fixed_cameras=lenses.fixed,
    )


def _cameras(model) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Number -> lens parameters and rotation of the images that have a pose."""
    registered = [model.image(i) for i in model.reg_image_ids()]
    return {m.image_id: (np.array(m.camera.params), m.cam_from_world().matrix()[:, :3].copy()) for m in registered}


def _change(before: dict, after: dict) -> float:
    """The largest relative change of a lens parameter or rotation (radians); infinite if an image was added."""
    if before.keys() != after.keys():
        return np.inf
    lenses = max(
        float((np.abs(after[i][0] - before[i][0]) / np.maximum(np.abs(before[i][0]), 0.1)).max()) for i in after
    )
    turns = np.stack([after[i][1] @ before[i][1].T for i in after])  # of the cameras that the gauge does not fix
    return max(lenses, float(geometry.rotation_angle(turns).max()))


def _diagonal(matches: Matches) -> float:
    return float(np.median([np.hypot(*size) for size in matches.sizes]))


def _start_model(views: Sequence[View], used: Tracks, points: np.ndarray, known: np.ndarray, workshop: Workshop):
    """A model of the predicted cameras, with the longest tracks as points."""
    pycolmap = require_pycolmap()
    model = workshop.model({i: view.cam_from_world for i, view in enumerate(views)})
    length = np.where(known, np.bincount(used.track, minlength=len(known)), 0)
    chosen = np.argsort(-length, kind="stable")[:_COARSE_TRACKS]
    bounds = np.searchsorted(used.track, np.arange(len(known) + 1))
    for t in chosen[length[chosen] > 0].tolist():
        observed = range(bounds[t], bounds[t + 1])
        elements = [pycolmap.TrackElement(int(used.image[o]) + 1, int(used.keypoint[o])) for o in observed]
        model.add_point3D(points[t], pycolmap.Track(elements))
    return model
