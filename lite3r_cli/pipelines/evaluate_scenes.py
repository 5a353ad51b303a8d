"""Scores a network's predictions on scenes with ground truth, window by window.

The images of a scene, in natural order, are split into windows of `views` consecutive images that overlap by half; the
last one ends at the last image. Each window is predicted separately. Within a scene, errors of all pairs of all windows
are pooled for AUCs and medians, errors of all views for the focal length. Depth and cloud measures use one scale per
window and are means over windows. Scenes have equal weight in the mean.

True depth maps are never resampled: predicted depth is resized bilinearly to their size. Clouds are compared in the
frame of a window's first camera, at the window's scale, on the same random pixels with ground truth.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..config import EvaluateConfig, PredictConfig
from ..console import Progress, Tell
from ..errors import InputError, UsageError
from ..io.cameras_json import read_cameras_json
from ..io.images import ImageSet, discover
from ..io.names import leads_out, printable
from ..scene import geometry, metrics
from ..scene.posed_view import View, known_depth
from ..world.undistort import UndistortedImages, Undistortion

if TYPE_CHECKING:
    from .predict import Predictor

PredictWindow = Callable[[ImageSet, Sequence[int]], Sequence[View]]  # the views of images[indices], in that order

NO_DIRECTION = 1e-6  # true baselines below this share of the scene's extent have no reliable direction
CHAMFER_POINTS = 50_000  # points per cloud and window
_MEDIAN_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Scores:
    """The measures of a scene; None without ground truth."""

    auc5: float | None = None  # 0..1
    auc15: float | None = None
    auc30: float | None = None
    rotation_deg: float | None = None
    translation_deg: float | None = None
    focal_pct: float | None = None
    absrel: float | None = None
    delta1: float | None = None  # share of pixels within a factor of 1.25
    chamfer_pct: float | None = None  # of the scene's median depth


@dataclass(frozen=True)
class Evaluation:
    """Scores per scene, and their mean over the scenes that have them."""

    scenes: dict[str, Scores]
    mean: Scores
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)  # device, precision, attention: choice and reason


@dataclass(frozen=True)
class Scene:
    """A scene to score: its ground truth, and its pictures in natural order."""

    folder: Path
    images: ImageSet
    indices: list[int]  # view i of cameras.json is images.records[indices[i]]


def evaluate(
    config: EvaluateConfig,
    progress: Progress | None = None,
    warn: Tell = lambda text: None,
    predict: PredictWindow | None = None,
) -> Evaluation:
    """Score every scene of `config`; `predict` replaces the network in tests.

    All scenes are opened before the network is loaded. Raises InputError for an invalid scene.
    """
    progress = progress or Progress()
    scenes = [open_scene(folder, warn) for folder in config.scenes]
    network: Predictor | None = None
    if predict is None:
        network = _network(config.predict, progress)
        predict = partial(_predict, network)
    scores: dict[str, Scores] = {}
    for name, scene in zip(scene_names(config.scenes), scenes, strict=True):
        truth = read_cameras_json(scene.folder)
        parts = windows(len(truth), config.views)
        tally = Tally(truth)
        with progress.stage(name, total=len(parts)) as step:
            for part in parts:
                tally.add([truth[i] for i in part], predict(scene.images, [scene.indices[i] for i in part]))
                step()
        scores[name] = tally.scores()
    return Evaluation(scores, mean_scores(list(scores.values())), network.choices() if network else {})


def _predict(network: Predictor, images: ImageSet, indices: Sequence[int]) -> Sequence[View]:
    return network.predict(images, indices=indices, strict=True).views


def windows(count: int, size: int) -> list[range]:
    """All windows of `size` consecutive numbers below `count`, size // 2 apart; the last one ends at `count`.

    If `count` is at most `size`, there is one window.
    """
    if count <= size:
        return [range(count)]
    starts = list(range(0, count - size + 1, max(1, size // 2)))
    if starts[-1] != count - size:
        starts.append(count - size)
    return [range(start, start + size) for start in starts]


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """The mean of every measure over the scenes that have it."""
    means = {}
    for measure in fields(Scores):
        values = [value for value in (getattr(score, measure.name) for score in scores) if value is not None]
        means[measure.name] = float(np.mean(values)) if values else None
    return Scores(**means)


# --- scenes -----------------------------------------------------------------------------------------------------------


def open_scene(folder: Path, warn: Tell = lambda text: None) -> Scene:
    """Check cameras.json and the pictures of a scene, without decoding pictures and depth maps.

    Raises UsageError for a path that does not exist, InputError for missing or malformed content.
    """
    if not folder.exists():
        raise UsageError(f"{folder}: no such folder; a scene is a folder with cameras.json and images/")
    if not (folder / "cameras.json").is_file():
        raise InputError(f"{folder}: no cameras.json in it; a scene is a folder with cameras.json and images/")
    views = read_cameras_json(folder, load_depth=False)
    outside = [view.name for view in views if leads_out(view.name)]
    if outside:
        raise InputError(f"{folder / 'cameras.json'}: {printable(outside[0])[:80]} is an image outside of images/")
    paths = [folder / "images" / view.name for view in views]
    for path in paths:
        if not os.path.isfile(path):  # false, not an error, for a name that no file can have
            raise InputError(
                f"{printable(path)[:300]}: missing, but {folder / 'cameras.json'} lists it: "
                "restore it or remove its entry"
            )
    images = discover(paths, strict=True)
    for text in images.warnings:
        warn(text)
    position = {record.path: index for index, record in enumerate(images.records)}
    for path, view in zip(paths, views, strict=True):
        record = images.records[position[path]]
        if (record.width, record.height) != (view.width, view.height):
            raise InputError(
                f"{path}: has {record.width}x{record.height} pixels, but {folder / 'cameras.json'} says "
                f"{view.width}x{view.height}: correct width, height and K"
            )
    lenses = {
        images.records[position[path]].name: Undistortion(view.lens)
        for path, view in zip(paths, views, strict=True)
        if view.lens is not None
    }
    return Scene(folder, UndistortedImages.through(images, lenses), [position[path] for path in paths])


def scene_names(folders: Sequence[Path]) -> list[str]:
    """A name for each scene: that of its folder, or the given path if two folders have the same name. Raises
    UsageError.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a scene is named twice: name each once")
    short = [folder.resolve().name or str(folder) for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)]


