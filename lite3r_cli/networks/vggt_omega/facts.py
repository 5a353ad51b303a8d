"""The facts about VGGT-Ω."""

from __future__ import annotations

from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import count_layers, dpt_sizes
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.networks.vggt_omega.answer import answer
from lite3r_cli.networks.vggt_omega.loader import balanced
from lite3r_cli.networks.vggt_omega.network import OMEGA_1B, SPECIALS, VGGTOmega, VGGTOmegaConfig
from lite3r_cli.networks.vggt_omega.published import MODELS
from lite3r_cli.networks.vggt_omega.recompute import recompute

# pairs of blocks → those with register attention, and the tapped ones, which no tensor tells
LAYOUTS = {24: ((2, 6, 9, 14, 20), (4, 11, 17, 23)), 6: ((1, 3), (0, 2, 4, 5))}


def _config_from_shapes(shapes: Shapes) -> VGGTOmegaConfig:
    dim = shapes["aggregator.camera_token"][-1]
    pairs = count_layers(shapes, r"aggregator\.frame_blocks\.(\d+)\.")
    register_pairs, taps = LAYOUTS[pairs]
    return VGGTOmegaConfig(
        dim=dim,
        pairs=pairs,
        heads=dim // shapes["aggregator.frame_blocks.0.attn.q_norm.weight"][0],
        encoder_depth=count_layers(shapes, r"aggregator\.patch_embed\.blocks\.(\d+)\."),
        encoder_heads=dim // (4 * shapes["aggregator.patch_embed.rope_embed.periods"][0]),
        register_pairs=register_pairs,
        taps=taps,
        camera_depth=count_layers(shapes, r"camera_head\.trunk\.(\d+)\."),
        patch_size=shapes["aggregator.patch_embed.patch_embed.proj.weight"][-1],
        **dpt_sizes(shapes, "dense_head"),
    )


def _last_projections(config: VGGTOmegaConfig) -> list[str]:
    return [f"aggregator.{kind}_blocks.{config.pairs - 1}.attn.proj" for kind in ("frame", "inter_frame")]


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
        preparation=Preparation(592, native=balanced),  # 592×448 for a 4:3 picture, as theirs
        special_tokens=SPECIALS,
        global_layers=lambda config: [f"aggregator.inter_frame_blocks.{i}.attn" for i in config.global_pairs],
        trunk="aggregator",
        high_precision=("*.patch_embed.proj.*", "camera_head.*", "dense_head.*", "*.proj_lin.*"),
        last_projections=_last_projections,
        encoder="aggregator.patch_embed",
        heads=("camera_head", "dense_head"),
        answer=answer,
        scale="arbitrary",
        recompute=recompute,
    )
)
