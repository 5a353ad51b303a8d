"""Bundle adjustment from the predicted cameras: points start on the predicted depth maps, outliers go round by round.

The model lives in pycolmap's Reconstruction; image i of the views has the id i + 1 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..scene import geometry
from ..scene.view import View
from . import matching
from .backend import require_pycolmap
from .config import RefineConfig
from .matching import Matches

# (loss scale, largest reprojection error afterwards), both in thousandths of the image's diagonal; focal lengths free?
_COARSE_ROUNDS = ((40.0, 120.0, False), (15.0, 40.0, True), (5.0, 12.0, True))
_FINE_ROUNDS = 6  # at most, of re-triangulation and adjustment with COLMAP's own rules
_SETTLED = 1e-3  # relative change of a focal length, and turn in radians, below which no further round follows
_PAIR_FALL = 0.03  # of the mean reprojection error of two images, from which they share an adjusted focal length
_COARSE_TRACKS = 4000  # enough for the cameras; the longest tracks are taken
_MIN_COARSE_TRACKS = 16


@dataclass(frozen=True)
class Candidate:
    """A model and what speaks for it."""

    model: object  # pycolmap.Reconstruction
    images: list[int]  # verified views, in order
    observations: int
    path: str  # "bundle adjustment", "incremental mapping" or "given"
    shared: bool = False  # one focal length for all images

    def better_than(self, other: Candidate | None) -> bool:
        """More verified images, then clearly more observations."""
        if other is None or len(self.images) != len(other.images):
            return other is None or len(self.images) > len(other.images)
        return self.observations > 1.1 * other.observations


def from_prediction(views: Sequence[View], matches: Matches, config: RefineConfig) -> Candidate | None:
    """Adjust the predicted cameras of all matched views; None where too few matches or points are left."""
    track, image, keypoint = matching.tracks(matches)
    if not len(track):
        return None
    points, known = matching.start_points(views, matches, track, image, keypoint)
    model = _start_model(views, matches, track, image, keypoint, points, known)
    if model.num_points3D() < _MIN_COARSE_TRACKS:
        return None
    for loss, error, focal in _COARSE_ROUNDS:
        scale = _diagonal(matches) / 1000
        _adjust(model, loss * scale, config, refine_focal=focal and not _few(model))
        _drop_outliers(model, error * scale)
        if model.num_points3D() < _MIN_COARSE_TRACKS:
            return None
    return finish(model, matches, config, "bundle adjustment")


def incremental(matches: Matches, config: RefineConfig) -> Candidate | None:
    """COLMAP's incremental mapping, which needs no start but the focal lengths; None without a model."""
    pycolmap = require_pycolmap()
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 3
    options.random_seed = config.seed
    options.extract_colors = False
    options.triangulation.ignore_two_view_tracks = False
    output = matches.database.parent / "incremental"
    output.mkdir(exist_ok=True)
    folder = matches.database.parent / "images"
    models = pycolmap.incremental_mapping(matches.database, folder, output, options)
    if not models:
        return None
    best = max(models.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    return finish(best, matches, config, "incremental mapping")


def _cameras(model) -> dict[int, tuple[float, np.ndarray]]:
    """Image id -> focal length and rotation of the registered images."""
    registered = [model.image(i) for i in model.reg_image_ids()]
    return {m.image_id: (m.camera.params[0], m.cam_from_world().matrix()[:, :3].copy()) for m in registered}


def _change(before: dict, after: dict) -> float:
    """The largest relative change of a focal length or turn (radians); infinite if an image came."""
    if before.keys() != after.keys():
        return np.inf
    focals = [abs(after[i][0] / before[i][0] - 1) for i in after]
    turns = np.stack([after[i][1] @ before[i][1].T for i in after])  # of the cameras that the gauge leaves free
    return max(*focals, float(geometry.rotation_angle(turns).max()))


def given(views: Sequence[View], matches: Matches, config: RefineConfig) -> Candidate | None:
    """The cameras as they are, with points triangulated from the verified matches; None where there are none."""
    model = _empty_model(views, matches, exact=True)
    model = _triangulate(model, matches, config)
    if model is None or model.num_points3D() == 0:
        return None
    _filter(model, config.max_error, config.min_angle_deg)
    return Candidate(model, list(range(len(views))), model.compute_num_observations(), "given")


def finish(model, matches: Matches, config: RefineConfig, path: str) -> Candidate | None:
    """Re-triangulate and adjust until settled, and keep the images that are verified."""
    for _ in range(_FINE_ROUNDS):
        before = _cameras(model)
        model = _triangulate(model, matches, config)
        if model is None or model.num_points3D() == 0:
            return None
        _adjust(model, 1.0, config, refine_focal=not _few(model))
        _filter(model, config.max_error, config.min_angle_deg)
        if _change(before, _cameras(model)) < _SETTLED:
            break
    _filter(model, config.max_error / 2, config.min_angle_deg)
    _adjust(model, 1.0, config, refine_focal=not _few(model))
    images = verified(model, config)
    if len(images) < 2:
        return None
    observations = sum(model.image(i + 1).num_points3D for i in images)
    return Candidate(model, images, observations, path)


def share_focal(found: Candidate, matches: Matches, config: RefineConfig) -> Candidate:
    """The candidate with one focal length for all images, where they have one size and it explains them as well.

    "As well": the mean reprojection error rises by at most `config.shared_rise`. One length is far better determined
    where the scene is flat or the motion small; a zoom between the images is told by the error. Two images tell no
    focal length each, but one for both: it is taken if the error falls by `_PAIR_FALL`.
    """
    if config.intrinsics == "per-image" or config.fixed_focal or len({matches.sizes[i] for i in found.images}) > 1:
        return found
    model = _with_one_camera(found, matches)
    before = found.model.compute_mean_reprojection_error()
    _adjust(model, 1.0, config, refine_focal=True)
    most = (1 - _PAIR_FALL if _few(model) else 1 + config.shared_rise) * before
    if config.intrinsics == "auto" and model.compute_mean_reprojection_error() > most:
        return found
    return replace(found, model=model, observations=model.compute_num_observations(), shared=True)


def _with_one_camera(found: Candidate, matches: Matches):
    """A copy of the model with the median focal length for all images: verified images and their points."""
    pycolmap = require_pycolmap()
    focal = float(np.median([found.model.image(i + 1).camera.params[0] for i in found.images]))
    size = matches.sizes[found.images[0]]
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(_camera(1, size, [focal, size[0] / 2, size[1] / 2]))
    kept = {i + 1 for i in found.images}
    for i in found.images:
        pose = found.model.image(i + 1).cam_from_world()
        model.add_image_with_trivial_frame(_image(i, 1, matches), pose)
    for point in found.model.points3D.values():
        elements = [e for e in point.track.elements if e.image_id in kept]
        if len(elements) >= 2:
            model.add_point3D(point.xyz, pycolmap.Track(elements))
    model.update_point_3d_errors()
    return model


def verified(model, config: RefineConfig) -> list[int]:
    """Views that see enough points."""
    registered = [i for i in model.images if model.image(i).has_pose]
    return sorted(i - 1 for i in registered if model.image(i).num_points3D >= config.min_observations)


def _few(model) -> bool:
    """Two views do not tell their focal lengths reliably."""
    return model.num_reg_images() < 3


def _diagonal(matches: Matches) -> float:
    return float(np.median([np.hypot(*size) for size in matches.sizes]))


def _empty_model(views: Sequence[View], matches: Matches, exact: bool = False):
    """A Reconstruction of the views' cameras without points; `exact`: with both focal lengths of K."""
    pycolmap = require_pycolmap()
    model = pycolmap.Reconstruction()
    for i, (view, size) in enumerate(zip(views, matches.sizes, strict=True)):
        params = matching.exact_intrinsics(view, size) if exact else matching.start_intrinsics(view, size)
        model.add_camera_with_trivial_rig(_camera(i + 1, size, params))
        pose = pycolmap.Rigid3d(np.asarray(view.cam_from_world))
        model.add_image_with_trivial_frame(_image(i, i + 1, matches), pose)
    return model


def _camera(number: int, size: tuple[int, int], params: Sequence[float]):
    width, height = size
    kind = "SIMPLE_PINHOLE" if len(params) == 3 else "PINHOLE"
    return require_pycolmap().Camera(camera_id=number, model=kind, width=width, height=height, params=params)


def _image(i: int, camera: int, matches: Matches):
    return require_pycolmap().Image(
        name=f"{i:06d}.png", keypoints=matches.keypoints[i], camera_id=camera, image_id=i + 1
    )


def _start_model(views, matches: Matches, track, image, keypoint, points, known):
    """A Reconstruction of the predicted cameras, with the longest tracks as points."""
    pycolmap = require_pycolmap()
    model = _empty_model(views, matches)
    length = np.where(known, np.bincount(track, minlength=len(known)), 0)
    chosen = np.argsort(-length, kind="stable")[:_COARSE_TRACKS]
    bounds = np.searchsorted(track, np.arange(len(known) + 1))
    for t in chosen[length[chosen] > 0].tolist():
        elements = [pycolmap.TrackElement(int(image[o]) + 1, int(keypoint[o])) for o in range(bounds[t], bounds[t + 1])]
        model.add_point3D(points[t], pycolmap.Track(elements))
    return model


def _adjust(model, loss_scale: float, config: RefineConfig, *, refine_focal: bool) -> None:
    """One robust bundle adjustment over all points, in place."""
    pycolmap = require_pycolmap()
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = refine_focal
    options.refine_extra_params = False
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_scale
    options.ceres.solver_options.max_num_iterations = 50
    options.ceres.solver_options.function_tolerance = 1e-5
    problem = pycolmap.BundleAdjustmentConfig()
    for i in model.reg_image_ids():
        problem.add_image(i)
        if i - 1 in config.fixed_focal:
            problem.set_constant_cam_intrinsics(model.image(i).camera_id)
    problem.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, problem, model).solve()
    model.update_point_3d_errors()


def _drop_outliers(model, max_error: float) -> None:
    pycolmap = require_pycolmap()
    manager = pycolmap.ObservationManager(model)
    manager.filter_observations_with_negative_depth()
    manager.filter_points3D_with_large_reprojection_error(max_error, model.point3D_ids())


def _filter(model, max_error: float, min_angle_deg: float) -> None:
    pycolmap = require_pycolmap()
    manager = pycolmap.ObservationManager(model)
    manager.filter_all_points3D(max_error, min_angle_deg)
    manager.filter_observations_with_negative_depth()


def _triangulate(model, matches: Matches, config: RefineConfig):
    """New points for the current cameras from all verified matches."""
    pycolmap = require_pycolmap()
    options = pycolmap.IncrementalPipelineOptions()
    options.triangulation.ignore_two_view_tracks = False
    options.triangulation.min_angle = config.min_angle_deg
    options.random_seed = config.seed
    options.extract_colors = False
    output = matches.database.parent / "triangulated"
    output.mkdir(exist_ok=True)
    folder = matches.database.parent / "images"
    return pycolmap.triangulate_points(model, matches.database, folder, output, True, options)
