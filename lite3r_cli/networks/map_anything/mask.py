"""Pixels that show no surface (sky, and edges between near and far), and the pinhole camera behind predicted rays."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DEPTH_EDGE = 0.03  # relative difference of depths within 3×3 pixels
NORMAL_EDGE = math.radians(5)
SAMPLES = 50  # rows and columns of which the camera is fitted, about
LARGE = 1_000_000  # pixels; larger pictures get their camera from three of each axis
SMALLEST_NORM = 1e-12


def shows_surface(points: Tensor, unambiguous: Tensor, confident: Tensor | None = None) -> Tensor:
    """Points (H, W, 3) in the camera's or the world's axes, depth being their z, and two masks (H, W) → (H, W) bool:
    those that are `unambiguous` and `confident` and no edge of both depth and surface.
    """
    return without_edges(points[..., 2], points, unambiguous if confident is None else unambiguous & confident)


def without_edges(depth: Tensor, points: Tensor, kept: Tensor) -> Tensor:
    """`kept` (H, W) without the pixels at which z-depth (H, W) jumps and the surface of points (H, W, 3) turns."""
    return kept & ~(depth_edges(depth, kept) & normal_edges(points, kept))


def depth_edges(depth: Tensor, kept: Tensor) -> Tensor:
    """Where the depths of 3×3 neighbours that are `kept` differ by more than DEPTH_EDGE of the pixel's own."""
    below = torch.finfo(depth.dtype).min
    largest, negated = (_largest_of_nine(torch.where(kept, values, below)) for values in (depth, -depth))
    return (largest + negated) / depth > DEPTH_EDGE


def normal_edges(points: Tensor, kept: Tensor) -> Tensor:
    """Where normals within 3×3 pixels, or within 3×3 pixels of a neighbour, differ by more than NORMAL_EDGE."""
    normals, has_normal = surface_normals(points, kept)
    normals = normals / (normals.norm(dim=-1, keepdim=True) + SMALLEST_NORM)
    padded = F.pad(normals.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0]
    valid = F.pad(has_normal[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0] > 0
    height, width = kept.shape
    angle = torch.zeros(height, width, device=points.device)
    for i in range(3):
        for j in range(3):
            near = padded[:, i : i + height, j : j + width].permute(1, 2, 0)
            # rounding makes the cosine of equal normals exceed 1 now and then: the authors' maximum is NaN there, too
            turned = torch.where(valid[i : i + height, j : j + width], (normals * near).sum(-1).acos(), 0.0)
            angle = torch.maximum(angle, turned)
    return _largest_of_nine(angle.nan_to_num(nan=-math.inf)) > NORMAL_EDGE


def surface_normals(points: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Normals (H, W, 3) of points (H, W, 3), the mean of those of up to four triangles with two `kept` neighbours, and
    where there is one; 0 elsewhere.
    """
    padded = F.pad(points, (0, 0, 1, 1, 1, 1))
    inside = F.pad(kept, (1, 1, 1, 1))
    height, width = kept.shape
    around = []  # up, left, down, right
    for i, j in ((0, 1), (1, 0), (2, 1), (1, 2)):
        shift = (slice(i, i + height), slice(j, j + width))
        around.append((padded[shift] - points, inside[shift] & kept))
    total, count = torch.zeros_like(points), torch.zeros_like(kept)
    for (a, a_kept), (b, b_kept) in zip(around, around[1:] + around[:1]):
        normal = torch.linalg.cross(a, b)
        normal = normal / (normal.norm(dim=-1, keepdim=True) + SMALLEST_NORM)
        both = a_kept & b_kept
        total = total + torch.where(both[..., None], normal, 0.0)
        count = count | both
    return total / (total.norm(dim=-1, keepdim=True) + SMALLEST_NORM), count


def _largest_of_nine(values: Tensor) -> Tensor:
    """The maximum over the 3×3 neighbourhood inside the picture, of (H, W)."""
    return F.max_pool2d(values[None, None], 3, 1, 1)[0, 0]


def intrinsics_from_rays(rays: Tensor, seen: Tensor | None = None) -> Tensor:
    """The pinhole camera of rays (S, H, W, 3), least squares with the principal point, over the pixels `seen` (S, H, W)
    bool: K (S, 3, 3), pixel centres at whole numbers.
    """
    height, width = rays.shape[1:3]
    plane = rays[..., :2] / rays[..., 2:]  # (S, H, W, 2)
    K = torch.zeros(len(rays), 3, 3, device=rays.device)
    K[:, 2, 2] = 1
    if height * width > LARGE and seen is None:
        middle = plane[:, height // 2, width // 2]
        for axis, side in enumerate((width, height)):
            ends = [side // 4, 3 * side // 4]
            for end in ends:
                at = plane[:, height // 2, end] if axis == 0 else plane[:, end, width // 2]
                K[:, axis, axis] += (end - side // 2) / (at - middle)[:, axis] / len(ends)
            K[:, axis, 2] = side // 2 - K[:, axis, axis] * middle[:, axis]
        return K
    down, along = max(1, height // SAMPLES), max(1, width // SAMPLES)
    some = plane[:, ::down, ::along]
    v = torch.arange(0, height, down, device=rays.device, dtype=rays.dtype)[:, None].expand(some.shape[1:3])
    u = torch.arange(0, width, along, device=rays.device, dtype=rays.dtype)[None].expand(some.shape[1:3])
    weight = torch.ones_like(some[..., 0]) if seen is None else seen[:, ::down, ::along].to(some)
    weight = (weight / weight.sum((1, 2), keepdim=True)).double()
    for axis, pixel in enumerate((u, v)):
        slope = some[..., axis].double()
        mean, middle = ((weight * values).sum((1, 2), keepdim=True) for values in (slope, pixel.double()))
        spread = (weight * (slope - mean).square()).sum((1, 2)).clamp(min=SMALLEST_NORM)
        focal = (weight * (slope - mean) * (pixel - middle)).sum((1, 2)) / spread
        K[:, axis, axis], K[:, axis, 2] = focal, middle[:, 0, 0] - focal * mean[:, 0, 0]
    return K
