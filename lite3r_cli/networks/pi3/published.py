"""The published checkpoints of π³ and Pi3X."""

from __future__ import annotations

from lite3r_cli.networks.publication import COMPARED, NON_COMMERCIAL, ModelInfo

PI3_MODEL = ModelInfo(
    name="pi3",
    parameters=958_696_732,
    licence=NON_COMMERCIAL,
    summary="cameras and point maps without a reference view; the order of the images does not matter",
    repository="yyfz233/Pi3",
    file="model.safetensors",
    figures=COMPARED.format(79.6, 77.0, 59.2),
)
PI3X_MODEL = ModelInfo(
    name="pi3x",
    parameters=1_360_032_433,
    licence=NON_COMMERCIAL,
    summary="as pi3, smoother, approximately in metres; takes known cameras",
    repository="yyfz233/Pi3X",
    file="model.safetensors",
    takes=("cameras", "depth"),
    metric=True,
)
MODELS = (PI3_MODEL, PI3X_MODEL)
