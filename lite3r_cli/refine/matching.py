"""Local features, their matches, and the tracks that they join into: SIFT with geometric verification, by pycolmap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import OutputError
from ..scene import geometry
from ..scene.consistency import VoterMap, best_neighbours
from ..scene.view import View
from .backend import require_pycolmap
from .config import RefineConfig

ReadImage = Callable[[int], np.ndarray]  # index -> (H, W, 3) uint8
ReadMask = Callable[[int], np.ndarray | None]  # index -> (H, W) bool, True = use


@dataclass(frozen=True)
class Matches:
    """Keypoints and verified matches of S images; image i has the id i + 1 in the database."""

    database: Path
    sizes: list[tuple[int, int]]  # (width, height) at which the keypoints were found
    keypoints: list[np.ndarray]  # per image (N, 2) float64, pixel centres at +0.5
    pairs: dict[tuple[int, int], np.ndarray]  # (i, j) with i < j -> (M, 2) indices of keypoints, geometrically verified


def match(
    views: Sequence[View], read_rgb: ReadImage, read_mask: ReadMask | None, folder: Path, config: RefineConfig
) -> Matches:
    """Find and match features of all views; works in `folder`, which has to be empty.

    Pairs: all, or, beyond `config.exhaustive_views`, those whose predicted depth maps overlap most. Raises
    BackendError without pycolmap, OutputError when the folder cannot be written.
    """
    pycolmap = require_pycolmap()
    names = [f"{i:06d}.png" for i in range(len(views))]
    sizes = [_write_image(folder, name, i, read_rgb, read_mask, config) for i, name in enumerate(names)]
    database = folder / "features.db"
    extraction = pycolmap.FeatureExtractionOptions()
    extraction.max_image_size = config.feature_size
    extraction.sift.max_num_features = config.max_features
    reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
    masks = folder / "masks"
    if masks.is_dir():
        reader.mask_path = masks
    per_image = pycolmap.CameraMode.PER_IMAGE
    # importing first fixes the order of the ids, which the extractor's threads would leave to chance
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, folder / "images", per_image, names, reader)
    pycolmap.extract_features(
        database, folder / "images", image_names=names, camera_mode=per_image,
        reader_options=reader, extraction_options=extraction, device=pycolmap.Device.cpu,
    )  # fmt: skip
    _set_cameras(pycolmap, database, names, views, sizes)
    _match_pairs(pycolmap, database, folder, names, views, config)
    return _read(pycolmap, database, names, sizes)


def start_intrinsics(view: View, size: tuple[int, int]) -> list[float]:
    """Focal length and principal point of the view at an image size; one length, as photographs have square pixels."""
    K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
    return [float(np.sqrt(K[0, 0] * K[1, 1])), float(K[0, 2]), float(K[1, 2])]


def exact_intrinsics(view: View, size: tuple[int, int]) -> list[float]:
    """Both focal lengths and the principal point of the view at an image size: for cameras that are known."""
    K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
    return [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])]


def _write_image(
    folder: Path, name: str, i: int, read_rgb: ReadImage, read_mask: ReadMask | None, config: RefineConfig
) -> tuple[int, int]:
    """Image i as pycolmap shall read it: orientation applied, bounded in size, an ASCII name; returns its size."""
    rgb = read_rgb(i)
    scale = min(1.0, config.feature_size / max(rgb.shape[:2]))
    size = tuple(max(1, round(n * scale)) for n in rgb.shape[1::-1])
    if scale < 1:
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    _write_png(folder / "images" / name, rgb[..., ::-1])
    mask = read_mask(i) if read_mask is not None else None
    if mask is not None:
        small = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
        _write_png(folder / "masks" / f"{name}.png", small)
    return size


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    if not cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OutputError(f"{path}: cannot be written; free space in the temporary folder")


def _set_cameras(pycolmap, database: Path, names: Sequence[str], views: Sequence[View], sizes) -> None:
    """The views' intrinsics serve the verification as a prior; image ids follow the order of `views`."""
    with pycolmap.Database.open(database) as db:
        for name, view, size in zip(names, views, sizes, strict=True):
            camera = db.read_camera(db.read_image_with_name(name).camera_id)
            camera.params = start_intrinsics(view, size)
            camera.has_prior_focal_length = True
            db.update_camera(camera)


