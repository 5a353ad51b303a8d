"""Recompute the outputs of a VGGT parity fixture (`networks/parity.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks.parity import ready
from lite3r_cli.networks.vggt.network import SPECIALS, VGGT, VGGT_1B, VGGTConfig

ENCODERS = {  # name of a VGGT's image encoder → blocks, heads
    "dinov2_vits14_reg": (12, 6),
    "dinov2_vitb14_reg": (12, 12),
    "dinov2_vitl14_reg": (24, 16),
}
POSE_ROUND_TOKENS, POSE_ROUND_CHANNELS = SPECIALS + 3, 64  # the part of the last tokens that fixtures store


def vggt_from(config: Mapping[str, Any]) -> VGGT:
    """The network of a fixture, on the meta device."""
    with unfilled():
        if config["model"] == "vggt-1b":
            return VGGT(VGGT_1B)
        depth, heads = ENCODERS[config["patch_embed"]]
        sizes = VGGTConfig(
            dim=config["embed_dim"],
            pairs=config["depth"],
            heads=config["num_heads"],
            encoder_depth=depth,
            encoder_heads=heads,
            taps=tuple(config["intermediate_layer_idx"]),
            head_features=config["head_features"],
            head_stages=tuple(config["head_out_channels"]),
        )
        return VGGT(sizes)


@torch.inference_mode()
def recompute(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Output name → value, recomputed from the configuration and the inputs of a parity fixture."""
    model = vggt_from(config)
    images = ready(model, config)
    out = model(images, points="world_points" in arrays)
    vector = out.pose_rounds[-1]
    R = pose.rotation_from_quaternion(vector[..., 3:7])
    step = config["subsample"]
    found = {
        "pose_enc": vector,
        "pose_enc_first": out.pose_rounds[0],
        "tokens_last": out.last_tokens[:, :, :POSE_ROUND_TOKENS, :POSE_ROUND_CHANNELS],
        "extrinsics": torch.cat([R, vector[..., :3, None]], dim=-1),
        "fov_xy": vector[..., 7:].flip(-1),
        "depth": out.depth[:, :, ::step, ::step],
        "depth_conf": out.confidence[:, :, ::step, ::step],
    }
    if out.points is not None:
        found["world_points"] = out.points[:, :, ::step, ::step]
        found["world_points_conf"] = out.points_confidence[:, :, ::step, ::step]
    return found
