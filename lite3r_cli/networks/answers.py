"""Convert cameras and depth of the published networks to a RawOutput, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.base import RawOutput


def raw_output(
    depth: Tensor, confidence: Tensor, world_from_cam: Tensor, fov: Tensor, images: Tensor, decoded: Tensor
) -> RawOutput:
    """The RawOutput in the frame of the first view.

    Depth and confidence (B, V, H, W) are of the views `decoded` (V,); world_from_cam (B, S, 3, 4) may be in any frame;
    `fov` (B, S, 2) is (vertical, horizontal) in radians; only the size of `images` (…, H, W) is used.
    """
    size = torch.tensor(images.shape[-2:], dtype=torch.float32, device=images.device)
    focal = pose.focal_from_fov(fov.clamp(*pose.FOV_RANGE), size)
    half_diagonal = 0.5 * size.norm()
    rotation, centre = world_from_cam[..., :3], world_from_cam[..., 3]
    first = rotation[:, :1].transpose(-1, -2)
    moved = (first @ (centre - centre[:, :1])[..., None]).squeeze(-1)
    log_focal = (focal / half_diagonal).log().mean(-1)
    return RawOutput(depth.log(), confidence, decoded, first @ rotation, moved, log_focal, None)
