"""Step two of the refinement: every trusted view's depth by stereo with the others, the network's where that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from ..scene import geometry
from ..scene.fusion import sample_mask
from ..scene.posed_view import View, known_depth
from ..scene.sparse_points import SparseModel
from .align import align_depth
from .confidence import fused_confidence
from .correlation import window_mean
from .fill import fill
from .keypoints import ReadImage, ReadMask
from .refine_config import RefineConfig
from .stereo import Surface, stereo
from .warp import Picture

STEREO, ALIGNED, KEPT = "stereo", "aligned", "kept"

_GOOD_ANGLE = np.radians(6.0)  # of triangulation, from which more does not help
_WIDE_ANGLE = np.radians(35.0)  # beyond, windows look too different
_MIN_SHARED = 8  # points
_NEARER, _FARTHER = 1.6, 2.5  # how far the scene may reach beyond its sparse points
_SURE_SCORE = 0.5  # correlation from which one other view is enough
_SURE_AROUND = 0.4  # share of the pixels around (7 × 7) that have to be sure, too: single ones agree by chance
_AMBIGUOUS = 0.4  # share of the textured pixels with a rival depth from which the scene repeats itself
_FIRM = 0.15  # share of sure pixels from which a view's depth needs no support by the others
_OFF_LEVEL = 0.25  # of log depth, from the ratio to the network that the other views have: then it is not believed
_MIN_SURE = 0.02  # share of sure pixels below which the network's depth stays


@dataclass(frozen=True)
class RefinedDepth:
    """Views with refined depth and confidence, and what was done to each one: STEREO, ALIGNED or KEPT."""

    views: list[View]
    steps: list[str]
    confirmed: list[float]  # per view, the share of pixels whose depth other views confirm


def refine_depth(
    views: Sequence[View],
    sparse: SparseModel,
    trusted: Sequence[int],
    read_rgb: ReadImage,
    config: RefineConfig,
    device: torch.device,
    step: Callable[[], None] = lambda: None,
    read_mask: ReadMask | None = None,
) -> RefinedDepth:
    """Refine the depth maps of the views `trusted`; the others stay as they are. What is masked is compared with
    nothing.
    """
    others = sweep_neighbours(views, sparse, trusted, config.neighbours)
    ranges = {i: depth_range(views[i], sparse, i) for i in trusted if others[i]}
    masks = {i: None if read_mask is None else read_mask(i) for i in trusted}
    pictures = {i: _picture(views[i], read_rgb(i), masks[i], device) for i in trusted}
    aligned = {i: align_depth(views[i], sparse, i) for i in trusted}
    expected = {i: torch.from_numpy(aligned[i]).to(device) for i in trusted}
    surfaces = stereo(pictures, others, ranges, expected, step)
    if surfaces and np.median([surface.ambiguous for surface in surfaces.values()]) > _AMBIGUOUS:
        return RefinedDepth(list(views), [KEPT] * len(views), [0.0] * len(views))  # a repeated pattern
    seen = {i: (1 / surface.inverse).cpu().numpy() for i, surface in surfaces.items()}
    sure = {i: _sure(surface).cpu().numpy() for i, surface in surfaces.items()}
    level = _common_level(views, seen, sure)
    result, steps = list(views), [KEPT] * len(views)
    correlation: dict[int, np.ndarray] = {}
    for i in trusted:
        depth = known_depth(views[i])
        if i not in sure or sure[i].mean() < _MIN_SURE:
            depth = aligned[i]
            steps[i] = KEPT if depth is views[i].depth else ALIGNED
        elif sure[i].mean() < _FIRM and abs(_level(views[i], seen[i], sure[i]) - level) > _OFF_LEVEL:
            depth, steps[i] = depth * np.float32(np.exp(level)), ALIGNED
        else:
            filled = fill(seen[i], sure[i], depth, pictures[i].grey.cpu().numpy()).depth
            depth, steps[i] = np.where(sure[i] | (depth > 0), filled, np.float32(0)), STEREO  # sky stays sky
            correlation[i] = np.where(sure[i], surfaces[i].score.cpu().numpy(), 0)
        result[i] = replace(views[i], depth=depth)
    confidence = {i: fused_confidence(result[i], correlation[i], [result[j] for j in others[i]]) for i in correlation}
    confirmed = [round(float(sure[i].mean()), 3) if i in sure else 0.0 for i in range(len(views))]
    return RefinedDepth(_with_confidence(result, confidence), steps, confirmed)


def _level(view: View, seen: np.ndarray, sure: np.ndarray) -> float:
    """Median log ratio of the depth `seen` (h, w) to the network's, over the `sure` pixels; NaN where there are
    none.
    """
    depth = known_depth(view)
    both = sure & (depth > 0)
    return float(np.median(np.log(seen[both] / depth[both]))) if both.any() else np.nan


def _common_level(views: Sequence[View], seen: Mapping[int, np.ndarray], sure: Mapping[int, np.ndarray]) -> float:
    """The level that the views agree on, each with the weight of its sure pixels: the network's maps share one
    scale.
    """
    levels = {i: _level(views[i], seen[i], sure[i]) for i in seen}
    order = sorted((i for i in levels if np.isfinite(levels[i])), key=lambda i: levels[i])
    if not order:
        return 0.0
    weight = np.cumsum([sure[i].sum() for i in order])
    return levels[order[int(np.searchsorted(weight, weight[-1] / 2))]]


def sweep_neighbours(
    views: Sequence[View], sparse: SparseModel, trusted: Sequence[int], count: int
) -> dict[int, list[int]]:
    """For each trusted view the others that share most points with it at useful angles, best first."""
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    seen = {i: sparse.of_view(i)[0] for i in trusted}
    result = {}
    for i in trusted:
        scores: dict[int, float] = {}
        for j in trusted:
            shared = np.intersect1d(seen[i], seen[j]) if i != j else np.zeros(0, np.int64)
            if len(shared) >= _MIN_SHARED:
                points = sparse.points[shared]
                angle = geometry.vector_angle(points - centres[i], points - centres[j])
                worth = np.minimum(angle / _GOOD_ANGLE, 1) * np.exp(-np.maximum(angle / _WIDE_ANGLE - 1, 0) * 4)
                scores[j] = float(worth.sum())
        result[i] = sorted(scores, key=lambda j: scores[j], reverse=True)[:count]
    return result


def depth_range(view: View, sparse: SparseModel, i: int) -> tuple[float, float]:
    """Least and largest depth to search in view i: those of the sparse points it sees or looks towards, widened."""
    pixel, z = geometry.project(sparse.points, view.K, view.cam_from_world)
    ahead = (z > 0) & (pixel >= 0).all(axis=-1) & (pixel < [view.width, view.height]).all(axis=-1)
    own = z[sparse.of_view(i)[0]]
    own = own[own > 0]
    near = min(np.percentile(own, 1), np.percentile(z[ahead], 2))
    far = max(np.percentile(own, 99), np.percentile(z[ahead], 98))
    return float(near / _NEARER), float(far * _FARTHER)


def _picture(view: View, rgb: np.ndarray, mask: np.ndarray | None, device: torch.device) -> Picture:
    """The view at the size of its depth map; `mask` (H, W) bool, True = scene."""
    height, width = known_depth(view).shape
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
    pose = np.asarray(view.cam_from_world, np.float64)
    arrays = [grey, K, pose]
    if mask is not None and not mask.all():
        arrays.append(sample_mask(mask, (height, width)).astype(np.float32))
    return Picture(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays))


def _sure(surface: Surface) -> Tensor:
    """Pixels (h, w) that two other views confirm, or one where the windows look alike, among others that are sure."""
    sure = (surface.votes >= 2) | ((surface.votes >= 1) & (surface.score > _SURE_SCORE))
    return sure & (window_mean(sure[None].float(), 3)[0] > _SURE_AROUND)


def _with_confidence(views: list[View], confidence: Mapping[int, np.ndarray]) -> list[View]:
    """Views without a `confidence` of their own get that of the least sure quarter: its scale is a probability's."""
    if not confidence:
        return views
    known = [known_depth(view) > 0 for view in views]
    pooled = np.concatenate([confidence[i][known[i]][::97] for i in sorted(confidence)])
    level = np.float32(np.percentile(pooled, 25))
    return [
        replace(view, confidence=confidence[i] if i in confidence else np.where(known[i], level, np.float32(0)))
        for i, view in enumerate(views)
    ]
