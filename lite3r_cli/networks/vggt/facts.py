"""The facts about VGGT."""

from __future__ import annotations

import dataclasses
import math

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import aggregator_sizes, last_pair
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.networks.vggt.answer import answer
from lite3r_cli.networks.vggt.fast import FastVGGT
from lite3r_cli.networks.vggt.loader import fixed_width
from lite3r_cli.networks.vggt.network import SPECIALS, VGGT, VGGT_1B, VGGTConfig
from lite3r_cli.networks.vggt.published import MODELS
from lite3r_cli.networks.vggt.recompute import recompute

PAIRS_OF_TAPS = {24: (4, 11, 17, 23), 4: (0, 1, 2, 3)}  # number of pairs → tapped pairs, not visible in the tensors


def _config_from_shapes(shapes: Shapes) -> VGGTConfig:
    sizes = aggregator_sizes(shapes, "depth_head")
    return VGGTConfig(
        **sizes,
        encoder_heads=sizes["dim"] // 64,  # as in all DINOv2 sizes
        taps=PAIRS_OF_TAPS[sizes["pairs"]],
        point_head="point_head.norm.weight" in shapes,
        position_grid=math.isqrt(shapes["aggregator.patch_embed.pos_embed"][1] - 1),
    )


FAMILY = register(
    Family(
        name="vggt",
        models=MODELS,
        sizes={"vggt-1b": VGGT_1B},
        config_class=VGGTConfig,
        build=VGGT,
        name_of=lambda config: "vggt-1b" if dataclasses.replace(config, point_head=True) == VGGT_1B else "vggt",
        markers=("aggregator.camera_token",),
        config_from_shapes=_config_from_shapes,
        omissions={"track_head.": "track head (tracks given points; not needed for depth and cameras)"},
        preparation=Preparation(518, native=fixed_width),  # mixed sizes are packed; the authors' padding is not needed
        special_tokens=SPECIALS,
        global_layers=lambda config: [f"aggregator.global_blocks.{i}.attn" for i in range(config.pairs)],
        trunk="aggregator",
        high_precision=("*.patch_embed.proj.*", "camera_head.*", "depth_head.*", "point_head.*", "*.proj_lin.*"),
        last_projections=last_pair("global"),
        encoder="aggregator.patch_embed",
        heads=("camera_head", "depth_head"),
        unused=("point_head",),
        answer=answer,
        scale="arbitrary",
        divides=True,
        fast=FastVGGT,
        recompute=recompute,
    )
)
