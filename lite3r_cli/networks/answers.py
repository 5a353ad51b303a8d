"""Cameras and depth of the published networks as a RawOutput, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.base import RawOutput


def raw_output(
    depth: Tensor, confidence: Tensor, world_from_cam: Tensor, fov: Tensor, images: Tensor, decoded: Tensor
) -> RawOutput:
    """Depth and confidence (B, V, H, W) of the views `decoded`, world_from_cam (B, S, 3, 4) in any frame, fields of
    view (B, S, 2) in radians as (vertical, horizontal) → the answer in the frame of the first view.
    """
    size = torch.tensor(images.shape[-2:], dtype=torch.float32, device=images.device)
    focal = pose.focal_from_fov(fov.clamp(*pose.FOV_RANGE), size)
    half_diagonal = 0.5 * size.norm()
    rotation, centre = world_from_cam[..., :3], world_from_cam[..., 3]
    first = rotation[:, :1].transpose(-1, -2)
    moved = (first @ (centre - centre[:, :1])[..., None]).squeeze(-1)
    log_focal = (focal / half_diagonal).log().mean(-1)
    return RawOutput(depth.log(), confidence, decoded, first @ rotation, moved, log_focal, None)
