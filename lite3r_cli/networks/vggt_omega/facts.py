"""The facts about VGGT-Ω."""

from __future__ import annotations

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import aggregator_sizes, last_pair
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.networks.vggt_omega.answer import answer
from lite3r_cli.networks.vggt_omega.fast import FastVGGTOmega
from lite3r_cli.networks.vggt_omega.loader import balanced
from lite3r_cli.networks.vggt_omega.network import OMEGA_1B, SPECIALS, VGGTOmega, VGGTOmegaConfig
from lite3r_cli.networks.vggt_omega.published import MODELS
from lite3r_cli.networks.vggt_omega.recompute import recompute

# number of pairs → the pairs with register attention, and the tapped pairs; not visible in the tensors
LAYOUTS = {24: ((2, 6, 9, 14, 20), (4, 11, 17, 23)), 6: ((1, 3), (0, 2, 4, 5))}


def _config_from_shapes(shapes: Shapes) -> VGGTOmegaConfig:
    sizes = aggregator_sizes(shapes, "dense_head")
    register_pairs, taps = LAYOUTS[sizes["pairs"]]
    return VGGTOmegaConfig(
        **sizes,
        encoder_heads=sizes["dim"] // (4 * shapes["aggregator.patch_embed.rope_embed.periods"][0]),
        register_pairs=register_pairs,
        taps=taps,
        patch_size=shapes["aggregator.patch_embed.patch_embed.proj.weight"][-1],
    )


FAMILY = register(
    Family(
        name="vggt-omega",
        models=MODELS,
        sizes={"vggt-omega": OMEGA_1B},
        config_class=VGGTOmegaConfig,
        build=VGGTOmega,
        name_of=lambda config: "vggt-omega",
        markers=("aggregator.camera_token", "aggregator.patch_embed.storage_tokens", "dense_head.proj.weight"),
        config_from_shapes=_config_from_shapes,
        omissions={"text_alignment_head.": "text head (describes the scene; not needed for depth and cameras)"},
        preparation=Preparation(592, native=balanced),  # 592×448 for a 4:3 image, as in the authors' code
        special_tokens=SPECIALS,
        global_layers=lambda config: [f"aggregator.inter_frame_blocks.{i}.attn" for i in config.global_pairs],
        trunk="aggregator",
        high_precision=("*.patch_embed.proj.*", "camera_head.*", "dense_head.*", "*.proj_lin.*"),
        last_projections=last_pair("inter_frame"),
        encoder="aggregator.patch_embed",
        heads=("camera_head", "dense_head"),
        answer=answer,
        scale="arbitrary",
        fast=FastVGGTOmega,
        recompute=recompute,
    )
)
