"""The facts about MapAnything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import alternating, count_layers, last_two
from lite3r_cli.networks.map_anything.answer import answer
from lite3r_cli.networks.map_anything.fast import FastMapAnything
from lite3r_cli.networks.map_anything.loader import fixed_shape
from lite3r_cli.networks.map_anything.network import V1, V1_1, MapAnything, MapAnythingConfig, MapAnythingV1Config
from lite3r_cli.networks.map_anything.published import V1_1_MODELS, V1_MODELS
from lite3r_cli.networks.map_anything.recompute import recompute
from lite3r_cli.networks.pictures import Preparation, crop_to_smallest

TAPS = {16: (7, 11), 24: (11, 17), 8: (3, 5), 6: (2, 4)}  # number of blocks → tapped blocks, not visible in the tensors
BLOCKS = "info_sharing.self_attention_blocks."
HEADS = ("dense_head", "pose_head", "scale_head")
ALIAS = "a second name of a tensor that is loaded"


def _sizes(shapes: Shapes) -> dict[str, Any]:
    encoder_dim, dim = shapes["encoder.model.cls_token"][-1], shapes["info_sharing.view_pos_table"][-1]
    depth = count_layers(shapes, r"info_sharing\.self_attention_blocks\.(\d+)\.")
    head = "dense_head.0.input_process"
    return {
        "encoder_dim": encoder_dim,
        "encoder_depth": count_layers(shapes, r"encoder\.model\.blocks\.(\d+)\."),
        "encoder_heads": encoder_dim // 64,  # as in all DINOv2 sizes
        "dim": dim,
        "depth": depth,
        "heads": dim // 64,
        "taps": TAPS[depth],
        "head_features": shapes[f"{head}.0.1.weight"][0],
        "head_stages": tuple(shapes[f"{head}.{k}.0.0.bias"][0] for k in range(4)),
        "dense_widths": (
            shapes["depth_encoder.conv_in.bias"][0],
            *(shapes[f"depth_encoder.encoder.{k}.conv1.bias"][0] for k in range(2)),
        ),
        "global_widths": tuple(
            shapes[f"cam_rot_encoder.encoder.{name}.bias"][0] for name in ("0.0.0.0", "0.0.1", "0.1")
        ),
        "patch_size": shapes["encoder.model.patch_embed.proj.weight"][-1],
        "position_grid": math.isqrt(shapes["encoder.model.pos_embed"][1] - 1),
    }


FAMILY = Family(
    name="map-anything",
    models=V1_1_MODELS,
    sizes={"map-anything": V1_1},
    config_class=MapAnythingConfig,
    build=MapAnything,
    name_of=lambda config: "map-anything",
    markers=("fusion_norm_layer.weight", "info_sharing.view_pos_table"),
    config_from_shapes=lambda shapes: MapAnythingConfig(**_sizes(shapes)),
    omissions=dict.fromkeys(("dpt_feature_head.", "dpt_regressor_head.", "dense_head.0.scratch.layer"), ALIAS),
    preparation=Preparation(518, native=fixed_shape, native_set=crop_to_smallest),
    special_tokens=1,
    global_layers=alternating(BLOCKS),
    trunk=("encoder", "info_sharing"),
    high_precision=(*(f"{name}.*" for name in HEADS), "*.patch_embed.proj.*", "*_encoder.*", "*.proj_lin.*"),
    last_projections=last_two(BLOCKS),
    encoder="encoder",
    heads=HEADS,
    answer=answer,
    scale="metric",
    fast=FastMapAnything,
    options=("cameras", "depth"),
    partial_cameras=True,
    recompute=recompute,
)
FAMILIES = (
    register(FAMILY),
    register(
        dataclasses.replace(
            FAMILY,
            name="map-anything-v1",
            models=V1_MODELS,
            sizes={"map-anything-v1": V1},
            config_class=MapAnythingV1Config,
            name_of=lambda config: "map-anything-v1",
            markers=(*FAMILY.markers, "info_sharing.proj_embed.weight"),
            config_from_shapes=lambda shapes: MapAnythingV1Config(**_sizes(shapes)),
            special_tokens=0,
        )
    ),
)
