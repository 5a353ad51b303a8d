"""Depth-Anything-3's RawOutput, with gradients and in its `compute_dtype`."""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.answers import raw_output
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.da3.network import DA3, Features


def answer(network: DA3, images: Tensor, decoded: Tensor) -> RawOutput:
    """The RawOutput for images (B, S, 3, H, W) in [0, 1]; depth only for the views `decoded` (V,)."""
    (features,), cameras = network.encode([images], [range(images.shape[1])])
    vectors = network.cam_dec(cameras)
    world_from_cam = torch.cat([pose.rotation_from_quaternion(vectors[..., 3:7]), vectors[..., :3, None]], dim=-1)
    maps = network.decode_depth(Features([t[:, decoded] for t in features.taps], features.grid))
    return raw_output(*maps, world_from_cam, vectors[..., 7:], images, decoded)