def _network(config: PredictConfig, progress: Progress) -> Predictor:
    from .predict import Predictor

    return Predictor(config, progress)


# --- scoring ----------------------------------------------------------------------------------------------------------


class DepthErrors(NamedTuple):
    """Errors of depth maps and of their clouds; None: no true depth."""

    absrel: float | None
    delta1: float | None  # share of pixels within a factor of 1.25
    accuracy: float | None  # mean distance of the predicted cloud from the true one
    completeness: float | None  # mean distance of the true cloud from the predicted one


@dataclass
class Tally:
    """The errors of a scene's windows: `add` each window, then call `scores`."""

    truth: Sequence[View]  # of the whole scene
    clouds: bool = True  # whether clouds are compared, which takes most of the time
    rotation: list[np.ndarray] = field(default_factory=list)  # per window (P,)
    translation: list[np.ndarray] = field(default_factory=list)
    larger: list[np.ndarray] = field(default_factory=list)
    focal: list[np.ndarray] = field(default_factory=list)  # per window (S,)
    depth: list[DepthErrors] = field(default_factory=list)  # per window

    def __post_init__(self) -> None:
        self.median_depth = _median_depth(self.truth)
        centres = geometry.camera_centres(np.stack([view.cam_from_world for view in self.truth]))
        extent = max(float(np.linalg.norm(np.ptp(centres, axis=0))), self.median_depth or 0.0)
        self.min_baseline = NO_DIRECTION * extent

    def add(self, truth: Sequence[View], predicted: Sequence[View]) -> None:
        """Compare the predictions of one window with the truth for the same images."""
        if len(truth) != len(predicted):
            raise ValueError(f"{len(predicted)} predictions for {len(truth)} images")
        poses, true_poses = (np.stack([view.cam_from_world for view in views]) for views in (predicted, truth))
        errors = metrics.pair_errors(poses, true_poses, self.min_baseline)
        self.rotation.append(errors.rotation)
        self.translation.append(errors.translation)
        self.larger.append(errors.larger)
        K, true_K = (np.stack([view.K for view in views]) for views in (predicted, truth))
        self.focal.append(metrics.focal_error(K, true_K))
        if any(view.depth is not None and (view.depth > 0).any() for view in truth):
            frames = (geometry.rebase(poses), geometry.rebase(true_poses)) if self.clouds else None
            self.depth.append(_compare_depth(truth, predicted, frames))

    def scores(self) -> Scores:
        """The measures of the scene over all added windows."""
        larger = np.concatenate(self.larger)
        found = self.depth_errors()
        accuracy, completeness = found.accuracy, found.completeness
        auc5, auc15, auc30 = (metrics.auc(larger, threshold) if len(larger) else None for threshold in (5, 15, 30))
        return Scores(
            auc5,
            auc15,
            auc30,
            rotation_deg=_known(np.median, np.concatenate(self.rotation)),
            translation_deg=_known(np.median, np.concatenate(self.translation)),
            focal_pct=_known(np.median, np.concatenate(self.focal)),
            absrel=found.absrel,
            delta1=found.delta1,
            chamfer_pct=None if accuracy is None or completeness is None else (accuracy + completeness) / 2,
        )

    def depth_errors(self) -> DepthErrors:
        """Means over the windows with true depth; distances in per cent of the scene's median depth."""
        columns = np.array(self.depth or [DepthErrors(*(np.nan,) * 4)], np.float64).T
        columns[2:] *= 100 / self.median_depth if self.median_depth else 1.0
        return DepthErrors(*(_known(np.mean, column) for column in columns))


