"""The facts about Depth-Anything-3."""

from __future__ import annotations

import re

from lite3r_cli.networks.da3.answer import answer
from lite3r_cli.networks.da3.fast import FastDA3
from lite3r_cli.networks.da3.loader import upper_bound
from lite3r_cli.networks.da3.network import DA3, SIZES, DA3Config
from lite3r_cli.networks.da3.published import MODELS
from lite3r_cli.networks.da3.recompute import recompute
from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import alternating, count_layers, last_two
from lite3r_cli.networks.pictures import Preparation, crop_to_smallest

BLOCKS = "backbone.pretrained.blocks."


def _config_from_shapes(shapes: Shapes) -> DA3Config:
    dim, depth = shapes["backbone.pretrained.cls_token"][-1], count_layers(shapes, re.escape(BLOCKS) + r"(\d+)\.")
    return {(config.dim, config.depth): config for config in SIZES.values()}[dim, depth]


FAMILY = register(
    Family(
        name="da3",
        models=MODELS,
        sizes=SIZES,
        config_class=DA3Config,
        build=DA3,
        name_of=lambda config: next((name for name, known in SIZES.items() if known == config), "da3"),
        markers=("backbone.pretrained.cls_token",),
        config_from_shapes=_config_from_shapes,
        omissions={"gs_head.": "Gaussian head (renders novel views; not needed for depth and cameras)"},
        shared=re.compile(r"(head\.scratch\.output_conv2_aux\.)([0-3])(\.2\.(?:weight|bias))"),
        preparation=Preparation(504, native=upper_bound, native_set=crop_to_smallest),
        special_tokens=1,
        global_layers=alternating(BLOCKS),
        trunk="backbone.pretrained",
        high_precision=("*.patch_embed.proj.*", "head.*", "cam_dec.*", "cam_enc.*", "*.proj_lin.*"),
        last_projections=last_two(BLOCKS),
        encoder="backbone.pretrained.patch_embed",
        heads=("cam_dec", "head"),
        answer=answer,
        scale="arbitrary",
        options=("poses", "reference_view", "cameras"),
        divides=True,
        fast=FastDA3,
        recompute=recompute,
    )
)
