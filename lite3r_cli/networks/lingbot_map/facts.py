"""The facts about LingBot-Map."""

from __future__ import annotations

import math

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import count_layers, dpt_sizes
from lite3r_cli.networks.lingbot_map.answer import answer
from lite3r_cli.networks.lingbot_map.cache import SPECIALS
from lite3r_cli.networks.lingbot_map.network import LINGBOT_MAP, LingBotMap, LingBotMapConfig
from lite3r_cli.networks.lingbot_map.published import MODELS
from lite3r_cli.networks.lingbot_map.recompute import recompute
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.networks.vggt.loader import fixed_width

PAIRS_OF_TAPS = {24: (4, 11, 17, 23), 5: (0, 2, 3, 4)}  # pairs of blocks → tapped ones, which no tensor tells


def _config_from_shapes(shapes: Shapes) -> LingBotMapConfig:
    dim = shapes["aggregator.camera_token"][-1]
    pairs = count_layers(shapes, r"aggregator\.frame_blocks\.(\d+)\.")
    return LingBotMapConfig(
        dim=dim,
        pairs=pairs,
        heads=dim // shapes["aggregator.frame_blocks.0.attn.q_norm.weight"][0],
        encoder_depth=count_layers(shapes, r"aggregator\.patch_embed\.blocks\.(\d+)\."),
        encoder_heads=dim // 64,  # as in every DINOv2
        taps=PAIRS_OF_TAPS[pairs],
        camera_depth=count_layers(shapes, r"camera_head\.trunk\.(\d+)\."),
        position_grid=math.isqrt(shapes["aggregator.patch_embed.pos_embed"][1] - 1),
        **dpt_sizes(shapes, "depth_head"),
    )


def _last_projections(config: LingBotMapConfig) -> list[str]:
    return [f"aggregator.{kind}_blocks.{config.pairs - 1}.attn.proj" for kind in ("frame", "global")]


FAMILY = register(
    Family(
        name="lingbot-map",
        models=MODELS,
        sizes={"lingbot-map": LINGBOT_MAP},
        config_class=LingBotMapConfig,
        build=LingBotMap,
        name_of=lambda config: "lingbot-map",
        markers=("aggregator.camera_token", "aggregator.scale_token"),
        config_from_shapes=_config_from_shapes,
        preparation=Preparation(518, native=fixed_width),
        special_tokens=SPECIALS,
        global_layers=lambda config: [f"aggregator.global_blocks.{i}.attn" for i in range(config.pairs)],
        trunk="aggregator",
        high_precision=("*.patch_embed.proj.*", "camera_head.*", "depth_head.*", "*.proj_lin.*"),
        last_projections=_last_projections,
        encoder="aggregator.patch_embed",
        heads=("camera_head", "depth_head"),
        answer=answer,
        scale="arbitrary",
        streams=True,
        recompute=recompute,
    )
)
