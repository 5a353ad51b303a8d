"""Matches of local features, and the two-view geometry of matched pictures.

Order and seeds are fixed per pair, so the result does not depend on the timing of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View
from .backend import require_pycolmap
from .descriptors import Described, Pair, match_pairs
from .early import NOTHING_BEGUN, EarlyMatches
from .keypoints import Features, ReadImage, ReadMask, extract_all
from .mirrored import mirror_images
from .pairing import choose_pairs
from .refine_config import RefineConfig

# Samples of a pair at most, enough with 37 % inliers. Ten thousand take nearly twice the time on look-alike facades,
# and find geometries by chance: of 101 pairs of a courtyard three, with 15 or 16 of 40 matches.
_TRIALS = 3000
_THREADS = 4  # that verify pairs; the answer is the same with any number


@dataclass(frozen=True)
class TwoView:
    """The matches of two pictures that agree with one geometry."""

    matches: np.ndarray  # (M, 2) int64, indices of keypoints
    second_from_first: np.ndarray | None  # (3, 4), |t| = 1 or 0; None if the matches do not determine it
    kind: int  # of pycolmap.TwoViewGeometryConfiguration

    def __len__(self) -> int:
        return len(self.matches)


@dataclass(frozen=True)
class Matches:
    """Keypoints and verified matches of S pictures."""

    sizes: list[tuple[int, int]]  # (width, height) at which the keypoints were found
    keypoints: list[np.ndarray]  # per picture (N, 2) float64, pixel centres at +0.5
    pairs: dict[Pair, TwoView]  # geometrically verified, sorted
    folder: Path  # for what pycolmap reads and writes
    raw: dict[Pair, np.ndarray] = field(default_factory=dict)  # (M, 2) of each pair, before verification
    mirrored: tuple[int, ...] = ()  # pictures that are mirror images: in no pair


def match(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None,
    folder: Path,
    config: RefineConfig,
    step: Callable[[], None] = lambda: None,
    early: EarlyMatches | None = None,
) -> Matches:
    """Find and match features of all views in the empty folder `folder`. `step` is called after each view. `early` has
    begun to find them.

    Raises BackendError without pycolmap.
    """
    begun = NOTHING_BEGUN if early is None else early.end()
    features = extract_all(len(views), read_rgb, read_mask, config, step, begun.features)
    pairs = choose_pairs(features, views, config) if begun.pairs is None else begun.pairs
    mirrored = tuple(mirror_images(features, None if len(views) <= config.exhaustive_views else pairs))
    found = match_features(features, [pair for pair in pairs if not set(pair) & set(mirrored)], begun.matches)
    unverified = Matches([f.size for f in features], [f.points for f in features], {}, folder, found, mirrored)
    return verified(unverified, predicted_cameras(views, unverified.sizes), config)


def match_features(
    features: Sequence[Features], pairs: Sequence[Pair], known: Mapping[Pair, np.ndarray]
) -> dict[Pair, np.ndarray]:
    """Mutual nearest neighbours that pass the ratio test: (M, 2) int64 indices of keypoints for every pair. The
    descriptors of `known` pairs have been matched before.
    """
    same = [_first_at_place(item.points) for item in features]
    left = [pair for pair in pairs if pair not in known]
    new = match_pairs([Described(item.descriptors) for item in features], left)
    found = {**known, **dict(zip(left, new, strict=True))}
    return {
        (i, j): np.unique(np.stack([same[i][found[i, j][:, 0]], same[j][found[i, j][:, 1]]], axis=1), axis=0)
        for i, j in pairs
    }


def _first_at_place(points: np.ndarray) -> np.ndarray:
    """For each keypoint (N, 2) the first one at the same place (N,): SIFT repeats a keypoint for each orientation."""
    _, first, inverse = np.unique(points, axis=0, return_index=True, return_inverse=True)
    return first[inverse.ravel()]


def write_picture(database, i: int, camera, points: np.ndarray, new_camera: bool) -> None:
    """Write picture i with its keypoints into a pycolmap database, under the number i + 1."""
    pycolmap = require_pycolmap()
    if new_camera:
        database.write_camera(camera, use_camera_id=True)
        rig = pycolmap.Rig(rig_id=camera.camera_id)
        rig.add_ref_sensor(camera.sensor_id)
        database.write_rig(rig, use_rig_id=True)
    image = pycolmap.Image(name=f"{i:06d}", camera_id=camera.camera_id, image_id=i + 1)
    database.write_image(image, use_image_id=True)
    frame = pycolmap.Frame(frame_id=i + 1, rig_id=camera.camera_id)
    frame.add_data_id(image.data_id)
    database.write_frame(frame, use_frame_id=True)
    database.write_keypoints(i + 1, np.ascontiguousarray(points, np.float32))


def predicted_cameras(views: Sequence[View], sizes: Sequence[tuple[int, int]]) -> list:
    """The views' cameras at the size of the features, with their focal lengths as a prior."""
    pycolmap = require_pycolmap()
    cameras = []
    for i, (size, view) in enumerate(zip(sizes, views, strict=True)):
        camera = pycolmap.Camera(
            camera_id=i + 1, model="SIMPLE_PINHOLE", width=size[0], height=size[1],
            params=start_intrinsics(view, size),
        )  # fmt: skip
        camera.has_prior_focal_length = True
        cameras.append(camera)
    return cameras


def verified(matches: Matches, cameras: Sequence, config: RefineConfig) -> Matches:
    """The geometrically verified matches of each pair for these cameras (pycolmap.Camera) of the pictures. Every pair
    has its own seed.
    """
    pycolmap = require_pycolmap()
    found = matches.raw

    def one(pair: Pair) -> TwoView | None:
        i, j = pair
        options = pycolmap.TwoViewGeometryOptions(compute_relative_pose=True)
        options.min_num_inliers = config.min_matches
        options.ransac.max_num_trials = _TRIALS
        options.ransac.random_seed = (config.seed + 1_000_003 * i + j) % 2**31
        geometry_found = pycolmap.estimate_two_view_geometry(
            cameras[i], matches.keypoints[i], cameras[j], matches.keypoints[j], found[pair].astype(np.uint32), options
        )
        return _two_view(geometry_found, config)

    numbers = sorted(pair for pair in found if len(found[pair]) >= config.min_matches)
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(one, numbers))
    pairs = {pair: result for pair, result in zip(numbers, results, strict=True) if result is not None}
    return replace(matches, pairs=pairs)


def _two_view(found, config: RefineConfig) -> TwoView | None:
    inliers = np.asarray(found.inlier_matches, np.int64).reshape(-1, 2)
    if len(inliers) < config.min_matches:
        return None
    pose = found.cam2_from_cam1
    matrix = None if pose is None else np.asarray(pose.matrix(), np.float64)
    return TwoView(inliers, matrix if matrix is not None and np.isfinite(matrix).all() else None, int(found.config))


def start_intrinsics(view: View, size: tuple[int, int]) -> list[float]:
    """Focal length and principal point of the view at an image size; one focal length, because photographs have square
    pixels.
    """
    K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
    return [float(np.sqrt(K[0, 0] * K[1, 1])), float(K[0, 2]), float(K[1, 2])]
