"""The checkpoint of `mini` that ships with the package."""

from __future__ import annotations

from lite3r_cli.networks.publication import ModelInfo

MODELS = (
    ModelInfo(
        name="mini",
        parameters=24_917_565,
        licence="MIT",
        summary="any-view ViT-S/14 trained by this project: depth, confidence and cameras",
        file="mini.safetensors",
        takes=("cameras",),
        figures="fountain-P11, herz-jesu-P8, entry-P10 in fours 94.2 (AUC@30 in %, its model card)",
    ),
)