def _known(average: Callable[[np.ndarray], float], values: np.ndarray) -> float | None:
    """The average of the values that are not NaN; None if there is none."""
    values = values[~np.isnan(values)]
    return float(average(values)) if len(values) else None


def _median_depth(views: Sequence[View]) -> float | None:
    """The median of the true depths of a scene, from at most about a million of them."""
    known = [view.depth[view.depth > 0] for view in views if view.depth is not None]
    stride = max(1, sum(map(len, known)) // _MEDIAN_SAMPLES)
    sample = np.concatenate([values[::stride] for values in known]) if known else np.zeros(0)
    return float(np.median(sample)) if len(sample) else None


def _compare_depth(
    truth: Sequence[View], predicted: Sequence[View], frames: tuple[np.ndarray, np.ndarray] | None
) -> DepthErrors:
    """The errors of a window with one scale for all of its depth maps; distances in true units. `frames`: predicted and
    true poses in the frame of the first camera; None: clouds are not compared.
    """
    maps = {i: view.depth for i, view in enumerate(truth) if view.depth is not None and (view.depth > 0).any()}
    judged, known = list(maps), [depth > 0 for depth in maps.values()]
    true_depth = [maps[i][mask] for i, mask in zip(judged, known, strict=True)]  # per view (N,)
    depth = [metrics.resample_depth(known_depth(predicted[i]), m.shape)[m] for i, m in zip(judged, known, strict=True)]
    scale = metrics.depth_scale(np.concatenate(depth), np.concatenate(true_depth))
    absrel, delta = metrics.depth_errors(scale * np.concatenate(depth), np.concatenate(true_depth))
    if frames is None:
        return DepthErrors(absrel, delta, np.nan, np.nan)

    (poses, true_poses), cloud, true_cloud = frames, [], []
    for k, chosen in enumerate(_draw([len(z) for z in depth])):
        i, (height, width) = judged[k], known[k].shape
        flat = np.flatnonzero(known[k])[chosen]
        pixels = np.stack([flat % width, flat // width], axis=1) + 0.5
        z, true_z = depth[k][chosen], true_depth[k][chosen]
        K, true_K = (_map_intrinsics(view, (height, width)) for view in (predicted[i], truth[i]))
        cloud.append(scale * geometry.unproject_pixels(pixels, z, K, poses[i])[z > 0])
        true_cloud.append(geometry.unproject_pixels(pixels, true_z, true_K, true_poses[i]))
    return DepthErrors(absrel, delta, *metrics.accuracy_completeness(np.concatenate(cloud), np.concatenate(true_cloud)))


def _draw(counts: Sequence[int]) -> list[np.ndarray]:
    """Indices of the pixels of each view that enter the clouds: all, or a reproducible random share of
    CHAMFER_POINTS.
    """
    share = CHAMFER_POINTS / sum(counts)
    if share >= 1:
        return [np.arange(count) for count in counts]
    rng = np.random.default_rng(0)
    return [np.sort(rng.integers(0, count, int(np.ceil(share * count)))) for count in counts]


def _map_intrinsics(view: View, shape: tuple[int, int]) -> np.ndarray:
    """K of a map (h, w) that covers the view's image."""
    return geometry.scale_intrinsics(view.K, shape[1] / view.width, shape[0] / view.height)


def as_rows(evaluation: Evaluation) -> list[tuple[str, tuple[float | None, ...]]]:
    """Name and measures of each scene, and of the mean where there are several."""
    rows = [(name, astuple(scores)) for name, scores in evaluation.scenes.items()]
    return rows + [("mean", astuple(evaluation.mean))] if len(rows) > 1 else rows
