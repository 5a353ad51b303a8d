"""VGGT-Ω's published checkpoints."""

from __future__ import annotations

from lite3r_cli.networks.publication import COMPARED, ModelInfo

LICENCE = "FAIR Noncommercial Research License (it covers outputs, too)"
REPOSITORY = "facebook/VGGT-Omega"  # gated: request access there
MODELS = (
    ModelInfo(
        name="vggt-omega",
        parameters=1_143_841_129,
        licence=LICENCE,
        summary="the best cameras in video; for images in the wild; gated, set HF_TOKEN",
        repository=REPOSITORY,
        file="vggt_omega_1b_512.pt",
        figures=COMPARED.format(88.5, 83.1, 82.3),
    ),
    ModelInfo(
        name="vggt-omega-416",
        parameters=1_143_841_129,
        licence=LICENCE,
        summary="as vggt-omega, trained again on checked data: for benchmarks, at --resolution 480; gated",
        repository=REPOSITORY,
        file="vggt_omega_1b_416_reproduce.pt",
        figures=COMPARED.format(88.9, 82.4, 82.8),
    ),
)
