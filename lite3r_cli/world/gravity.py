"""Up direction: from vertical edges of buildings, from the gimbal of a drone, else from how the cameras are held.

An edge in a picture and the camera centre span a plane. If the edge is vertical in the world, the vertical lies in that
plane. The vertical is the direction that lies in most planes of all pictures, searched around the mean up direction of
the cameras. A single wrong pose has little effect, and depth is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from ..cores import count_cores
from ..io.exif import Attitude
from ..scene import geometry
from ..scene.posed_view import View

_SIDE = 900  # pixels of the longer side at which edges are detected
_SHORTEST = 0.025  # of the diagonal
_SEARCH = np.radians([40.0, 22.0])  # around the up directions of the cameras and of their horizontal axes
_STEP = np.radians(1.5)  # between two candidate directions
_WIDTHS = tuple(np.radians([3.0, 2.0, 1.2, 0.8]))  # of the kernel around a plane, coarse to fine
_THREADS = min(8, count_cores())
_TOGETHER = 1 << 17  # products of directions and edges per thread: they fit in a processor's cache
_TOGETHER_ON_GPU = 1 << 24
_MOST = 150  # per picture, the longest edges
_LEAST_VIEWS = 0.34  # share of the pictures that must have vertical edges
_LEAST_EDGES = 10.0  # effective number of vertical edges
_STANDS_OUT = 6.0  # score relative to that of other directions around; heaps of tilted boards reach 5
_UNUSUAL = 0.5  # prior below which a direction is far from how cameras are usually held
_RIVALS = np.radians([60.0, 70.0])  # search radius around how cameras are held, and least angle to the direction found
_RIVAL = (
    0.45  # share of the support, times the prior, from which a rival is a second answer (0.57 of a board, 0.3 a desk)
)
_ROLLED = np.radians(10.0)  # roll that all cameras share, beyond which people seldom hold them
_THIRD = 2.0  # support of a third direction of edges, relative to that of any: 1.5 on a board, 2.4 to 115 in spaces
_APART = np.radians(30.0)  # between two horizontal directions of edges


Segments = tuple[np.ndarray, float]  # the result of `find_edges`


@dataclass(frozen=True)
class Up:
    """The up direction in the world of the views."""

    direction: np.ndarray  # (3,) unit vector
    source: str  # "edges", "gimbal", "cameras" or "stated"
    found: bool  # False: `direction` is only the mean up direction of the cameras
    edges: int = 0  # number of vertical ones
    stands_out: float = 0.0  # support of the direction relative to others around

    def as_dict(self) -> dict[str, object]:
        """The entry of run.json."""
        return {
            "direction": [round(float(x), 6) for x in self.direction], "source": self.source, "found": self.found,
            "vertical_edges": self.edges, "stands_out": round(self.stands_out, 2),
        }  # fmt: skip


def find_up(
    views: Sequence[View],
    greys: Sequence[np.ndarray],
    attitudes: Sequence[Attitude | None] = (),
    edges: Sequence[Segments | None] = (),
    device: str = "cpu",
) -> Up:
    """The up direction of posed views from their pictures (h, w) uint8 of any size; `edges` are those of the pictures,
    if known. A GPU as `device` tries directions faster.
    """
    measured = up_of_gimbals(views, attitudes)
    if measured is not None:
        return Up(measured, "gimbal", True)
    held = up_of_cameras(views)
    likely = np.stack([held, up_of_horizons(views, held)])
    normals, weight, view = edge_planes(views, greys, edges)
    if len(normals) < _LEAST_EDGES:
        return Up(held, "cameras", False)
    return _from_edges(likely, normals, weight, view, views, device)


def up_of_cameras(views: Sequence[View]) -> np.ndarray:
    """The robust mean (3,) of the up directions of the cameras."""
    ups = np.stack([-view.cam_from_world[1, :3] for view in views])
    mean = ups.mean(axis=0)
    for _ in range(10):
        mean = mean / max(float(np.linalg.norm(mean)), 1e-9)
        weight = 1 / (0.05 + geometry.vector_angle(ups, np.broadcast_to(mean, ups.shape)))
        mean = (weight[:, None] * ups).sum(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)


def up_of_horizons(views: Sequence[View], held: np.ndarray) -> np.ndarray:
    """The direction (3,) that is most perpendicular to the pictures' horizontal axes, on the side of `held`.

    People tilt cameras up and down, but seldom sideways. Returns `held` if the cameras hardly rotate.
    """
    axes = np.stack([view.cam_from_world[0, :3] for view in views])
    values, vectors = np.linalg.eigh(axes.T @ axes / len(axes))
    if values[1] < 0.02 or values[0] > 0.25 * values[1]:
        return held
    return vectors[:, 0] * (1.0 if vectors[:, 0] @ held >= 0 else -1.0)


def up_of_gimbals(views: Sequence[View], attitudes: Sequence[Attitude | None]) -> np.ndarray | None:
    """The mean of the gimbal directions, if at least half of the pictures have one and they agree to 10°."""
    ups = [v.cam_from_world[:, :3].T @ -gravity_of(a) for v, a in zip(views, attitudes) if a is not None]
    if len(ups) < max(2, len(views) / 2):
        return None
    mean = np.median(np.stack(ups), axis=0)
    length = float(np.linalg.norm(mean))
    if length == 0 or np.median(geometry.vector_angle(np.stack(ups), np.tile(mean, (len(ups), 1)))) > np.radians(10):
        return None
    return mean / length


def gravity_of(attitude: Attitude) -> np.ndarray:
    """The direction of gravity in the camera's frame (+x right, +y down, +z ahead)."""
    pitch, roll = np.radians([attitude.pitch, attitude.roll])
    return np.array([np.sin(roll) * np.cos(pitch), np.cos(roll) * np.cos(pitch), -np.sin(pitch)])


