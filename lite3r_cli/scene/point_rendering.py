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
        self.points = torch.from_numpy((cloud.points - self.origin).astype(np.float32)).to(device)
        self.colors = torch.from_numpy(np.ascontiguousarray(cloud.colors)).to(device)
        self.spacing = torch.from_numpy(np.ascontiguousarray(spacing, np.float32)).to(device)
        self.device = device

    @torch.inference_mode()
    def render(self, camera: View, background: tuple[int, int, int] = (0, 0, 0)) -> Frame:
        """What the pinhole `camera` sees at its size."""
        height, width = camera.height, camera.width
        K = torch.from_numpy(camera.K.astype(np.float32)).to(self.device)
        rotation, translation = camera.cam_from_world[:, :3], camera.cam_from_world[:, 3]
        shift = torch.from_numpy((rotation @ self.origin + translation).astype(np.float32)).to(self.device)
        local = self.points @ torch.from_numpy(rotation.T.astype(np.float32)).to(self.device) + shift
        z = local[:, 2]
        u, v = K[0, 0] * local[:, 0] / z + K[0, 2], K[1, 1] * local[:, 1] / z + K[1, 2]
        beyond = 1 << (LEVELS - 1)  # cells of the last row and column may reach out of the picture
        inside = (z > 1e-6) & (u >= 0) & (u < width + beyond) & (v >= 0) & (v < height + beyond)
        number = inside.nonzero().squeeze(1)
        z, u, v = z[number], u[number], v[number]
        wide = CLOSED * self.spacing[number] * K[0, 0] / z
        level = wide.clamp(min=1).log2().ceil().clamp(max=LEVELS - 1).to(torch.int8)
        key = (z.view(torch.int32).long() << 32) | number  # positive floats are in the order of their bits
        rgb = depth = None
        for rank in reversed(range(LEVELS)):
            rows, columns = -(-height >> rank), -(-width >> rank)
            mine = ((level == rank) & (u < columns << rank) & (v < rows << rank)).nonzero().squeeze(1)
            cell = (v[mine].long() >> rank) * columns + (u[mine].long() >> rank)
            nearest = torch.full((rows * columns,), NOTHING, dtype=torch.int64, device=self.device)
            nearest.scatter_reduce_(0, cell, key[mine], "amin")
            rgb, depth = self._over(nearest.view(rows, columns), rgb, depth)
        assert rgb is not None and depth is not None
        seen = depth.isfinite()
        ground = torch.tensor(background, dtype=torch.float32, device=self.device)
        rgb = torch.where(seen[..., None], rgb, ground).round().clamp(0, 255).to(torch.uint8)
        return Frame(rgb, torch.where(seen, depth, 0), seen)

    def _over(self, nearest: Tensor, rgb: Tensor | None, depth: Tensor | None) -> tuple[Tensor, Tensor]:
        """A level laid over the coarser ones: colour (H, W, 3) float32, depth (H, W), infinite where nothing is."""
        there = nearest != NOTHING
        own_depth = torch.where(there, (nearest >> 32).to(torch.int32).view(torch.float32), torch.inf)
        own_rgb = self.colors[torch.where(there, nearest & INDEX, 0)].float()
        if rgb is None or depth is None:
            return own_rgb, own_depth
        rgb, depth = _doubled(rgb, depth, own_depth.shape)
        mine = own_depth <= depth * (1 + SAME)
        return torch.where(mine[..., None], own_rgb, rgb), torch.where(mine, own_depth, depth)


def _doubled(rgb: Tensor, depth: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A level at twice its resolution, cut to `size`: depth as it is, colour smooth among cells that are filled."""
    filled = depth.isfinite().float()[None, None]
    weighted = rgb.permute(2, 0, 1)[None] * filled
    smooth, share = (torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear") for x in (weighted, filled))
    smooth = (smooth / share.clamp(min=1e-6))[0].permute(1, 2, 0)
    depth = depth.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return smooth[: size[0], : size[1]], depth[: size[0], : size[1]]


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
