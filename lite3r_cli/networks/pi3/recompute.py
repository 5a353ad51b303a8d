"""Recompute the outputs of a π³ or Pi3X parity fixture (`networks/parity.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.networks.parity import ready
from lite3r_cli.networks.pi3.conditions import Conditions, pixel_rays
from lite3r_cli.networks.pi3.network import Pi3, Pi3Config, Pi3XConfig, intrinsics_from_points

TOKENS, CHANNELS = 8, 64  # the part of the tokens that fixtures store
SIZES = {  # entry of a fixture → field of the configuration
    "embed_dim": "dim",
    "depth": "depth",
    "num_heads": "heads",
    "encoder_depth": "encoder_depth",
    "encoder_heads": "encoder_heads",
    "head_dim": "head_dim",
    "head_heads": "head_heads",
    "head_depth": "head_depth",
    "head_out": "head_out",
    "camera_out": "camera_out",
    "conv_channels": "conv_channels",
    "conv_last": "conv_last",
    "metric_dim": "metric_dim",
    "metric_heads": "metric_heads",
    "metric_out": "metric_out",
    "inject_after": "inject_after",
}


def pi3_from(config: Mapping[str, Any]) -> Pi3:
    """The network of a fixture, on the meta device."""
    kind = Pi3XConfig if config["model"] == "pi3x" else Pi3Config
    sizes: dict[str, Any] = {SIZES[k]: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in SIZES}
    with torch.device("meta"):
        return Pi3(kind(**sizes))


def _conditions(arrays: Mapping[str, np.ndarray], images: Tensor) -> Conditions | None:
    given = {name[3:]: torch.from_numpy(array) for name, array in arrays.items() if name.startswith("in_")}
    if not given:
        return None
    batch, views, _, height, width = images.shape

    def mask(kind: str, source: str) -> Tensor:
        default = torch.full((batch, views), source in given)
        return given.get(f"mask_add_{kind}", default).bool()

    poses = given.get("poses", torch.eye(4).expand(batch, views, 4, 4))
    K = given.get("intrinsics", torch.eye(3).expand(batch, views, 3, 3))
    depth = given.get("depths", torch.zeros(batch, views, height, width))
    return Conditions(
        poses[:, :, :3],
        mask("pose", "poses"),
        [pixel_rays(K[:, i], height, width) for i in range(views)],
        mask("ray", "intrinsics"),
        [depth[:, i] for i in range(views)],
        mask("depth", "depths"),
    )


@torch.inference_mode()
def recompute(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Output name → value, recomputed from the configuration and the inputs of a parity fixture."""
    model = pi3_from(config)
    images = ready(model, config)
    seen: dict[str, Tensor] = {}
    # hooks must return None: any other value would replace the output
    model.encoder.register_forward_hook(lambda _, __, out: seen.update(encoder=out))
    model.decoder[0].register_forward_pre_hook(lambda _, args: seen.update(given=args[0]))
    model.decoder[1].register_forward_hook(lambda _, __, out: seen.update(early=out))
    given = _conditions(arrays, images)
    out = model(images, given)
    batch, views = images.shape[:2]
    step = config["subsample"]
    corner = (slice(None), slice(None), slice(TOKENS), slice(CHANNELS))

    def per_view(tokens: Tensor) -> Tensor:
        return tokens.reshape(batch, views, -1, tokens.shape[-1])[corner]

    pose4 = torch.cat([out.world_from_cam, torch.tensor([0.0, 0, 0, 1]).expand(batch, views, 1, 4)], dim=2)
    points = torch.einsum("bsij,bshwj->bshwi", out.world_from_cam[..., :3], out.local_points)
    points = points + out.world_from_cam[:, :, None, None, :, 3]
    half = model.config.dim
    late = out.features.tokens[:, :, :TOKENS]
    K = intrinsics_from_points(out.local_points[0])[None]
    K[..., 0, 2] -= 0.5  # in fixtures, pixel centres are at integers
    K[..., 1, 2] -= 0.5
    size = torch.tensor(images.shape[-1:-3:-1], dtype=torch.float32)
    sampled = out.local_points[:, :, ::step, ::step]
    found = {
        "camera_poses": pose4,
        "local_points": sampled,
        "points": points[:, :, ::step, ::step],
        "conf": out.confidence[:, :, ::step, ::step],
        "intrinsics": K,
        "fov_xy": 2 * torch.atan2(size / 2, K[..., [0, 1], [0, 1]]),
        "tokens_encoder": per_view(seen["encoder"]),
        "tokens_given": per_view(seen["given"]),
        "tokens_early": per_view(seen["early"]),
        "tokens_late": torch.cat([late[..., : CHANNELS // 2], late[..., half : half + CHANNELS // 2]], dim=-1),
    }
    if out.metric is not None:
        rays = out.local_points / out.local_points[..., 2:]
        found |= {"metric": out.metric, "rays": F.normalize(rays, dim=-1)[:, :, :: 2 * step, :: 2 * step]}
    return found
