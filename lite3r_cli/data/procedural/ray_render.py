"""Images and depth from packed scenes and cameras: ray casting on the batch's device, exposure, tone curve."""

from __future__ import annotations

import torch

from lite3r_cli.data.procedural import raycast_cuda, raycast_torch
from lite3r_cli.data.procedural.scene import SceneBatch
from lite3r_cli.data.procedural.textures import Atlas

RAYCASTERS = {"cuda": raycast_cuda.raycast, "cpu": raycast_torch.raycast}


def render(
    batch: SceneBatch,
    atlas: Atlas,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    height: int,
    width: int,
    seed: int = 0,
    *,
    samples: int = 2,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, S, 3, H, W) in [0, 1] and z-depth (B, S, H, W) in metres, 0 = sky.

    `K` (B, S, 3, 3) in pixels (pixel centres at +0.5), `cam_from_world` (B, S, 3, 4). All tensors must be on one
    device. `samples` rays are cast per pixel; the first one, through the centre, gives the depth.

    Raises BackendError on CUDA without CuPy.
    """
    cameras = torch.cat([K.flatten(2), cam_from_world.flatten(2)], 2).float().contiguous()  # (B, S, 21)
    bias = -0.25 * (min(samples, 8) - 1) ** 0.5
    linear, depth = RAYCASTERS[batch.device.type](batch, atlas.texels, cameras, height, width, samples, bias, seed)
    return develop(linear, batch.environment[:, 65]), depth


def develop(linear: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Display values in [0, 1] from linear radiance (B, S, 3, H, W).

    Each scene has one exposure, which maps the log-average of its luminance to `key` (B,) (Reinhard et al. 2002).
    """
    luminance = linear.mean(2)
    average = torch.exp(torch.log(luminance + 1e-3).mean((1, 2, 3)))
    exposure = (key.square() / average)[:, None, None, None, None]
    return torch.sqrt(1 - torch.exp(-1.15 * exposure * linear))
