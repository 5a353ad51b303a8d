"""Recompute the outputs of a MapAnything parity fixture (`networks/parity.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.map_anything.conditions import Conditions, along_rays, pixel_rays
from lite3r_cli.networks.map_anything.mask import intrinsics_from_rays, without_edges
from lite3r_cli.networks.map_anything.network import MapAnything, MapAnythingConfig, MapAnythingV1Config
from lite3r_cli.networks.parity import ready

TOKENS, CHANNELS = 8, 64  # the part of the tokens that fixtures store
AFTERWARDS = "map-anything-post"  # a fixture of the post-processing, without the network
SIZES = {  # entry of a fixture → field of the configuration
    "embed_dim": "encoder_dim",
    "encoder_depth": "encoder_depth",
    "encoder_heads": "encoder_heads",
    "info_dim": "dim",
    "info_depth": "depth",
    "info_heads": "heads",
    "indices": "taps",
    "head_features": "head_features",
    "head_layer_dims": "head_stages",
    "dense_dims": "dense_widths",
    "global_dims": "global_widths",
}


def map_anything_from(config: Mapping[str, Any]) -> MapAnything:
    """The network of a fixture, on the meta device."""
    kind = MapAnythingV1Config if config["model"] == "map-anything-v1" else MapAnythingConfig
    sizes: dict[str, Any] = {SIZES[k]: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in SIZES}
    with torch.device("meta"):
        return MapAnything(kind(**sizes), config["model"])


def _conditions(arrays: Mapping[str, np.ndarray], images: Tensor) -> Conditions | None:
    given = {name[3:]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("in_")}
    if not given:
        return None
    batch, views, _, height, width = images.shape

    def has(kind: str) -> Tensor:
        return given.get(f"has_{kind}", torch.full((batch, views), kind in given)).bool()

    K = given.get("intrinsics", torch.eye(3).expand(batch, views, 3, 3))
    rays = torch.stack([pixel_rays(K[:, i], height, width) for i in range(views)], dim=1)
    if "ray_directions" in given:
        stated = given["ray_directions"].movedim(-1, 2)
        stated = stated / (stated.norm(dim=2, keepdim=True) + 1e-8)
        rays = torch.where(has("ray_directions")[:, :, None, None, None], stated, rays)
    z = given.get("depth_z", torch.zeros(batch, views, height, width))
    z = torch.where(has("depth_z")[:, :, None, None], z, 0.0)
    matrix = given.get("camera_poses", torch.eye(4).expand(batch, views, 4, 4))
    quaternion = pose.quaternion_from_rotation(matrix[..., :3, :3])
    translation = matrix[..., :3, 3]
    if "camera_quats" in given:
        stated_too = has("camera_quats")[..., None]
        quaternion = torch.where(stated_too, given["camera_quats"], quaternion)
        translation = torch.where(stated_too, given["camera_trans"], translation)
    return Conditions(
        rays=[rays[:, i] for i in range(views)],
        has_rays=has("intrinsics") | has("ray_directions"),
        depth=[along_rays(z[:, i], rays[:, i]) for i in range(views)],
        has_depth=has("depth_z"),
        quaternion=quaternion,
        translation=translation,
        has_pose=has("camera_poses") | has("camera_quats"),
        metric=given.get("is_metric_scale", torch.ones(batch, views)).bool(),
    )


@torch.inference_mode()
def recompute(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Output name → value, recomputed from the configuration and the inputs of a parity fixture."""
    if config["model"] == AFTERWARDS:
        return afterwards(arrays)
    model = map_anything_from(config)
    images = ready(model, config, model.constants())
    seen: dict[str, Tensor] = {}
    # hooks must return None: any other value would replace the output
    model.encoder.register_forward_hook(lambda _, __, out: seen.update(first=out[0], encoder=out[1]))
    out = model(images, _conditions(arrays, images))
    batch, views = images.shape[:2]
    corner = (slice(None), slice(None), slice(TOKENS), slice(CHANNELS))
    sampled = (slice(None), slice(None), slice(None, None, config["subsample"]), slice(None, None, config["subsample"]))
    metric = out.metric[:, None, None, None]
    depth = out.maps.depth * metric
    poses = _matrices(out.quaternion, out.translation * metric[..., 0])
    tokens = {f"tokens_{name}": t[corner] for name, t in zip(("fused", "early", "mid", "late"), out.features.maps)}
    return tokens | {
        "ray_directions": out.maps.rays[sampled],
        "depth_along_ray": depth[sampled],
        "conf": out.maps.confidence[sampled],
        "mask_logits": out.maps.logit[sampled],
        "pts3d": _world_points(out.maps.rays * depth[..., None], poses)[sampled],
        "cam_quats": out.quaternion,
        "cam_trans": out.translation * metric[..., 0],
        "camera_poses": poses,
        "metric_scaling_factor": out.metric,
        "tokens_encoder": seen["encoder"].unflatten(0, (batch, views))[corner],
        "tokens_class": seen["first"].reshape(batch, views, -1)[..., :CHANNELS],
        "token_scale": out.scale_token[:, :CHANNELS],
    }


def _matrices(quaternion: Tensor, translation: Tensor) -> Tensor:
    """world_from_cam (B, S, 4, 4)."""
    upper = torch.cat([pose.rotation_from_quaternion(quaternion), translation[..., None]], dim=-1)
    bottom = torch.tensor([0.0, 0, 0, 1]).expand(*upper.shape[:2], 1, 4)
    return torch.cat([upper, bottom], dim=2)


def _world_points(local: Tensor, poses: Tensor) -> Tensor:
    """Points (B, S, H, W, 3) in camera coordinates → world coordinates."""
    return torch.einsum("bsij,bshwj->bshwi", poses[:, :, :3, :3], local) + poses[:, :, None, None, :3, 3]


def afterwards(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The outputs of the post-processing: masks, masked points and depth, intrinsics."""
    given = {name[3:]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("in_")}
    rays, confidence = given["ray_directions"], given["conf"]
    unambiguous = given["non_ambiguous_mask"].bool()
    local = rays * given["depth_along_ray"].reshape(*rays.shape[:-1], 1)
    poses = _matrices(given["cam_quats"], given["cam_trans"])
    points = _world_points(local, poses)
    confidence, unambiguous = (t.reshape(rays.shape[:-1]) for t in (confidence, unambiguous))
    least = torch.quantile(confidence.flatten(2), 0.1, dim=2)
    masks = {"mask": unambiguous, "mask_conf": unambiguous & (confidence > least[..., None, None])}
    for name, mask in masks.items():
        masks[name] = torch.stack(
            [torch.stack([without_edges(*each) for each in zip(*scene)]) for scene in zip(local[..., 2], points, mask)]
        )
    K = intrinsics_from_rays(rays.flatten(0, 1)).unflatten(0, rays.shape[:2])
    return masks | {
        "mask_plain": unambiguous,
        "depth_z": local[..., 2] * masks["mask"],
        "pts3d": points * masks["mask"][..., None],
        "camera_poses": poses,
        "intrinsics": K,
    }
