"""Second step of the refinement: the depth of every trusted view by stereo, and by the network where stereo fails."""

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
from .each_view import each_view
from .fill import fill
from .keypoints import ReadImage, ReadMask
from .refine_config import RefineConfig
from .stereo import Surface, stereo
from .warp import Picture

STEREO, ALIGNED, KEPT = "stereo", "aligned", "kept"

_GOOD_ANGLE = np.radians(6.0)  # triangulation angle beyond which more does not help
_WIDE_ANGLE = np.radians(35.0)  # beyond this angle windows look too different
_MIN_SHARED = 8  # points
_NEARER, _FARTHER = 1.6, 2.5  # how far the scene may extend beyond its sparse points, as factors
_SURE_SCORE = 0.5  # correlation from which one confirming view is enough
_SURE_AROUND = 0.4  # share of neighbouring pixels (7 × 7) that must be sure, too, because single pixels agree by chance


@dataclass(frozen=True)
class RefinedDepth:
    """Views with refined depth and confidence, and the method for each: STEREO, ALIGNED or KEPT."""

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
    """Refine the depth maps of the views `trusted`; the others do not change. Masked pixels are not compared."""
    others = sweep_neighbours(views, sparse, trusted, config.neighbours)
    ranges = {i: depth_range(views[i], sparse, i) for i in trusted if others[i]}
    masks = {i: None if read_mask is None else read_mask(i) for i in trusted}
    pictures = {i: _picture(views[i], read_rgb(i), masks[i], device) for i in trusted}
    aligned = each_view(trusted, device, lambda i: align_depth(views[i], sparse, i))
    expected = {i: known_depth(views[i]) if depth is None else depth for i, depth in aligned.items()}
    surfaces = stereo(pictures, others, ranges, {i: torch.from_numpy(d).to(device) for i, d in expected.items()}, step)
    if surfaces and np.median([surface.ambiguous for surface in surfaces.values()]) > config.ambiguous:
        return RefinedDepth(list(views), [KEPT] * len(views), [0.0] * len(views))  # a repeated pattern
    seen = {i: _Seen.of(surface) for i, surface in surfaces.items()}
    level = _common_level(views, seen)
    chosen = each_view(
        trusted,
        device,
        lambda i: _choose(views[i], seen.get(i), aligned[i], level, pictures[i].grey.cpu().numpy(), config),
    )
    result = [replace(view, depth=chosen[i].depth) if i in chosen else view for i, view in enumerate(views)]
    correlation = {i: each.correlation for i, each in chosen.items() if each.correlation is not None}
    confidence = each_view(
        correlation,
        device,
        lambda i: fused_confidence(result[i], correlation[i], [result[j] for j in others[i]]),
    )
    steps = [chosen[i].step if i in chosen else KEPT for i in range(len(views))]
    confirmed = [round(float(seen[i].sure.mean()), 3) if i in seen else 0.0 for i in range(len(views))]
    return RefinedDepth(_with_confidence(result, confidence), steps, confirmed)


@dataclass(frozen=True)
class _Seen:
    """The stereo result of one view."""

    depth: np.ndarray  # (h, w) float32
    sure: np.ndarray  # (h, w) bool, pixels confirmed by other views
    score: np.ndarray  # (h, w) correlation in 0..1

    @classmethod
    def of(cls, surface: Surface) -> _Seen:
        depth, sure, score = 1 / surface.inverse, _sure(surface), surface.score
        return cls(*(part.cpu().numpy() for part in (depth, sure, score)))


@dataclass(frozen=True)
class _Chosen:
    """The depth of one view and its method; `correlation` (h, w) of its confirmed pixels, only after STEREO."""

    depth: np.ndarray
    step: str
    correlation: np.ndarray | None = None


def _choose(
    view: View, seen: _Seen | None, aligned: np.ndarray | None, level: float, grey: np.ndarray, config: RefineConfig
) -> _Chosen:
    """The stereo depth, filled with the network's depth. If stereo failed on too many pixels or contradicts the other
    views: the network's depth, aligned with sparse points (`aligned`) or with the scale that all views agree on.
    """
    depth = known_depth(view)
    if seen is None or seen.sure.mean() < config.least_sure:
        return _Chosen(depth, KEPT) if aligned is None else _Chosen(aligned, ALIGNED)
    if seen.sure.mean() < config.firm_sure and abs(_level(view, seen) - level) > config.off_level:
        return _Chosen(depth * np.float32(np.exp(level)), ALIGNED)
    filled = fill(seen.depth, seen.sure, depth, grey).depth
    stays = seen.sure | (depth > 0)  # keeps the sky without depth
    return _Chosen(np.where(stays, filled, np.float32(0)), STEREO, np.where(seen.sure, seen.score, 0))


def _level(view: View, seen: _Seen) -> float:
    """Median log ratio of the stereo depth to the network's, over the sure pixels; NaN without any."""
    depth = known_depth(view)
    both = seen.sure & (depth > 0)
    return float(np.median(np.log(seen.depth[both] / depth[both]))) if both.any() else np.nan


def _common_level(views: Sequence[View], seen: Mapping[int, _Seen]) -> float:
    """The common log scale of the views, weighted by their sure pixels: the network's maps share one scale."""
    levels = {i: _level(views[i], seen[i]) for i in seen}
    order = sorted((i for i in levels if np.isfinite(levels[i])), key=lambda i: levels[i])
    if not order:
        return 0.0
    weight = np.cumsum([seen[i].sure.sum() for i in order])
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
    """Search range of depth in view i: that of the sparse points that it sees or looks towards, widened."""
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
    """Pixels (h, w) confirmed by two views, or by one with similar windows, and surrounded by sure pixels."""
    sure = (surface.votes >= 2) | ((surface.votes >= 1) & (surface.score > _SURE_SCORE))
    return sure & (window_mean(sure[None].float(), 3)[0] > _SURE_AROUND)


def _with_confidence(views: list[View], confidence: Mapping[int, np.ndarray]) -> list[View]:
    """Views without a `confidence` get that of the least confident quarter, on the scale of a probability."""
    if not confidence:
        return views
    known = [known_depth(view) > 0 for view in views]
    pooled = np.concatenate([confidence[i][known[i]][::97] for i in sorted(confidence)])
    level = np.float32(np.percentile(pooled, 25))
    return [
        replace(view, confidence=confidence[i] if i in confidence else np.where(known[i], level, np.float32(0)))
        for i, view in enumerate(views)
    ]
