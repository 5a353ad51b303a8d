"""Step two of the refinement: every verified view's depth map, aligned to the sparse points and swept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from .. import geometry
from ..scene import View
from ..sparse import SparseModel
from .align import align_depth
from .config import RefineConfig
from .confidence import fused_confidence
from .matching import ReadImage
from .photometric import Camera, Swept, sweep

_GOOD_ANGLE = np.radians(6.0)  # of triangulation, from which more does not help
_WIDE_ANGLE = np.radians(35.0)  # beyond, windows look too different
_MIN_SHARED = 8  # points
_MIN_GAIN = 0.0  # of the mean correlation; below, the aligned map stays


@dataclass(frozen=True)
class RefinedDepth:
    """Views with refined depth and confidence; what was done to each one: "swept", "aligned" or "kept"."""

    views: list[View]
    steps: list[str]


def refine_depth(
    views: Sequence[View],
    sparse: SparseModel,
    refined: Sequence[int],
    read_rgb: ReadImage,
    config: RefineConfig,
    device: torch.device,
    step: Callable[[], None] = lambda: None,
) -> RefinedDepth:
    """Refine the depth maps of the views `refined`; the others stay as they are."""
    result, done = list(views), ["kept"] * len(views)
    for i in refined:
        result[i] = replace(views[i], depth=align_depth(views[i], sparse, i))
        done[i] = "aligned"
    others = sweep_neighbours(result, sparse, refined, config.neighbours)
    cameras = {i: _camera(result[i], read_rgb(i), _anchors(result[i], sparse, i), device) for i in refined}
    swept: dict[int, Swept] = {}
    for i in refined:
        if others[i] and bool((cameras[i].depth > 0).any()):
            answer = sweep(cameras[i], [cameras[j] for j in others[i]])
            if float(answer.correlation.mean()) - answer.before > _MIN_GAIN:
                swept[i], done[i] = answer, "swept"
        step()
    for i, answer in swept.items():
        result[i] = replace(result[i], depth=answer.depth.cpu().numpy())
    for i, answer in swept.items():
        confidence = fused_confidence(result[i], answer.correlation.cpu().numpy(), [result[j] for j in others[i]])
        result[i] = replace(result[i], confidence=confidence)
    return RefinedDepth(_with_common_confidence(result, set(swept)), done)


def sweep_neighbours(
    views: Sequence[View], sparse: SparseModel, refined: Sequence[int], count: int
) -> dict[int, list[int]]:
    """For each refined view the others that share most points with it at useful angles, best first."""
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    seen = {i: sparse.of_view(i)[0] for i in refined}
    result = {}
    for i in refined:
        scores = {}
        for j in refined:
            shared = np.intersect1d(seen[i], seen[j]) if i != j else np.zeros(0, np.int64)
            if len(shared) >= _MIN_SHARED:
                points = sparse.points[shared]
                angle = geometry.vector_angle(points - centres[i], points - centres[j])
                worth = np.minimum(angle / _GOOD_ANGLE, 1) * np.exp(-np.maximum(angle / _WIDE_ANGLE - 1, 0) * 4)
                scores[j] = float(worth.sum())
        result[i] = sorted(scores, key=scores.get, reverse=True)[:count]
    return result


def _anchors(view: View, sparse: SparseModel, i: int) -> np.ndarray:
    """The sparse points (M, 3) that view i sees: u, v in 0..1, log depth."""
    point, pixel = sparse.of_view(i)
    z = geometry.transform(view.cam_from_world, sparse.points[point])[:, 2]
    return np.column_stack([pixel / [view.width, view.height], np.log(np.maximum(z, 1e-12))])[z > 0]


def _camera(view: View, rgb: np.ndarray, anchors: np.ndarray, device: torch.device) -> Camera:
    """The view at the size of its depth map."""
    height, width = view.depth.shape
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
    arrays = (grey, view.depth, K, view.cam_from_world, anchors)
    return Camera(*(torch.from_numpy(np.ascontiguousarray(array)).float().to(device) for array in arrays))


def _with_common_confidence(views: list[View], swept: set[int]) -> list[View]:
    """Views that were not swept get the confidence of the least sure quarter: the scale is now a probability's."""
    if not swept:
        return views
    pooled = np.concatenate([views[i].confidence[views[i].depth > 0][::97] for i in sorted(swept)])
    level = np.float32(np.percentile(pooled, 25)) if len(pooled) else np.float32(0)
    return [
        view if i in swept else replace(view, confidence=np.where(view.depth > 0, level, np.float32(0)))
        for i, view in enumerate(views)
    ]
