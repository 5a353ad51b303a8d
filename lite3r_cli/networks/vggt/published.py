"""VGGT's published checkpoints."""

from __future__ import annotations

from lite3r_cli.networks.publication import COMPARED, LITE3R, ModelInfo

LICENCE = "VGGT research licence (non-commercial)"
MODELS = (
    ModelInfo(
        name="vggt-1b",
        parameters=1_190_596_120,
        licence=LICENCE,
        summary="cameras, depth with confidence, point maps; a commercial variant is gated: "
        "hf:facebook/VGGT-1B-Commercial",
        repository="facebook/VGGT-1B",
        revision="860abec7937da0a4c03c41d3c269c366e82abdf9",
        figures=COMPARED.format(62.1, 74.4, 61.2),
    ),
    ModelInfo(
        name="lite3r-vggt-1b",
        parameters=1_158_302_016,
        licence=LICENCE,
        summary="VGGT-1B with sparse-linear attention, by the authors of Lite3R (their code is MIT)",
        repository=LITE3R,
        file="vggt_fp8_qat_1ep.pt",
    ),
)
