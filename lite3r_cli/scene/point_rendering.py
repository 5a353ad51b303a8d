"""A cloud seen from anywhere: colour, depth, and what no photograph saw; in torch, on a CPU or a GPU.

Each point is a square as wide as the distance to its neighbours looks from the camera, rounded up to a power of two:
points of one size fall into one grid of such cells ("level"), where the nearest one wins, and the levels are laid over
each other from the coarsest to the finest. So a surface closes up when the camera comes near, and hides what is behind
it, at the cost of one reduction over all points whatever their size. The idea is that of splatting into an image
pyramid (Grossman & Dally 1998, "Point Sample Rendering").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .geometry import scale_intrinsics
from .posed_view import PointCloud, View

LEVELS = 7  # cells of 1 to 64 pixels
CLOSED = 1.5  # width of a point in distances to its neighbours: surfaces are seen at a slant
SAME = 0.02  # depths this close, relatively, are one surface
NOTHING = 2**63 - 1  # larger than the key of any depth
INDEX = 0xFFFFFFFF
CHUNK = 4_000_000  # pairs of point and view that are looked at together


@dataclass(frozen=True)
class Frame:
    """What a camera sees."""

    rgb: Tensor  # (H, W, 3) uint8
    depth: Tensor  # (H, W) float32 z-depth, 0 where nothing is
    seen: Tensor  # (H, W) bool: some photograph saw what is there


class PointRenderer:
    """Points on a device, ready to be seen."""

    def __init__(self, cloud: PointCloud, spacing: np.ndarray, device: torch.device) -> None:
        """`spacing` (N,): the distance of each point to its neighbours, in scene units."""
        # far from the origin (the frame of a map) single precision would round to decimetres
        self.origin = np.median(cloud.points, axis=0).astype(np.float64) if len(cloud) else np.zeros(3)
        points = np.ascontiguousarray((cloud.points - self.origin).T, np.float32)
        self.points = torch.from_numpy(points).to(device)  # (3, N): each coordinate in a row
        self.colors = torch.from_numpy(np.ascontiguousarray(cloud.colors.T)).to(device)  # (3, N)
        self.spacing = torch.from_numpy(np.ascontiguousarray(spacing, np.float32)).to(device)
        self.device = device

    @torch.inference_mode()
    def render(self, camera: View, background: tuple[int, int, int] = (0, 0, 0)) -> Frame:
        """What the pinhole `camera` sees at its size."""
        sizes = [(-(-camera.height >> rank), -(-camera.width >> rank)) for rank in range(LEVELS)]
        layer = None
        for rank, nearest in reversed(list(enumerate(self._nearest(camera, sizes)))):
            cells = (nearest != NOTHING).nonzero().squeeze(1)
            if len(cells) > 0:  # most clouds have points of a few sizes only
                layer = _empty(sizes[rank], rank, self.device) if layer is None else layer.finer(rank, sizes[rank])
                self._lay_over(layer, cells, nearest[cells])
        layer = _empty(sizes[0], 0, self.device) if layer is None else layer.finer(0, sizes[0])
        seen = layer.depth < torch.inf
        color = layer.color[:3]
        for plane, value in zip(color, background):
            if value > 0:
                plane.masked_fill_(~seen, value)
        rgb = color.add_(0.5).to(torch.uint8).permute(1, 2, 0).contiguous()
        return Frame(rgb, layer.depth.masked_fill_(~seen, 0), seen)

    def _nearest(self, camera: View, sizes: Sequence[tuple[int, int]]) -> Sequence[Tensor]:
        """For each level (rows · columns,) int64: the key of the nearest point in each cell, its depth's bits and its
        number, or NOTHING. All levels are filled by one reduction.
        """
        rotation, translation = camera.cam_from_world[:, :3], camera.cam_from_world[:, 3]
        shift = camera.K @ (rotation @ self.origin + translation)
        matrix, shift = (torch.from_numpy(x.astype(np.float32)) for x in (camera.K @ rotation, shift[:, None]))
        x, y, z = torch.addmm(shift.to(self.device), matrix.to(self.device), self.points)
        u, v = x.div_(z), y.div_(z)
        beyond = 1 << (LEVELS - 1)  # cells of the last row and column may reach out of the picture
        inside = (z > 1e-6) & (u >= 0) & (u < camera.width + beyond) & (v >= 0) & (v < camera.height + beyond)
        number = inside.nonzero().squeeze(1)
        z, u, v = z[number], u[number], v[number]
        wide = self.spacing[number].mul_(CLOSED * camera.K[0, 0]).div_(z)
        level = wide.clamp_(min=1).log2_().ceil_().clamp_(max=LEVELS - 1).to(torch.int32)
        column, row = u.to(torch.int32) >> level, v.to(torch.int32) >> level
        lengths = [rows * columns for rows, columns in sizes]
        first, across = (
            torch.tensor(x, dtype=torch.int32, device=self.device)
            for x in ([sum(lengths[:k]) for k in range(LEVELS)], [columns for _, columns in sizes])
        )
        cell = first[level] + row * across[level] + column
        cell[((column << level) >= camera.width) | ((row << level) >= camera.height)] = sum(lengths)
        key = (z.view(torch.int32).long() << 32) | number  # positive floats are in the order of their bits
        nearest = torch.full((sum(lengths) + 1,), NOTHING, dtype=torch.int64, device=self.device)
        nearest.scatter_reduce_(0, cell.long(), key, "amin")
        return torch.split(nearest[:-1], lengths)

    def _lay_over(self, layer: _Layer, cells: Tensor, nearest: Tensor) -> None:
        """Put the points with the keys `nearest` into `cells` of a layer, but for those behind what it shows."""
        depth = (nearest >> 32).to(torch.int32).view(torch.float32)
        kept = (depth <= layer.depth.view(-1)[cells] * (1 + SAME)).nonzero().squeeze(1)
        cells = cells[kept]
        layer.depth.view(-1)[cells] = depth[kept]
        point = nearest[kept] & INDEX
        for plane, values in zip(layer.color, self.colors):
            plane.view(-1)[cells] = values[point].float()
        layer.color[3].view(-1)[cells] = 1


@dataclass(frozen=True)
class _Layer:
    """What the levels from the coarsest to `rank` show."""

    rank: int
    color: Tensor  # (4, h, w) float32: red, green, blue, and 1; all 0 where nothing is
    depth: Tensor  # (h, w) float32, infinite where nothing is

    def finer(self, rank: int, size: tuple[int, int]) -> _Layer:
        """Resampled to a finer level and cut to its `size`: nearest for depth, smooth for colours of filled cells."""
        if rank == self.rank:
            return self
        times, (height, width) = 2 ** (self.rank - rank), self.depth.shape
        depth = self.depth[:, None, :, None].expand(height, times, width, times).reshape(height * times, width * times)
        depth = depth[: size[0], : size[1]].contiguous()
        color = torch.nn.functional.interpolate(self.color[None], scale_factor=float(times), mode="bilinear")[0]
        color = color[:, : size[0], : size[1]].contiguous()
        filled = (depth < torch.inf).float()
        color[:3] *= color[3].clamp_(min=1e-6).reciprocal_().mul_(filled)  # of the colour so much is of filled cells
        color[3] = filled
        return _Layer(rank, color, depth)


def _empty(size: tuple[int, int], rank: int, device: torch.device) -> _Layer:
    return _Layer(rank, torch.zeros((4, *size), device=device), torch.full(size, torch.inf, device=device))


def point_spacing(cloud: PointCloud, views: Sequence[View]) -> np.ndarray:
    """(N,) distance of each point to its neighbours: that of two pixels in the finest depth map that may see it.

    Views without a depth map count with the size of their picture. Points in front of no view get the median.
    """
    spacing = np.full(len(cloud), np.inf, np.float32)
    for start in range(0, len(cloud), CHUNK):
        part = cloud.points[start : start + CHUNK].astype(np.float64)
        for view in views:
            height, width = (view.height, view.width) if view.depth is None else view.depth.shape
            K = scale_intrinsics(view.K, width / view.width, height / view.height)
            local = part @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
            with np.errstate(divide="ignore", invalid="ignore"):
                u, v = (K[i, i] * local[:, i] / local[:, 2] + K[i, 2] for i in (0, 1))
                inside = (local[:, 2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
            wide = np.where(inside, local[:, 2] / K[0, 0], np.inf).astype(np.float32)
            np.minimum(spacing[start : start + CHUNK], wide, out=spacing[start : start + CHUNK])
    known = np.isfinite(spacing)
    spacing[~known] = np.median(spacing[known]) if known.any() else 0.0
    return spacing


def visible_shares(
    frame: Frame, camera: View, views: Sequence[View], step: int = 8, tolerance: float = 0.05
) -> list[float]:
    """Of what `frame` shows, which share each captured view sees: in its picture, and not hidden by its depth map.

    Surface is counted by the frame's pixels, every `step`-th of them; a depth that agrees within `tolerance` is seen.
    """
    depth = frame.depth[step // 2 :: step, step // 2 :: step].cpu().numpy().astype(np.float64)
    rows, columns = np.nonzero(depth)
    if not len(rows):
        return [0.0] * len(views)
    z = depth[rows, columns]
    pixels = np.stack([columns * step + step // 2 + 0.5, rows * step + step // 2 + 0.5, np.ones(len(rows))])
    local = (np.linalg.inv(camera.K) @ pixels) * z
    world = camera.cam_from_world[:, :3].T @ (local - camera.cam_from_world[:, 3:])
    return [_seen_share(world, view, tolerance) for view in views]


def _seen_share(world: np.ndarray, view: View, tolerance: float) -> float:
    """Of the points `world` (3, N)."""
    local = view.cam_from_world[:, :3] @ world + view.cam_from_world[:, 3:]
    before = local[2] > 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = ((view.K @ local)[i] / local[2] for i in (0, 1))
        inside = before & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
    if view.depth is None:
        return float(inside.mean())
    height, width = view.depth.shape
    row = np.where(inside, v * height / view.height, 0).astype(int)
    column = np.where(inside, u * width / view.width, 0).astype(int)
    known = view.depth[row, column]
    return float((inside & (known > 0) & (np.abs(local[2] - known) <= tolerance * known)).mean())
