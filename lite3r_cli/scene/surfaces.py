"""Depth maps prepared for comparisons: usable pixels and their points, and the surfaces around each pixel.

One implementation for CPU and GPU. It uses only element-wise operations and gathers, whose results do not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from . import geometry
from .posed_view import View, known_depth

_TORN = 1.1  # ratio of depths within 3 × 3 pixels beyond which no surface is interpolated
_SILENT = 1e30  # inverse depth that is never the farthest surface
_KEPT = 24  # number of views whose surfaces are cached, for the comparisons of the next views
_KEPT_BYTES = 1 << 30  # a GPU caches more of them, up to this size
TOGETHER = {"cpu": 1}  # maps per operation: one fits in the cache of a CPU; a GPU needs few, large operations
MOST_TOGETHER = 16


class VoterMap:
    """A view's depth map with its usable pixels, and its camera at the size of the map."""

    def __init__(self, view: View, alive: np.ndarray | Tensor, depth: Tensor | None = None) -> None:
        """`depth` is the view's depth on the device of `alive`; None: on the CPU. The view must have a depth map."""
        self.depth = on_device(known_depth(view), "cpu") if depth is None else depth
        self.alive = alive if isinstance(alive, Tensor) else on_device(alive, self.depth.device)
        self.height, self.width = self.alive.shape
        self.K = geometry.scale_intrinsics(view.K, self.width / view.width, self.height / view.height)
        self.cam_from_world = np.asarray(view.cam_from_world, np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the depth map."""
        return self.height, self.width

    def pixels(self, step: int = 1) -> Tensor:
        """The usable pixels (N,) int64 among every `step`-th row and column, as indices of the flattened map."""
        if step == 1:
            return self.alive.view(-1).nonzero()[:, 0]
        row, column = self.alive[::step, ::step].nonzero(as_tuple=True)
        return row * (step * self.width) + column * step

    def camera_points(self, pixels: Tensor) -> Tensor:
        """Camera coordinates (3, N) float32 of pixels (N,)."""
        row = pixels // self.width
        column = pixels - row * self.width
        u, v = (torch.arange(n, dtype=torch.float64, device=pixels.device) + 0.5 for n in (self.width, self.height))
        depth = self.depth.view(-1).index_select(0, pixels)
        points = []
        for a, b, c in np.linalg.inv(self.K).tolist():  # for a camera without skew x depends only on u, y only on v
            if a and b:
                ray = ((a * u).index_select(0, column) + (b * v + c).index_select(0, row)).float()
            elif a or b:
                ray = ((a * u + c).float()).index_select(0, column) if a else ((b * v + c).float()).index_select(0, row)
            else:
                ray = c
            points.append(depth * ray)
        return torch.stack(points)


def on_device(array: np.ndarray, device: torch.device | str) -> Tensor:
    """An array as a tensor of the same type and shape on a device."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


class Surfaces:
    """Caches the surfaces of the most recent views."""

    def __init__(self, voters: Sequence[VoterMap | None]) -> None:
        self.voters = voters
        self._kept: dict[int, Tensor] = {}
        self._poses: tuple[object, np.ndarray] = None, np.zeros(0)  # of the last comparison

    def voter(self, i: int) -> VoterMap:
        """The map of view i, which must have depth."""
        found = self.voters[i]
        if found is None:
            raise ValueError(f"view {i} has no depth map")
        return found

    def of(self, i: int) -> Tensor:
        """`surfaces_of` view i, (4, h + 4, w + 4) float32. A GPU also computes those of the next views."""
        if i in self._kept:
            self._kept[i] = self._kept.pop(i)
            return self._kept[i]
        run = next(runs_of_one_shape(self.voters[i:]))
        made = surfaces_of([self.voter(i + k) for k in run])
        area = made[0].nbytes
        most = _KEPT if made.device.type == "cpu" else max(_KEPT, _KEPT_BYTES // area)
        for k, each in zip(run, made):
            self._kept.setdefault(i + k, each)
        asked = self._kept.pop(i)
        while len(self._kept) >= most:
            del self._kept[next(iter(self._kept))]
        self._kept[i] = asked
        return asked

    def poses(self, i: int, others: Sequence[int]) -> np.ndarray:
        """Relative poses from camera i to the others: (n, 3, 4)."""
        key = i, tuple(others)
        if self._poses[0] != key:
            there = np.stack([self.voter(j).cam_from_world for j in others])
            self._poses = key, geometry.relative_pose(self.voter(i).cam_from_world, there)
        return self._poses[1]


def runs_of_one_shape(maps: Sequence[VoterMap | None]) -> Iterator[list[int]]:
    """Indices of maps in order, grouped into those that can be stacked; one at a time on a CPU, where stacking has no
    advantage.
    """
    run: list[int] = []
    for place, each in enumerate(maps):
        if each is None:
            continue
        first = maps[run[0]] if run else None
        most = TOGETHER.get(each.depth.device.type, MOST_TOGETHER)
        if first is not None and (len(run) == most or each.shape != first.shape):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def surfaces_of(maps: Sequence[VoterMap]) -> Tensor:
    """Four maps for each of n maps of one size, (n, 4, h + 4, w + 4) float32, with a border of zeros, and 0 for
    unusable pixels: inverse depth; the inverse depths of the nearest and of the farthest surface within 3 × 3 pixels;
    and 1 where the surface has no depth edge.
    """
    depth, alive = (torch.stack(column) for column in zip(*((each.depth, each.alive) for each in maps)))
    count, height, width = depth.shape
    padded = torch.zeros(count, 4, height + 4, width + 4, device=depth.device)
    padded[:, 0, 2:-2, 2:-2] = torch.where(alive, 1 / depth, 0)
    around = padded[:, 0, 1:-1, 1:-1]
    near = _extreme(around, torch.maximum)
    far = _extreme(torch.where(around > 0, around, _SILENT), torch.minimum)
    padded[:, 1, 2:-2, 2:-2], padded[:, 2, 2:-2, 2:-2] = near, far
    padded[:, 3, 2:-2, 2:-2] = near <= _TORN * far
    return padded


def _extreme(padded: Tensor, pick: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The largest or smallest value (n, h, w) within 3 × 3 of maps with a border (n, h + 2, w + 2)."""
    along = pick(pick(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return pick(pick(along[:, :-2], along[:, 1:-1]), along[:, 2:])
