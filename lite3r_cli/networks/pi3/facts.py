"""The facts about π³ and Pi3X."""

from __future__ import annotations

import dataclasses
import math

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import alternating, count_layers, last_two
from lite3r_cli.networks.pi3.answer import answer
from lite3r_cli.networks.pi3.fast import FastPi3
from lite3r_cli.networks.pi3.loader import by_area
from lite3r_cli.networks.pi3.network import PI3, PI3X, REGISTERS, Pi3, Pi3Config, Pi3XConfig
from lite3r_cli.networks.pi3.published import PI3_MODEL, PI3X_MODEL
from lite3r_cli.networks.pi3.recompute import recompute
from lite3r_cli.networks.pictures import Preparation

INJECTIONS = {5: (1, 9, 17, 25, 33), 2: (1, 9)}  # number of injections → after which blocks, not visible in the tensors


def _sizes(shapes: Shapes) -> dict[str, int]:
    dim, width = shapes["register_token"][-1], shapes["decoder.0.attn.q_norm.weight"][0]
    return {
        "dim": dim,
        "depth": count_layers(shapes, r"decoder\.(\d+)\."),
        "heads": dim // width,
        "encoder_depth": count_layers(shapes, r"encoder\.blocks\.(\d+)\."),
        "encoder_heads": dim // 64,  # as in all DINOv2 sizes
        "head_dim": shapes["point_decoder.projects.bias"][0],
        "head_heads": shapes["point_decoder.projects.bias"][0] // width,  # they share the decoder's RoPE
        "head_depth": count_layers(shapes, r"point_decoder\.blocks\.(\d+)\."),
        "head_out": shapes["point_decoder.linear_out.bias"][0],
        "camera_out": shapes["camera_decoder.linear_out.bias"][0],
        "position_grid": math.isqrt(shapes["encoder.pos_embed"][1] - 1),
    }


def _pi3x_config(shapes: Shapes) -> Pi3XConfig:
    stages = count_layers(shapes, r"point_head\.upsample_blocks\.(\d+)\.")
    metric_dim = shapes["metric_decoder.projects_x.bias"][0]
    return Pi3XConfig(
        **_sizes(shapes),
        conv_channels=tuple(shapes[f"point_head.upsample_blocks.{i}.0.0.bias"][0] for i in range(stages)),
        conv_last=shapes["point_head.output_block.0.0.bias"][0],
        metric_dim=metric_dim,
        metric_heads=metric_dim // 64,
        metric_out=shapes["metric_decoder.linear_out.bias"][0],
        inject_after=INJECTIONS[count_layers(shapes, r"pose_inject_blk\.(\d+)\.")],
    )


HEADS = ("point_decoder", "point_head", "conf_decoder", "conf_head", "camera_decoder", "camera_head")
EXACT = tuple(f"{name}.*" for name in HEADS) + ("*.patch_embed.proj.*", "*.proj_lin.*")
PI3_FAMILY = Family(
    name="pi3",
    models=(PI3_MODEL,),
    sizes={"pi3": PI3},
    config_class=Pi3Config,
    build=Pi3,
    name_of=lambda config: "pi3",
    markers=("register_token", "point_decoder.linear_out.weight"),
    config_from_shapes=lambda shapes: Pi3Config(**_sizes(shapes)),
    omissions=dict.fromkeys(("image_mean", "image_std"), "the mean and spread of images, constants here"),
    preparation=Preparation(574, native=by_area),  # 574×434 for a 4:3 image, as in the authors' code
    special_tokens=REGISTERS,
    global_layers=alternating("decoder."),
    trunk=("encoder", "decoder"),
    high_precision=EXACT,
    last_projections=last_two("decoder."),
    encoder="encoder",
    heads=HEADS,
    answer=answer,
    scale="arbitrary",
    fast=FastPi3,
    recompute=recompute,
)
FAMILIES = (
    register(PI3_FAMILY),
    register(
        dataclasses.replace(
            PI3_FAMILY,
            name="pi3x",
            models=(PI3X_MODEL,),
            sizes={"pi3x": PI3X},
            config_class=Pi3XConfig,
            name_of=lambda config: "pi3x",
            markers=(*PI3_FAMILY.markers, "metric_token"),
            config_from_shapes=_pi3x_config,
            high_precision=(*EXACT, "metric_*.*", "ray_embed.*", "depth_encoder.*", "pose_inject_blk.*"),
            heads=(*HEADS, "metric_decoder", "metric_head"),
            scale="metric",
            options=("cameras", "depth"),
            partial_cameras=True,
        )
    ),
)