# --- edges ------------------------------------------------------------------------------------------------------------


def edge_planes(
    views: Sequence[View], greys: Sequence[np.ndarray], edges: Sequence[Segments | None] = ()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The straight edges of all pictures: normals of their planes in the world (N, 3), weights (N,), views (N,)."""
    normals, weights, numbers = [], [], []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="edges") as pool:
        known = edges or [None] * len(greys)
        found = list(pool.map(lambda grey, before: before or find_edges(grey), greys, known))
    for i, (view, grey, (segments, diagonal)) in enumerate(zip(views, greys, found, strict=True)):
        if not len(segments):
            continue
        ends = segments.reshape(-1, 2, 2) * [view.width / grey.shape[1], view.height / grey.shape[0]]
        homogeneous = np.concatenate([ends, np.ones_like(ends[..., :1])], axis=-1)
        rays = homogeneous @ np.linalg.inv(view.K).T  # (M, 2, 3)
        normal = np.cross(rays[:, 0], rays[:, 1])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
        normals.append(normal @ view.cam_from_world[:, :3])
        length = np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1) / diagonal
        weights.append(np.minimum(length, 0.25))
        numbers.append(np.full(len(segments), i))
    if not normals:
        return np.zeros((0, 3)), np.zeros(0), np.zeros(0, np.int64)
    return np.concatenate(normals), np.concatenate(weights), np.concatenate(numbers)


def find_edges(grey: np.ndarray) -> Segments:
    """At most `_MOST` straight segments (M, 4) x1 y1 x2 y2 of a picture, in its pixels, and its diagonal."""
    scale = min(1.0, _SIDE / max(grey.shape))
    small = grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = cv2.createLineSegmentDetector().detect(small)[0]
    diagonal = float(np.hypot(*grey.shape))
    if found is None:
        return np.zeros((0, 4)), diagonal
    segments = (found.reshape(-1, 4).astype(np.float64) + 0.5) / scale
    length = np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1)
    margin = 0.012 * diagonal  # edges along the border are the border itself
    lines = segments.reshape(-1, 2, 2)
    border = np.zeros(len(segments), bool)
    for axis, size in ((0, grey.shape[1]), (1, grey.shape[0])):
        border |= (lines[:, :, axis] < margin).all(axis=1) | (lines[:, :, axis] > size - margin).all(axis=1)
    kept = np.flatnonzero((length > _SHORTEST * diagonal) & ~border)
    return segments[kept[np.argsort(-length[kept], kind="stable")[:_MOST]]], diagonal


def _from_edges(
    likely: np.ndarray,
    normals: np.ndarray,
    weight: np.ndarray,
    view: np.ndarray,
    views: Sequence[View],
    device: str = "cpu",
) -> Up:
    """The up direction from edges. `likely` (2, 3): the mean up direction of the cameras, and that of their horizontal
    axes.
    """
    count = len(views)
    weight = weight * _balanced(weight, view, count)
    held = likely[0]
    tried = np.concatenate([_around(*each, _STEP) for each in zip(likely, _SEARCH)])
    score, around = _support(tried, normals, weight, (_WIDTHS[0], _WIDTHS[-2]), device)
    best = tried[int(np.argmax(score * _prior(tried, likely)))]
    for width in _WIDTHS:
        for _ in range(8):
            off = np.arcsin(np.clip(normals @ best, -1, 1))
            bell = weight / (1 + (off / width) ** 2) ** 2
            _, vectors = np.linalg.eigh((normals * bell[:, None]).T @ normals)
            turned = vectors[:, 0] * np.sign(vectors[:, 0] @ best)
            best = turned
    inside = np.abs(np.arcsin(np.clip(normals @ best, -1, 1))) < 2 * _WIDTHS[-1]
    edges, seen = int(inside.sum()), len(np.unique(view[inside])) / count
    (support,) = _support(best[None], normals, weight, (_WIDTHS[-2],))
    stands_out = float(support[0] / max(float(np.median(around)), 1e-9))
    near = (geometry.vector_angle(np.broadcast_to(best, likely.shape), likely) < _SEARCH).any()
    found = edges >= _LEAST_EDGES and seen >= _LEAST_VIEWS and stands_out >= _STANDS_OUT and bool(near)
    found = found and not _ambiguous(best, likely, normals, weight, device)
    found = found and not _on_rolled_board(best, views, normals, weight)
    return Up(best if found else held, "edges" if found else "cameras", found, edges, stands_out)


def _ambiguous(best: np.ndarray, likely: np.ndarray, normals: np.ndarray, weight: np.ndarray, device: str) -> bool:
    """Whether `best` (3,) is far from how cameras are held and a direction across it is nearly as likely: the edges
    of a tilted board have two directions, and neither is vertical.
    """
    prior = _prior(best[None], likely)
    if prior[0] >= _UNUSUAL:
        return False
    tried = _around(likely[0], _RIVALS[0], _STEP)
    tried = tried[geometry.vector_angle(tried, np.broadcast_to(best, tried.shape)) > _RIVALS[1]]
    (score,) = _support(np.concatenate([best[None], tried]), normals, weight, (_WIDTHS[0],), device)
    score *= np.concatenate([prior, _prior(tried, likely)])
    return bool(score[1:].max(initial=0.0) > _RIVAL * score[0])


def _on_rolled_board(best: np.ndarray, views: Sequence[View], normals: np.ndarray, weight: np.ndarray) -> bool:
    """Whether `best` (3,) would mean that all cameras are rolled alike, and the edges have two directions only: then
    a board that is turned explains them as well. A space has a third direction.
    """
    rolls = np.arcsin(np.clip([best @ view.cam_from_world[0, :3] for view in views], -1, 1))
    if abs(float(np.median(rolls))) < _ROLLED:
        return False
    helper = np.cross(best, np.eye(3)[np.argmin(np.abs(best))])
    x = helper / np.linalg.norm(helper)
    angle = np.arange(0, np.pi, _STEP)
    level = np.cos(angle)[:, None] * x + np.sin(angle)[:, None] * np.cross(best, x)
    (score,) = _support(np.concatenate([best[None], level]), normals, weight, (_WIDTHS[-2],))
    score, own = score[1:], score[0]
    first = int(np.argmax(score))
    away = np.abs((angle - angle[first] + np.pi / 2) % np.pi - np.pi / 2) > _APART
    third = float(score[away].max()) / max(float(np.median(score)), 1e-9)
    return bool(score[first] > _RIVAL * own and third < _THIRD)


def _balanced(weight: np.ndarray, view: np.ndarray, count: int) -> np.ndarray:
    """Factors (N,) that limit the weight of each picture to twice the median one."""
    total = np.bincount(view, weights=weight, minlength=count)
    typical = float(np.median(total[total > 0]))
    return np.minimum(1.0, 2 * typical / np.maximum(total, 1e-9))[view]


def _support(
    directions: np.ndarray, normals: np.ndarray, weight: np.ndarray, widths: Sequence[float], device: str = "cpu"
) -> list[np.ndarray]:
    """Σ weight / (1 + (angle to the plane / width)²)² for directions (D, 3): (D,) for each width."""
    if device != "cpu":
        return _support_on(device, directions, normals, weight, widths)

    def some(part: np.ndarray) -> list[np.ndarray]:
        off = part @ normals.T
        np.clip(off, -1, 1, out=off)
        np.arcsin(off, out=off)
        off *= off
        found = []
        for width in widths:
            bell = off / width**2
            bell += 1
            bell *= bell
            np.divide(weight, bell, out=bell)
            found.append(bell.sum(axis=1))
        return found

    if not len(directions):
        return [np.zeros(0) for _ in widths]
    rows = max(1, _TOGETHER // max(1, len(normals)))
    parts = [directions[i : i + rows] for i in range(0, len(directions), rows)]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="up") as pool:
        return [np.concatenate(column) for column in zip(*pool.map(some, parts))]


def _support_on(
    device: str, directions: np.ndarray, normals: np.ndarray, weight: np.ndarray, widths: Sequence[float]
) -> list[np.ndarray]:
    """`_support` by torch."""
    import torch

    there = [torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in (directions, normals, weight)]
    found: list[list[torch.Tensor]] = [[] for _ in widths]
    for part in there[0].split(max(1, _TOGETHER_ON_GPU // max(1, len(normals)))):
        off = (part @ there[1].T).clamp_(-1, 1).arcsin_().square_()
        for sums, width in zip(found, widths):
            sums.append((there[2] / (off / width**2).add_(1).square_()).sum(1))
    return [torch.cat(sums).cpu().numpy() for sums in found]


def _prior(directions: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """Prior of directions (D, 3) given how the cameras are held: (D,)."""
    angles = [geometry.vector_angle(directions, np.broadcast_to(each, directions.shape)) for each in likely]
    wide, narrow = (1 / (1 + (angle / width) ** 2) for angle, width in zip(angles, np.radians([25.0, 12.0])))
    return wide + narrow


def _around(direction: np.ndarray, radius: float, step: float) -> np.ndarray:
    """Directions (D, 3) with spacing `step` within `radius` of one."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    x = np.cross(direction, helper)
    x /= np.linalg.norm(x)
    y = np.cross(direction, x)
    rings = [direction[None]]
    for polar in np.arange(step, radius, step):
        azimuth = np.linspace(0, 2 * np.pi, max(6, int(2 * np.pi * np.sin(polar) / step)), endpoint=False)[:, None]
        rings.append(np.cos(polar) * direction + np.sin(polar) * (np.cos(azimuth) * x + np.sin(azimuth) * y))
    return np.concatenate(rings)
