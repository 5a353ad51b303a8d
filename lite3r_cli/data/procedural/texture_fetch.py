"""Bilinear and trilinear texture lookups in the atlas: the torch twins of the functions in raycast.cu."""

from __future__ import annotations

import torch

TEXELS = 87381  # 256² + 128² + … + 1

Tensor = torch.Tensor


def _wrap_texel(i: Tensor, size: Tensor, mirror: Tensor) -> Tensor:
    return torch.where(mirror, torch.minimum(i.clamp(min=0), size - 1), i & (size - 1))


def _wrap_coordinate(u: Tensor, mirror: Tensor) -> tuple[Tensor, Tensor]:
    w = u - 2.0 * torch.floor(u * 0.5)
    back = w > 1
    sign = torch.where(mirror & back, -1.0, 1.0)
    return torch.where(mirror, torch.where(back, 2.0 - w, w), u - torch.floor(u)), sign


def fetch_level(atlas: Tensor, texture: Tensor, level: Tensor, u: Tensor, v: Tensor, mirror: Tensor) -> Tensor:
    """Bilinear lookup at one mip level: (N, 6) with r, g, b, a in [0, 1] and the derivatives of a by u and v.

    `atlas` (T, TEXELS, 4) uint8; `mirror` (N,) bool chooses mirrored instead of periodic repeats.
    """
    size = 256 >> level
    u, su = _wrap_coordinate(u, mirror)
    v, sv = _wrap_coordinate(v, mirror)
    x, y = u * size - 0.5, v * size - 0.5
    xf, yf = torch.floor(x), torch.floor(y)
    fx, fy = (x - xf)[:, None], (y - yf)[:, None]
    x0, x1 = (_wrap_texel(xf.long() + k, size, mirror) for k in (0, 1))
    y0, y1 = (_wrap_texel(yf.long() + k, size, mirror) for k in (0, 1))
    base = texture * TEXELS + (262144 - (262144 >> (2 * level))) // 3
    flat = atlas.view(-1, 4)
    a, b, c, d = (flat[base + yy * size + xx].float() for yy in (y0, y1) for xx in (x0, x1))
    s = 1.0 / 255.0
    color = ((1 - fx) * (1 - fy) * a + fx * (1 - fy) * b + (1 - fx) * fy * c + fx * fy * d) * s
    du = ((b - a)[:, 3] * (1 - fy[:, 0]) + (d - c)[:, 3] * fy[:, 0]) * s * size * su
    dv = ((c - a)[:, 3] * (1 - fx[:, 0]) + (d - b)[:, 3] * fx[:, 0]) * s * size * sv
    return torch.cat([color, du[:, None], dv[:, None]], 1)


def fetch(atlas: Tensor, texture: Tensor, lod: Tensor, u: Tensor, v: Tensor, mirror: Tensor) -> Tensor:
    """Trilinear `fetch_level` at a fractional mip level (N,)."""
    lod = lod.clamp(0.0, 8.0)
    level = lod.long().clamp(max=7)
    p = fetch_level(atlas, texture, level, u, v, mirror)
    q = fetch_level(atlas, texture, level + 1, u, v, mirror)
    return p + (q - p) * (lod - level)[:, None]
