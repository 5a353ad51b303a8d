"""LingBot-Map's RawOutput, with gradients and in its `compute_dtype`. All frames attend to each other, as in its first
pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.answers import raw_output
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.lingbot_map.network import LingBotMap


def answer(network: LingBotMap, images: Tensor, decoded: Tensor) -> RawOutput:
    """The RawOutput for images (B, S, 3, H, W) in [0, 1]; depth only for the views `decoded` (V,)."""
    out = network.together(images)
    vectors = out.vectors[-1]
    rotation = pose.rotation_from_quaternion(vectors[..., 3:7])
    world_from_cam = torch.cat([rotation, vectors[..., :3, None]], dim=-1)
    return raw_output(
        out.depth[:, decoded], out.confidence[:, decoded], world_from_cam, vectors[..., 7:], images, decoded
    )
