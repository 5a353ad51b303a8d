"""Depth maps of one size whose pixels go through the same operations: a GPU needs few and large ones.

On a CPU a group is one map. Coefficients of a single map are then numbers, those of several maps are looked up for each
pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import geometry
from .surfaces import MOST_TOGETHER, TOGETHER, VoterMap, on_device

_MOST_PAIRS = 1 << 24  # pixels times neighbours in one operation: a temporary result then takes 64 MB
_FREE_BYTES = 1 << 10  # free memory of a GPU per pair: the temporary results take a sixteenth of it


@dataclass(frozen=True)
class Pixels:
    """Pixels of the maps of a group, map by map."""

    index: Tensor  # (N,) int64, of the flattened map
    owner: Tensor | None = None  # (N,) int64, place of the map in the group; None: there is one map

    def __len__(self) -> int:
        return len(self.index)

    def some(self, rows: Tensor) -> Pixels:
        """Those at `rows` (M,)."""
        return Pixels(self.index[rows], None if self.owner is None else self.owner[rows])

    def each(self, values: Tensor) -> Tensor:
        """Values (…, G) of the maps of a group of several for each pixel: (…, N)."""
        assert self.owner is not None  # else they are numbers
        return values.index_select(-1, self.owner)

    def of(self, maps: Sequence[Tensor]) -> Tensor:
        """The values (N, …) of maps (h, w, …), one for each map of the group."""
        if self.owner is None:
            return maps[0].flatten(0, 1).index_select(0, self.index)
        height, width = maps[0].shape[:2]
        return torch.stack(list(maps)).flatten(0, 2).index_select(0, self.owner * (height * width) + self.index)


class EachOf(Sequence[Tensor]):
    """`values` (…, R, G) of the maps of a group, as R tensors (…, N): each is made when it is used, to save memory."""

    def __init__(self, pixels: Pixels, values: Tensor) -> None:
        self.pixels, self.values = pixels, values

    def __len__(self) -> int:
        return self.values.shape[-2]

    def __getitem__(self, k: Any) -> Any:
        return self.pixels.each(self.values[..., k, :])


class MapGroup:
    """Maps `voters` of one size; `views` are their numbers."""

    def __init__(self, views: Sequence[int], voters: Sequence[VoterMap]) -> None:
        self.views, self.voters = list(views), list(voters)
        self.height, self.width = voters[0].shape

    def alone(self) -> list[MapGroup]:
        """Each map as a group of its own."""
        return [MapGroup([i], [voter]) for i, voter in zip(self.views, self.voters)]

    def pixels(self, step: int = 1) -> Pixels:
        """The usable pixels among every `step`-th row and column."""
        if len(self.voters) == 1:
            return Pixels(self.voters[0].pixels(step))
        alive = torch.stack([voter.alive for voter in self.voters])
        if step > 1:
            owner, row, column = alive[:, ::step, ::step].nonzero(as_tuple=True)
            return Pixels(row * (step * self.width) + column * step, owner)
        place, area = alive.view(-1).nonzero()[:, 0], self.height * self.width
        owner = place // area
        return Pixels(place - owner * area, owner)

    def camera_points(self, pixels: Pixels) -> Tensor:
        """Camera coordinates (3, N) float32."""
        if pixels.owner is None:
            return self.voters[0].camera_points(pixels.index)
        row = pixels.index // self.width
        column = pixels.index - row * self.width
        centres = [np.arange(n) + 0.5 for n in (self.width, self.height)]
        by_column, by_row = pixels.owner * self.width + column, pixels.owner * self.height + row
        depth = pixels.of([voter.depth for voter in self.voters])

        def at(table: np.ndarray, place: Tensor) -> Tensor:
            return on_device(table.ravel(), place.device).index_select(0, place)

        points = []
        for coefficients in np.stack([np.linalg.inv(voter.K) for voter in self.voters], axis=-1):  # (3, G): a, b, c
            a, b, c = (each[:, None] for each in coefficients)
            if a.any() and b.any():
                ray = (at(a * centres[0], by_column) + at(b * centres[1] + c, by_row)).float()
            elif a.any():
                ray = at((a * centres[0] + c).astype(np.float32), by_column)
            elif b.any():
                ray = at((b * centres[1] + c).astype(np.float32), by_row)
            else:
                ray = pixels.each(on_device(c[:, 0].astype(np.float32), pixels.index.device))
            points.append(depth * ray)
        return torch.stack(points)

    def to_world(self, pixels: Pixels, points: Tensor) -> Tensor:
        """Camera points (3, N) → world points (3, N), in the precision of the points."""
        poses = [geometry.invert_pose(voter.cam_from_world) for voter in self.voters]
        if pixels.owner is None:
            pose = poses[0] if points.dtype == torch.float64 else poses[0].astype(np.float32)
            return torch.stack([affine(row, points) for row in pose.tolist()])
        table = on_device(np.stack(poses, axis=-1), points.device).to(points.dtype)  # (3, 4, G)
        return torch.stack([affine(EachOf(pixels, row), points) for row in table])


def affine(row: Sequence[float] | Sequence[Tensor], points: Tensor) -> Tensor:
    """One row (4,) of [R | t] applied to points (3, N), element by element, because the rounding of BLAS varies. Rows
    of tensors (n, 1) or (n, N) give (n, N).
    """
    total = row[0] * points[0]
    for k in (1, 2):
        factor = row[k]
        if isinstance(factor, Tensor):
            total.addcmul_(factor, points[k])
        else:
            total.add_(points[k], alpha=factor)
    return total.add_(row[3])


def groups_of(
    voters: Sequence[VoterMap | None],
    others: Sequence[VoterMap | None] = (),
    neighbours: Sequence[Sequence[int]] = (),
    samples: int | None = None,
) -> Iterator[MapGroup]:
    """The maps in order, in groups of one size. With `neighbours`, which are numbers of `others` for each map, all of
    them have one size, too. `samples` is the number of pixels of a map that are used (None: all).
    """
    limit = _most_pairs(next((voter.depth.device for voter in voters if voter is not None), None))
    views: list[int] = []
    sizes: set[tuple[int, int]] = set()
    pairs = 0
    for i, voter in enumerate(voters):
        if voter is None:
            continue
        own = {found.shape for j in (neighbours[i] if neighbours else ()) if (found := others[j]) is not None}
        first = voters[views[0]] if views else None
        now = sizes | own
        more = (samples or voter.height * voter.width) * max(1, len(neighbours[i]) if neighbours else 1)
        most = TOGETHER.get(voter.depth.device.type, MOST_TOGETHER)
        fits = len(views) < most and len(now) < 2 and pairs + more <= limit
        if first is not None and not (fits and first.shape == voter.shape):
            yield _group(views, voters)
            views, now, pairs = [], own, 0
        views.append(i)
        sizes, pairs = now, pairs + more
    if views:
        yield _group(views, voters)


def _group(views: Sequence[int], voters: Sequence[VoterMap | None]) -> MapGroup:
    return MapGroup(views, [found for i in views if (found := voters[i]) is not None])


def _most_pairs(device: torch.device | None) -> int:
    """Pixels times neighbours that a device compares in one operation."""
    if device is None or device.type != "cuda":
        return _MOST_PAIRS
    return min(_MOST_PAIRS, torch.cuda.mem_get_info(device)[0] // _FREE_BYTES)