def _match_pairs(pycolmap, database: Path, folder: Path, names, views: Sequence[View], config: RefineConfig) -> None:
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = config.seed
    options = {"verification_options": verification, "device": pycolmap.Device.cpu}
    if len(views) <= config.exhaustive_views:
        pycolmap.match_exhaustive(database, **options)
        return
    path = folder / "pairs.txt"
    path.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in overlapping_pairs(views, config.pair_neighbours)))
    pairing = pycolmap.ImportedPairingOptions()
    pairing.match_list_path = path
    pycolmap.match_image_pairs(database, pairing_options=pairing, **options)


def overlapping_pairs(views: Sequence[View], count: int) -> list[tuple[int, int]]:
    """Pairs i < j worth matching: of each view the `count` others that see most of its surface, and the next view."""
    voters = [VoterMap(view, view.depth > 0) for view in views]
    chosen = {tuple(sorted((i, j))) for i, others in enumerate(best_neighbours(voters, count)) for j in others}
    chosen |= {(i, i + 1) for i in range(len(views) - 1)}
    return sorted(chosen)


def _read(pycolmap, database: Path, names: Sequence[str], sizes: list[tuple[int, int]]) -> Matches:
    with pycolmap.Database.open(database) as db:
        ids = [db.read_image_with_name(name).image_id for name in names]
        index = {image_id: i for i, image_id in enumerate(ids)}
        keypoints = [np.asarray(db.read_keypoints(k), np.float64)[:, :2].reshape(-1, 2) for k in ids]
        pairs = {}
        for pair_id, found in zip(*db.read_two_view_geometries(), strict=True):
            i, j = (index[k] for k in pycolmap.pair_id_to_image_pair(pair_id))
            inliers = np.asarray(found.inlier_matches, np.int64).reshape(-1, 2)
            if len(inliers):
                pairs[min(i, j), max(i, j)] = inliers if i < j else inliers[:, ::-1]
    return Matches(database, sizes, keypoints, pairs)


def tracks(matches: Matches, chosen: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join matches into tracks: (O,) track number, (O,) image, (O,) keypoint of every observation, by track.

    A track with two keypoints in one image is dropped as a whole: at least one of its matches is wrong.
    """
    counts = [len(k) for k in matches.keypoints]
    offset = np.concatenate([[0], np.cumsum(counts)])
    usable = None if chosen is None else set(chosen)
    edges = [
        np.stack([pairs[:, 0] + offset[i], pairs[:, 1] + offset[j]])
        for (i, j), pairs in matches.pairs.items()
        if usable is None or (i in usable and j in usable)
    ]
    if not edges:
        return (np.zeros(0, np.int64),) * 3
    a, b = np.concatenate(edges, axis=1)
    root = _components(a, b, int(offset[-1]))
    members = np.unique(np.concatenate([a, b]))
    members = members[np.argsort(root[members], kind="stable")]
    track = np.unique(root[members], return_inverse=True)[1]
    image = np.searchsorted(offset, members, side="right") - 1
    seen = np.unique(np.stack([track, image]), axis=1)[0]
    clean = np.bincount(seen) == np.bincount(track)
    keep = clean[track]
    number = np.cumsum(clean) - 1
    return number[track[keep]], image[keep], (members - offset[image])[keep]


def _components(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """The smallest member of each node's component: labels spread along the edges until nothing changes."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[a], label[b])
        before = label.copy()
        np.minimum.at(label, a, low)
        np.minimum.at(label, b, low)
        label = label[label]
        if np.array_equal(before, label):
            return label


def sample_depth(view: View, keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The view's depth (N,) at keypoints (N, 2) of its image at `size`; 0 where unknown."""
    height, width = view.depth.shape
    column, row = (keypoints * np.array([width / size[0], height / size[1]])).astype(np.int64).T
    return view.depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def start_points(views: Sequence[View], matches: Matches, track, image, keypoint) -> tuple[np.ndarray, np.ndarray]:
    """World points (T, 3) of the tracks, from the predicted depth maps, and which are known (T,) bool.

    The mean over a track's observations: no parallax is needed, and poses may be degrees off.
    """
    count = int(track.max()) + 1 if len(track) else 0
    total, known = np.zeros((count, 3)), np.zeros(count)
    for i, view in enumerate(views):
        mine = np.flatnonzero(image == i)
        pixels = matches.keypoints[i][keypoint[mine]]
        depth = sample_depth(view, pixels, matches.sizes[i])
        K = geometry.scale_intrinsics(view.K, matches.sizes[i][0] / view.width, matches.sizes[i][1] / view.height)
        points = geometry.unproject_pixels(pixels, depth, K, view.cam_from_world)[depth > 0]
        np.add.at(total, track[mine[depth > 0]], points)
        np.add.at(known, track[mine[depth > 0]], 1)
    return total / np.maximum(known, 1)[:, None], known > 0
