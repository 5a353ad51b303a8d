"""Recompute the outputs of a LingBot-Map parity fixture (`networks/parity.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.lingbot_map.cache import SPECIALS
from lite3r_cli.networks.lingbot_map.network import LINGBOT_MAP, FrameOutput, LingBotMap, LingBotMapConfig
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.networks.lingbot_map.streaming import outputs
from lite3r_cli.networks.lingbot_map.windows import Chain, Moved, Part, fit
from lite3r_cli.networks.parity import ready

TOKENS, CHANNELS = 8, 64  # the part of the encoder's tokens that fixtures store
ALIGNMENT = "align"  # mode of a fixture that only aligns windows, without the network


def lingbot_map_from(config: Mapping[str, Any]) -> LingBotMap:
    """The network of a fixture, on the meta device."""
    with torch.device("meta"):
        if "embed_dim" not in config:
            return LingBotMap(LINGBOT_MAP)
        sizes = LingBotMapConfig(
            dim=config["embed_dim"],
            pairs=config["depth"],
            heads=config["num_heads"],
            encoder_depth=config["encoder_depth"],
            encoder_heads=config["encoder_heads"],
            taps=tuple(config["intermediate_layer_idx"]),
            head_features=config["head_features"],
            head_stages=tuple(config["head_out_channels"]),
            camera_depth=config["camera_depth"],
            camera_heads=config["camera_heads"],
        )
        return LingBotMap(sizes)


def plan_from(config: Mapping[str, Any]) -> StreamPlan:
    """The stream plan of a fixture."""
    first, interval = config["num_scale_frames"], config["keyframe_interval"]
    overlap = config.get("overlap_size")
    if "overlap_keyframes" in config:
        overlap = max(first, config["overlap_keyframes"] * max(interval, 1))
    return StreamPlan(
        first=first,
        anchors=config["kv_cache_scale_frames"],
        window=config["kv_cache_sliding_window"],
        interval=interval,
        rounds=config["camera_num_iterations"],
        cut=config.get("window_size"),
        overlap=overlap,
    )


@torch.inference_mode()
def recompute(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Output name → value, recomputed from the configuration and the inputs of a parity fixture."""
    if config["mode"] == ALIGNMENT:
        return aligned(config, arrays)
    model = lingbot_map_from(config)
    images = ready(model, config)
    plan, count = plan_from(config), config["views"]
    encoded: list[Tensor] = []
    model.aggregator.patch_embed.register_forward_hook(lambda _, __, out: encoded.append(out))
    worked: list[FrameOutput] = []

    def observed() -> Iterator[tuple[FrameOutput, bool]]:
        for output, begins in outputs(model.begin, images.unbind(1), count, plan):
            worked.append(output)
            yield output, begins

    chain = Chain(plan, count)
    whole = Part.joined(list(chain.stitched(observed())))
    step = config["subsample"]
    rotation = pose.rotation_from_quaternion(whole.vectors[..., 3:7])
    found = {
        "pose_enc": whole.vectors,
        "c2w": torch.cat([rotation, whole.vectors[..., :3, None]], dim=-1),
        "depth": whole.depth[:, :, ::step, ::step],
        "depth_conf": whole.confidence[:, :, ::step, ::step],
        "pose_enc_first": torch.cat([out.vectors[0] for out in worked], dim=1),
        "tokens_encoder": torch.cat(encoded)[None, :, :TOKENS, :CHANNELS],
        "tokens_early": torch.cat([_halves(out.tokens[0]) for out in worked], dim=1),
        "tokens_late": torch.cat([_halves(out.tokens[-1]) for out in worked], dim=1),
        "time": torch.tensor([float(f) for out in worked for f in out.time]),
        "keys": torch.tensor([float(out.keys) for out in worked for _ in out.time]),
    }
    if len(chain.windows) > 1:
        first = torch.zeros(count, dtype=torch.bool)
        for window in chain.windows:
            first[window.start : window.start + plan.first] = True
        kinds = torch.where(first, 0, torch.where(whole.is_key, 1, 2))
        found |= {"frame_type": kinds.float()[None], **_moves(chain.moves)}
    return found


def _halves(tokens: Tensor) -> Tensor:
    """Six special tokens and three patches; half of the channels are from within the frame, half from across frames."""
    near, far = (half[:, :, : SPECIALS + 3, : CHANNELS // 2] for half in tokens.chunk(2, dim=-1))
    return torch.cat([near, far], dim=-1)


def _moves(moves: list[Moved]) -> dict[str, Tensor]:
    upper = [torch.cat([m.rotation, m.translation[..., None]], dim=-1) for m in moves]
    bottom = torch.tensor([0.0, 0, 0, 1]).expand(len(upper[0]), 1, 4)
    return {
        "chunk_scales": torch.stack([m.scale for m in moves], dim=1),
        "chunk_transforms": torch.stack([torch.cat([u, bottom], dim=1) for u in upper], dim=1),
    }


def aligned(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Align windows from their raw outputs, without running the network."""
    parts = []
    for j in range(len(config["spans"])):
        vectors, depth, confidence, is_key = (
            torch.from_numpy(arrays[f"in_{name}_{j}"]) for name in ("pose_enc", "depth", "depth_conf", "is_keyframe")
        )
        parts.append(Part(vectors, depth[..., 0], confidence, is_key[0] > 0))
    overlap, moves, given = config["overlap"], [Moved.nowhere(parts[0])], []
    before = parts[0].moved(moves[0])
    for part in parts[1:]:
        start = max(len(before) - overlap, 0)
        given.append(before[: len(before) - overlap])
        moves.append(fit(before[start:], part[:overlap]))
        before = part.moved(moves[-1])
    whole = Part.joined([*given, before])
    return {
        "pose_enc": whole.vectors,
        "depth": whole.depth[..., None],
        "depth_conf": whole.confidence,
        "is_keyframe": whole.is_key.float()[None],
        **_moves(moves),
    }
