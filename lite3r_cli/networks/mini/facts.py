"""The facts about `mini`."""

from __future__ import annotations

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import alternating, last_two
from lite3r_cli.networks.mini.answer import answer
from lite3r_cli.networks.mini.fast import FastMini
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.mini.published import MODELS
from lite3r_cli.networks.pictures import Preparation


def _no_config(shapes: Shapes) -> MiniConfig:
    raise KeyError("config")  # checkpoints of this network always store it in their metadata


FAMILY = register(
    Family(
        name="mini",
        models=MODELS,
        sizes={"mini": MiniConfig()},
        config_class=MiniConfig,
        build=lambda config, name: Mini(config),
        name_of=lambda config: "mini",
        markers=("ray_head.weight",),
        config_from_shapes=_no_config,
        # trained at many sizes from 224 pixels up: a small image at its own size is cheaper and as accurate
        preparation=Preparation(518, smallest=224),
        special_tokens=1,
        global_layers=alternating("blocks."),
        trunk=None,
        high_precision=("patch_embed.*", "head.*", "camera.*", "ray_head.*", "*.proj_lin.*"),
        last_projections=last_two("blocks."),
        encoder="patch_embed",
        heads=("camera", "head"),
        answer=answer,
        scale="mean depth",
        divides=True,
        options=("cameras",),
        partial_cameras=True,
        fast=FastMini,
    )
)
