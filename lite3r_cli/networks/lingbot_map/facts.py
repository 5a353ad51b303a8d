"""The facts about LingBot-Map."""

from __future__ import annotations

import math

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import aggregator_sizes, last_pair
from lite3r_cli.networks.lingbot_map.answer import answer
from lite3r_cli.networks.lingbot_map.cache import SPECIALS
from lite3r_cli.networks.lingbot_map.fast import FastLingBotMap
from lite3r_cli.networks.lingbot_map.network import LINGBOT_MAP, LingBotMap, LingBotMapConfig
from lite3r_cli.networks.lingbot_map.published import MODELS
from lite3r_cli.networks.lingbot_map.recompute import recompute
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.networks.vggt.loader import fixed_width

PAIRS_OF_TAPS = {24: (4, 11, 17, 23), 5: (0, 2, 3, 4)}  # number of pairs → tapped pairs, not visible in the tensors


def _config_from_shapes(shapes: Shapes) -> LingBotMapConfig:
    sizes = aggregator_sizes(shapes, "depth_head")
    return LingBotMapConfig(
        **sizes,
        encoder_heads=sizes["dim"] // 64,  # as in all DINOv2 sizes
        taps=PAIRS_OF_TAPS[sizes["pairs"]],
        position_grid=math.isqrt(shapes["aggregator.patch_embed.pos_embed"][1] - 1),
    )


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
        last_projections=last_pair("global"),
        encoder="aggregator.patch_embed",
        heads=("camera_head", "depth_head"),
        answer=answer,
        scale="arbitrary",
        streams=True,
        fast=FastLingBotMap,
        recompute=recompute,
    )
)
