"""Recompute the outputs of a Depth-Anything-3 parity fixture (`networks/parity.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.heads.rays import cameras_from_rays
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks.da3.network import DA3, SIZES
from lite3r_cli.networks.parity import ready


@torch.inference_mode()
def recompute(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Output name → value, recomputed from the configuration and the inputs of a parity fixture."""
    with unfilled():
        model = DA3(SIZES[config["model"]])
    images = ready(model, config)
    model.reference_view = config.get("ref_view_strategy", model.reference_view)
    size = torch.tensor([config["height"], config["width"]], dtype=torch.float32).expand(1, config["views"], 2)
    tokens = None
    if "in_extrinsics" in arrays:
        poses, K = (torch.from_numpy(arrays[name]) for name in ("in_extrinsics", "in_intrinsics"))
        tokens = model.camera_tokens(poses, K, size)
    by_rays = bool(config.get("use_ray_pose"))
    out = model(images, tokens, rays=by_rays or "ray" in arrays)
    if by_rays:
        size_of_all = (config["height"], config["width"])
        found_by_rays = cameras_from_rays(out.rays[0], out.ray_confidence[0], size_of_all, config["seed"])
        poses, K = (t[None] for t in found_by_rays)
        focal = torch.stack([K[..., 1, 1], K[..., 0, 0]], dim=-1)
    else:
        poses = pose.invert_rigid(pose.rotation_from_quaternion(out.pose[..., 3:7]), out.pose[..., :3])
        focal = pose.focal_from_fov(out.pose[..., 7:], size, pose.SMALLEST_TAN)
    step = config["subsample"]
    found = {
        "extrinsics": poses,
        "intrinsics": pose.intrinsics(focal, size),
        "fov_xy": pose.fov_from_focal(focal, size).flip(-1),
        "depth": out.depth[:, :, ::step, ::step],
        "depth_conf": out.confidence[:, :, ::step, ::step],
    }
    if out.rays is not None:
        found |= {"ray": out.rays, "ray_conf": out.ray_confidence}
    return found
