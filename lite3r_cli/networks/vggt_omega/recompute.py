"""Recompute the outputs of a VGGT-Ω parity fixture (`networks/parity.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.parity import ready
from lite3r_cli.networks.vggt_omega.network import OMEGA_1B, SPECIALS, VGGTOmega, VGGTOmegaConfig

CHANNELS = 64  # channels of the tokens in fixtures; for tapped tokens, half of them from each half
PATCHES = {"encoder": 8, "tapped": SPECIALS + 3}


def omega_from(config: Mapping[str, Any]) -> VGGTOmega:
    """The network of a fixture, on the meta device."""
    with torch.device("meta"):
        if "embed_dim" not in config:
            return VGGTOmega(OMEGA_1B)
        sizes = VGGTOmegaConfig(
            dim=config["embed_dim"],
            pairs=config["depth"],
            heads=config["num_heads"],
            encoder_depth=config["encoder_depth"],
            encoder_heads=config["encoder_heads"],
            register_pairs=tuple(config["register_attention_block_indices"]),
            taps=tuple(config["intermediate_layer_idx"]),
            head_features=config["head_features"],
            head_stages=tuple(config["head_out_channels"]),
        )
        return VGGTOmega(sizes)


@torch.inference_mode()
def recompute(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Output name → value, recomputed from the configuration and the inputs of a parity fixture."""
    model = omega_from(config)
    constants = {n: v for n, v in model.constants().items() if n.rsplit(".", 1)[-1] in config["constants"]}
    images = ready(model, config, constants)
    seen: dict[str, list[Tensor]] = {"encoder": [], "near": [], "far": []}
    aggregator = model.aggregator
    aggregator.patch_embed.register_forward_hook(lambda _, __, out: seen["encoder"].append(out))
    aggregator.frame_blocks[model.config.taps[0]].register_forward_hook(lambda _, __, out: seen["near"].append(out))
    aggregator.inter_frame_blocks[model.config.taps[0]].register_forward_hook(
        lambda _, __, out: seen["far"].append(out)
    )
    last: dict[str, Tensor] = {}
    aggregator.frame_blocks[-1].register_forward_hook(lambda _, __, out: last.update(near=out))
    aggregator.inter_frame_blocks[-1].register_forward_hook(lambda _, __, out: last.update(far=out))
    out = model(images)
    batch, views = images.shape[:2]
    step = config["subsample"]

    def pair(near: Tensor, far: Tensor) -> Tensor:
        parts = [t.reshape(batch, views, -1, t.shape[-1]) for t in (near, far)]
        return torch.cat([t[:, :, : PATCHES["tapped"], : CHANNELS // 2] for t in parts], dim=-1)

    size = torch.tensor([config["height"], config["width"]], dtype=torch.float32)
    rotation = pose.rotation_from_quaternion(out.vectors[..., 3:7])
    encoder = seen["encoder"][0].unflatten(0, (batch, views))
    return {
        "pose_enc": out.vectors,
        "extrinsics": torch.cat([rotation, out.vectors[..., :3, None]], dim=-1),
        "intrinsics": pose.intrinsics(pose.focal_from_fov(out.vectors[..., 7:], size), size.expand(batch, views, 2)),
        "fov_xy": out.vectors[..., 7:].flip(-1),
        "depth": out.depth[:, :, ::step, ::step],
        "depth_conf": out.confidence[:, :, ::step, ::step],
        "tokens_encoder": encoder[:, :, : PATCHES["encoder"], :CHANNELS],
        "tokens_early": pair(seen["near"][0], seen["far"][0]),
        "tokens_late": pair(last["near"], last["far"]),
    }
