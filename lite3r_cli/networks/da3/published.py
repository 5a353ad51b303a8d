"""Depth-Anything-3's published any-view checkpoints."""

from __future__ import annotations

from lite3r_cli.checkpoints import hub
from lite3r_cli.networks.publication import APACHE, LITE3R, NON_COMMERCIAL, ModelInfo


def _any_view(name: str, parameters: int, licence: str, revision: str = hub.MAIN, figures: str = "") -> ModelInfo:
    return ModelInfo(
        name=name,
        parameters=parameters,
        licence=licence,
        summary="any-view transformer: depth, confidence, cameras, rays; takes known cameras",
        repository=f"depth-anything/{name.upper()}",
        revision=revision,
        takes=("cameras",),
        figures=figures,
    )


MODELS = (
    _any_view("da3-small", 34_299_655, APACHE, "e08cab65ca0ec38e7826075418411ab90cab4da3"),
    _any_view("da3-base", 135_366_791, APACHE, "f4a6c9b3c95e41c82048423d3493a81ec3fa810e"),
    _any_view("da3-large", 410_941_959, NON_COMMERCIAL),
    _any_view(
        "da3-giant",
        1_320_045_831,
        NON_COMMERCIAL,
        figures="ETH3D 91.5, 7-Scenes 86.7, ScanNet++ 98.3 (AUC@30 in %, its authors' benchmark)",
    ),
    ModelInfo(
        name="lite3r-da3-large",
        parameters=411_056_675,
        licence=NON_COMMERCIAL,
        summary="DA3-Large with sparse-linear attention, by the authors of Lite3R (their code is MIT)",
        repository=LITE3R,
        file="da3_fp8_qat_1ep.pt",
        takes=("cameras",),
    ),
)
