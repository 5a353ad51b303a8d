"""The RawOutput of π³ and Pi3X, with gradients and in their `compute_dtype`."""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.pi3.network import Pi3, intrinsics_from_points


def answer(network: Pi3, images: Tensor, decoded: Tensor) -> RawOutput:
    """The RawOutput for images (B, S, 3, H, W) in [0, 1]; depth only for the views `decoded` (V,)."""
    (features,) = network.encode([images], [range(images.shape[1])])
    poses = network.decode_cameras(features)
    points, logit = network.decode(features)
    K = intrinsics_from_points(points.flatten(0, 1)).unflatten(0, points.shape[:2])
    rotation, centre = poses[..., :3], poses[..., 3]
    first = rotation[:, :1].transpose(-1, -2)
    moved = (first @ (centre - centre[:, :1])[..., None]).squeeze(-1)
    depth = points[:, decoded, ..., 2]
    metric = network.metric_scale([features])
    if metric is not None:
        depth, moved = depth * metric[:, None, None, None], moved * metric[:, None, None]
    half_diagonal = 0.5 * torch.tensor(images.shape[-2:], dtype=torch.float32, device=images.device).norm()
    log_focal = (K[..., [0, 1], [0, 1]].clamp(min=1e-3) / half_diagonal).log().mean(-1)
    return RawOutput(depth.log(), 1 + logit[:, decoded].exp(), decoded, first @ rotation, moved, log_focal, None)
