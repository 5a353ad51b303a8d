"""VGGT's RawOutput, with gradients and in its `compute_dtype`."""

from __future__ import annotations

from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.answers import raw_output
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.vggt.network import VGGT, Features


def answer(network: VGGT, images: Tensor, decoded: Tensor) -> RawOutput:
    """The RawOutput for images (B, S, 3, H, W) in [0, 1]; depth only for the views `decoded` (V,)."""
    (features,), (special,) = network.encode([images], [range(images.shape[1])])
    vectors = network.camera_head(special[:, :, 0].float())[-1]
    rotation = pose.rotation_from_quaternion(vectors[..., 3:7])
    world_from_cam = pose.invert_rigid(rotation, vectors[..., :3])
    maps = network.decode_depth(Features([t[:, decoded] for t in features.taps], features.grid))
    return raw_output(*maps, world_from_cam, vectors[..., 7:], images, decoded)
