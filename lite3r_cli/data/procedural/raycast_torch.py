"""The ray caster in plain torch, for any device: each function mirrors one of raycast.cu.

The rays of one view are processed together; a primitive is only tested on the rays that meet its bounding sphere.
"""

from __future__ import annotations

import torch

from lite3r_cli.data.procedural.intersect_torch import dot, intersect, local_normal
from lite3r_cli.data.procedural.scene import SceneBatch
from lite3r_cli.data.procedural.shade_torch import View, hash32, shade, sky

FAR = 1e9
OFFSETS = (
    (0.0, 0.0), (0.25, 0.375), (-0.375, 0.125), (0.125, -0.25),
    (-0.125, -0.375), (0.375, -0.125), (-0.25, 0.25), (0.4375, -0.4375),
)  # fmt: skip


def raycast(
    batch: SceneBatch,
    atlas: torch.Tensor,
    cameras: torch.Tensor,
    height: int,
    width: int,
    samples: int,
    bias: float,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear colour (B, S, 3, H, W) and z-depth (B, S, H, W) in metres, 0 = sky.

    `cameras` (B, S, 21) holds K, then cam_from_world; `atlas` is (T, 87381, 4) uint8. `samples` rays are cast per
    pixel, the first through its centre; `bias` is added to the mip level.
    """
    b, s = cameras.shape[:2]
    image = torch.empty((b, s, 3, height, width), device=batch.device)
    depth = torch.empty((b, s, height, width), device=batch.device)
    for i in range(b):
        for j in range(s):
            view = View(
                batch.geometry[i, : int(batch.counts[i])],
                batch.material[i],
                batch.environment[i],
                atlas,
                pixel_scale(cameras[i, j], bias),
            )
            rgb, z = _render(
                view, cameras[i, j], height, width, samples, pixel_seeds(seed, i * s + j, height, width, batch.device)
            )
            image[i, j] = rgb.T.reshape(3, height, width)
            depth[i, j] = z.reshape(height, width)
    return image, depth


def pixel_scale(camera: torch.Tensor, bias: float) -> float:
    """Width of a pixel at depth 1, times 2^bias."""
    return float(2.0**bias / torch.sqrt(camera[0] * camera[4]))


def pixel_seeds(seed: int, view: int, height: int, width: int, device: torch.device) -> torch.Tensor:
    """A 32-bit hash per pixel of one view, (H * W,) int64."""
    y = torch.arange(height, device=device)[:, None]
    x = torch.arange(width, device=device)[None]
    mixed = (view * 0x9E3779B9 + y * 65536 + x) & 0xFFFFFFFF
    return hash32((seed & 0xFFFFFFFF) ^ hash32(mixed)).reshape(-1)


def camera_rays(
    camera: torch.Tensor, height: int, width: int, offset: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """World origins and directions (H * W, 3). Directions have camera z = 1, so the ray parameter is the z-depth."""
    k, pose = camera[:9].reshape(3, 3), camera[9:].reshape(3, 4)
    y = torch.arange(height, device=camera.device, dtype=torch.float32)[:, None].expand(height, width) + 0.5 + offset[1]
    x = torch.arange(width, device=camera.device, dtype=torch.float32)[None].expand(height, width) + 0.5 + offset[0]
    d = torch.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], torch.ones_like(x)], -1).reshape(-1, 3)
    origin = -(pose[:, :3].T @ pose[:, 3])
    return origin.expand_as(d), d @ pose[:, :3]


def _render(view: View, camera, height, width, samples, seeds):
    total = torch.zeros((), device=camera.device)
    for k in range(samples):
        o, d = camera_rays(camera, height, width, OFFSETS[k & 7])
        t, index, part = nearest(view, o, d)
        if k == 0:
            depth = torch.where(index < 0, 0.0, t)
        color = sky(view, d / d.norm(dim=1, keepdim=True))
        hit = (index >= 0).nonzero()[:, 0]
        if len(hit):
            sample_seeds = hash32((seeds[hit] + 64 * k) & 0xFFFFFFFF)
            color[hit] = shade(view, o[hit], d[hit], t[hit], index[hit], part[hit], sample_seeds)
        total = total + color
    return total / samples, depth


def nearest(view: View, o: torch.Tensor, d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First hit of each ray: t (FAR if none), primitive index (-1 if none) and part, each (N,)."""
    best = torch.full((len(o),), FAR, device=o.device)
    index = torch.full((len(o),), -1, dtype=torch.int64, device=o.device)
    part = torch.zeros(len(o), dtype=torch.int64, device=o.device)
    length2 = dot(d, d)
    for i, g in enumerate(view.geometry):
        c = g[12:15] - o
        along = (dot(c, d) / length2).clamp(min=0)
        q = c - d * along[:, None]
        rays = (dot(q, q) <= g[15] ** 2 * 1.001).nonzero()[:, 0]
        if not len(rays):
            continue
        hit, t, where = intersect(g, view.atlas, o[rays], d[rays], 1e-4, best[rays])
        rays, t, where = rays[hit], t[hit], where[hit]
        best[rays], part[rays] = t, where
        index[rays] = i
    return best, index, part


__all__ = ["camera_rays", "local_normal", "nearest", "raycast"]
