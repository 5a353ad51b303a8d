"""MapAnything's RawOutput, with gradients and in its `compute_dtype`."""

from __future__ import annotations

from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.map_anything.mask import intrinsics_from_rays
from lite3r_cli.networks.map_anything.network import MapAnything


def answer(network: MapAnything, images: Tensor, decoded: Tensor) -> RawOutput:
    """The RawOutput for images (B, S, 3, H, W) in [0, 1]; depth only for the views `decoded` (V,), including sky and
    edges.
    """
    (features,), scale = network.encode([images], [range(images.shape[1])])
    quaternion, translation = network.decode_cameras(features)
    metric = network.scale_head(scale.float())
    maps = network.decode(features)
    K = intrinsics_from_rays(maps.rays.flatten(0, 1)).unflatten(0, images.shape[:2])
    rotation, centre = pose.rotation_from_quaternion(quaternion), translation * metric[:, None, None]
    first = rotation[:, :1].transpose(-1, -2)
    moved = (first @ (centre - centre[:, :1])[..., None]).squeeze(-1)
    z = (maps.rays[..., 2] * maps.depth)[:, decoded] * metric[:, None, None, None]
    half_diagonal = 0.5 * (images.shape[-2] ** 2 + images.shape[-1] ** 2) ** 0.5
    log_focal = (K[..., [0, 1], [0, 1]].clamp(min=1e-3) / half_diagonal).log().mean(-1)
    log_depth = z.clamp(min=1e-6).log()
    return RawOutput(log_depth, maps.confidence[:, decoded], decoded, first @ rotation, moved, log_focal, None)
