"""Step one of the refinement: cameras by bundle adjustment, and what was decided for each image."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..scene import geometry
from ..scene.sparse_points import SparseModel
from ..scene.view import View
from . import bundle, matching, merge
from .config import RefineConfig
from .matching import Matches, ReadImage, ReadMask

REFINED, KEPT, GIVEN = "refined", "kept", "given"


@dataclass(frozen=True)
class Verdict:
    """What became of one image's camera."""

    cameras: str  # REFINED, KEPT or GIVEN
    reason: str
    observations: int = 0  # sparse points that it sees


@dataclass(frozen=True)
class RefinedCameras:
    """Views with the better cameras, in the frame of the first one."""

    views: list[View]
    sparse: SparseModel | None
    verdicts: list[Verdict]

    @property
    def trusted(self) -> list[int]:
        """The views whose cameras were verified or given."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.cameras != KEPT]


def refine_cameras(
    views: Sequence[View], read_rgb: ReadImage, read_mask: ReadMask | None, config: RefineConfig
) -> RefinedCameras:
    """Adjust the cameras of all views that can be verified; the others keep the predicted ones, moved along.

    Incremental mapping is tried, too, where the adjustment explains too few of the matches; the better answer is
    taken. Raises BackendError without pycolmap.
    """
    if len(views) < 2:
        return unchanged(views, "one image only")
    with tempfile.TemporaryDirectory(prefix="lite3r-") as folder:
        matches = matching.match(views, read_rgb, read_mask, Path(folder), config)
        if not matches.pairs:
            return unchanged(views, "no verified matches with another image")
        best = _best_candidate(views, matches, config)
    if best is None:
        return unchanged(views, "its matches fit no camera with enough parallax")
    best = _without_contradictions(views, best, config)
    if len(best.images) < 2:
        return unchanged(views, "its few matches contradict the predicted cameras")
    return _merge(views, read_rgb, matches, bundle.share_focal(best, matches, config))


def _best_candidate(views: Sequence[View], matches: Matches, config: RefineConfig) -> bundle.Candidate | None:
    best = bundle.from_prediction(views, matches, config)
    if _explained(best, matches, len(views)) < config.explained:
        other = bundle.incremental(matches, config)
        if other is not None and other.better_than(best):
            best = other
    return best


def _without_contradictions(views: Sequence[View], found: bundle.Candidate, config: RefineConfig) -> bundle.Candidate:
    """The candidate without images whose cameras rest on few points and are far from the predicted ones.

    Far: the relative rotation or the direction to half of the other images differs by more than
    `config.contradiction_deg`. A network errs that much, too, but then enough matches say so.
    """
    chosen = found.images
    poses = np.stack([found.model.image(i + 1).cam_from_world().matrix() for i in chosen])
    predicted = np.stack([views[i].cam_from_world for i in chosen])
    few = [found.model.image(i + 1).num_points3D < config.firm_observations for i in chosen]
    kept = []
    for k, i in enumerate(chosen):
        others = [j for j in range(len(chosen)) if j != k]
        relative, before = (geometry.relative_pose(p[others], p[k]) for p in (poses, predicted))
        turn = geometry.rotation_angle(relative[:, :, :3] @ np.swapaxes(before[:, :, :3], 1, 2))
        swing = geometry.vector_angle(relative[:, :, 3], before[:, :, 3])
        if not few[k] or np.degrees(np.median(np.maximum(turn, swing))) <= config.contradiction_deg:
            kept.append(i)
    return replace(found, images=kept)


def triangulate(
    views: Sequence[View], read_rgb: ReadImage, read_mask: ReadMask | None, config: RefineConfig
) -> RefinedCameras:
    """Sparse points for cameras that are known; nothing moves. Raises BackendError without pycolmap."""
    verdicts = [Verdict(GIVEN, "known beforehand")] * len(views)
    if len(views) < 2:
        return RefinedCameras(list(views), None, verdicts)
    with tempfile.TemporaryDirectory(prefix="lite3r-") as folder:
        matches = matching.match(views, read_rgb, read_mask, Path(folder), config)
        found = bundle.given(views, matches, config) if matches.pairs else None
    if found is None:
        return RefinedCameras(list(views), None, verdicts)
    sparse = _sparse_model(views, read_rgb, matches, found)
    seen = np.bincount(sparse.image, minlength=len(views)).tolist()
    verdicts = [replace(verdict, observations=count) for verdict, count in zip(verdicts, seen, strict=True)]
    return RefinedCameras(list(views), sparse, verdicts)


def unchanged(views: Sequence[View], reason: str) -> RefinedCameras:
    """The predicted cameras as they are."""
    return RefinedCameras(list(views), None, [Verdict(KEPT, reason)] * len(views))


def _explained(candidate: bundle.Candidate | None, matches: Matches, count: int) -> float:
    """Share of the matched keypoints that see a point of the model; 0 where an image is missing from it."""
    if candidate is None or len(candidate.images) < count:
        return 0.0
    matched = len(matching.tracks(matches)[0])
    return candidate.observations / max(matched, 1)


def _merge(views: Sequence[View], read_rgb: ReadImage, matches: Matches, best: bundle.Candidate) -> RefinedCameras:
    sparse = _sparse_model(views, read_rgb, matches, best)
    poses = np.stack([view.cam_from_world for view in views])
    for i in best.images:
        poses[i] = best.model.image(i + 1).cam_from_world().matrix()
    similarity = merge.align(views, poses, best.images, sparse)
    poses[best.images] = similarity.apply_to_poses(poses[best.images])
    to_first = geometry.Similarity(1.0, poses[0][:, :3], poses[0][:, 3])
    merged, verdicts = [], []
    seen = np.bincount(sparse.image, minlength=len(views))
    for i, (view, pose) in enumerate(zip(views, geometry.rebase(poses), strict=True)):
        K = view.K
        if i in best.images:
            K = _intrinsics(best.model.image(i + 1).camera, view)
            verdicts.append(Verdict(REFINED, best.path, int(seen[i])))
        else:
            verdicts.append(Verdict(KEPT, "too few of its matches could be verified", int(seen[i])))
        merged.append(replace(view, K=K, cam_from_world=pose))
    return RefinedCameras(merged, sparse.moved(similarity).moved(to_first), verdicts)


def _intrinsics(camera, view: View) -> np.ndarray:
    """K in pixels of the original image."""
    sx, sy = view.width / camera.width, view.height / camera.height
    return geometry.scale_intrinsics(camera.calibration_matrix(), sx, sy)


def _sparse_model(views: Sequence[View], read_rgb: ReadImage, matches: Matches, best: bundle.Candidate) -> SparseModel:
    """Points seen by at least two verified views, with the colour of their first observation."""
    index = {i: k for k, i in enumerate(best.images)}
    points, errors, image, point, keypoint = [], [], [], [], []
    for item in best.model.points3D.values():
        seen = {e.image_id - 1: e.point2D_idx for e in item.track.elements if e.image_id - 1 in index}
        if len(seen) < 2:
            continue
        for i, k in seen.items():
            image.append(i), point.append(len(points)), keypoint.append(k)
        points.append(item.xyz)
        # the features' images may be smaller than the originals, whose pixels the errors are in
        errors.append(item.error * np.mean([views[i].width / matches.sizes[i][0] for i in seen]))
    image, point, keypoint = (np.array(column, np.int64) for column in (image, point, keypoint))
    order = np.lexsort((point, image))
    image, point, keypoint = image[order], point[order], keypoint[order]
    pixel, colors = np.zeros((len(image), 2)), np.zeros((len(points), 3), np.uint8)
    for i in best.images[::-1]:
        mine = image == i
        ratio = np.array([views[i].width / matches.sizes[i][0], views[i].height / matches.sizes[i][1]])
        pixel[mine] = matches.keypoints[i][keypoint[mine]] * ratio
        rgb = read_rgb(i)
        column, row = np.clip(pixel[mine].astype(np.int64), 0, [rgb.shape[1] - 1, rgb.shape[0] - 1]).T
        colors[point[mine]] = rgb[row, column]
    return SparseModel(np.array(points).reshape(-1, 3), colors, np.array(errors), image, point, pixel)
