"""Mask of pixels without a surface (sky, depth edges), and the pinhole camera that fits predicted rays."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

DEPTH_EDGE = 0.03  # relative depth difference within 3×3 pixels
NORMAL_EDGE = math.radians(5)
SAMPLES = 50  # the camera is fitted to about this many rows and columns
LARGE = 1_000_000  # pixels; for larger images the camera is computed from three pixels per axis
SMALLEST_NORM = 1e-12


def shows_surface(points: Tensor, unambiguous: Tensor, confident: Tensor | None = None) -> Tensor:
    """Mask (H, W) of the pixels that are `unambiguous` and `confident` (masks (H, W)) and not on an edge in both depth
    and normals. `points` (H, W, 3) are in camera or world axes; their z is used as depth.
    """
    return without_edges(points[..., 2], points, unambiguous if confident is None else unambiguous & confident)


def without_edges(depth: Tensor, points: Tensor, kept: Tensor) -> Tensor:
    """`kept` (H, W) without the pixels on an edge in both z-depth (H, W) and the normals of points (H, W, 3)."""
    return kept & ~(depth_edges(depth, kept) & normal_edges(points, kept))


def depth_edges(depth: Tensor, kept: Tensor) -> Tensor:
    """Mask (H, W): the range of the `kept` depths within 3×3 pixels exceeds DEPTH_EDGE times the pixel's depth."""
    below = torch.finfo(depth.dtype).min
    largest, negated = (_largest_of_nine(torch.where(kept, values, below)) for values in (depth, -depth))
    return (largest + negated) / depth > DEPTH_EDGE


def normal_edges(points: Tensor, kept: Tensor) -> Tensor:
    """Mask (H, W): the normals within 3×3 pixels, of the pixel or of a neighbour, differ by more than NORMAL_EDGE."""
    normals, has_normal = surface_normals(points, kept)
    normals = normals / (normals.norm(dim=-1, keepdim=True) + SMALLEST_NORM)
    padded = F.pad(normals.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")[0]
    valid = F.pad(has_normal[None, None].float(), (1, 1, 1, 1), mode="replicate")[0, 0] > 0
    height, width = kept.shape
    angle = torch.zeros(height, width, device=points.device)
    for i in range(3):
        for j in range(3):
            near = padded[:, i : i + height, j : j + width].permute(1, 2, 0)
            # by rounding the cosine of equal normals may exceed 1; the authors' maximum is NaN there, too
            turned = torch.where(valid[i : i + height, j : j + width], (normals * near).sum(-1).acos(), 0.0)
            angle = torch.maximum(angle, turned)
    return _largest_of_nine(angle.nan_to_num(nan=-math.inf)) > NORMAL_EDGE


def surface_normals(points: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Normals (H, W, 3) of points (H, W, 3), 0 where unknown, and the mask (H, W) of known ones. A normal is the mean
    of up to four triangles with two `kept` neighbours.
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
    """The maximum of `values` (H, W) over the 3×3 neighbourhood inside the image."""
    return F.max_pool2d(values[None, None], 3, 1, 1)[0, 0]


def intrinsics_from_rays(rays: Tensor, seen: Tensor | None = None) -> Tensor:
    """K (S, 3, 3), pixel centres at integers, of the pinhole camera that fits rays (S, H, W, 3) by least squares,
    including the principal point. `seen` (S, H, W) masks the pixels to use; None: all.
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
