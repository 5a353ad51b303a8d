"""Cameras as the published networks encode them: translation, quaternion (x, y, z, w) and two fields of view.

In their pixel convention pixel (0, 0) has its centre at 0 and the principal point is (W/2, H/2); `intrinsics` returns
that form. `centres_at_half` converts K to this program's convention (pixel centres at +0.5); every pixel keeps its ray.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST_TAN = 1e-6  # Depth-Anything-3's lower limit of tan(fov / 2)
FOV_RANGE = (0.01, 3.13)  # radians; K is nearly singular outside, and no real camera is there


def rotation_from_quaternion(q: Tensor) -> Tensor:
    """Quaternions (…, 4), scalar last, of any norm → rotations (…, 3, 3)."""
    x, y, z, w = q.unbind(-1)
    s = 2 / (q * q).sum(-1)
    rows = (
        1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
        s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
        s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_from_rotation(R: Tensor) -> Tensor:
    """Rotations (…, 3, 3) → unit quaternions (…, 4), scalar last and ≥ 0. Stable: divides by the largest component."""
    m = {(i, j): R[..., i, j] for i in range(3) for j in range(3)}
    d0, d1, d2 = m[0, 0], m[1, 1], m[2, 2]
    squares = torch.stack([1 + d0 + d1 + d2, 1 + d0 - d1 - d2, 1 - d0 + d1 - d2, 1 - d0 - d1 + d2], dim=-1)  # w x y z
    size = squares.clamp(min=0).sqrt()
    w2, x2, y2, z2 = (size**2).unbind(-1)
    a, b, c = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2]
    candidates = torch.stack(
        [torch.stack(c, dim=-1) for c in ((a, b, c, w2), (x2, xy, xz, a), (xy, y2, yz, b), (xz, yz, z2, c))], dim=-2
    )
    best = size.argmax(-1)
    divisor = 2 * size.clamp(min=0.1).gather(-1, best[..., None])
    q = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2) / divisor
    return torch.where(q[..., 3:] < 0, -q, q)


def invert_rigid(R: Tensor, t: Tensor) -> Tensor:
    """The inverse of x → R x + t as (…, 3, 4)."""
    inverse = R.transpose(-1, -2)
    return torch.cat([inverse, -inverse @ t[..., None]], dim=-1)


def focal_from_fov(fov: Tensor, size: Tensor, smallest_tan: float | None = None) -> Tensor:
    """Fields of view (…, 2) as (vertical, horizontal) in radians and image sizes (…, 2) as (H, W) → focal lengths
    (…, 2) as (fy, fx) in pixels.
    """
    tangent = (fov / 2).tan()
    return size / 2 / (tangent if smallest_tan is None else tangent.clamp(min=smallest_tan))


def fov_from_focal(focal: Tensor, size: Tensor) -> Tensor:
    """Inverse of `focal_from_fov` for fields of view below π."""
    return 2 * torch.atan2(size / 2, focal)


def intrinsics(focal: Tensor, size: Tensor) -> Tensor:
    """(fy, fx) and (H, W), each (…, 2) → K (…, 3, 3) with the principal point (W/2, H/2), see the top of this file."""
    K = torch.zeros(*focal.shape[:-1], 3, 3, dtype=focal.dtype, device=focal.device)
    K[..., 0, 0], K[..., 1, 1] = focal[..., 1], focal[..., 0]
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = size[..., 1] / 2, size[..., 0] / 2, 1
    return K


def centres_at_half(K: Tensor) -> Tensor:
    """K (…, 3, 3) for pixel centres at integers → K for pixel centres at +0.5: the principal point moves by 0.5."""
    return K + F.pad(K.new_full((2, 1), 0.5), (2, 0, 0, 1))


def centres_at_integers(K: Tensor) -> Tensor:
    """Inverse of `centres_at_half`."""
    return K - F.pad(K.new_full((2, 1), 0.5), (2, 0, 0, 1))


def usable_intrinsics(fov: Tensor, size: Tensor) -> Tensor:
    """K (…, 3, 3) in this program's convention, from fields of view (…, 2), clamped to FOV_RANGE, and sizes (…, 2)."""
    return centres_at_half(intrinsics(focal_from_fov(fov.clamp(*FOV_RANGE), size), size))


def cameras(vectors: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """cam_from_world (S, 3, 4) and K (S, 3, 3) from VGGT's pose vectors (S, 9), which are translation, quaternion (see
    `rotation_from_quaternion`) and fields of view, and image sizes (S, 2), height first.
    """
    poses = torch.cat([rotation_from_quaternion(vectors[:, 3:7]), vectors[:, :3, None]], dim=-1)
    return poses, usable_intrinsics(vectors[:, 7:], size)
