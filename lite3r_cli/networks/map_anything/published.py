"""MapAnything's published checkpoints. Those with a non-commercial licence have no short name, only hf:OWNER/NAME."""

from __future__ import annotations

from lite3r_cli.networks.publication import APACHE, NON_COMMERCIAL, ModelInfo


def _metric(name: str, parameters: int, licence: str, repository: str, summary: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        parameters=parameters,
        licence=licence,
        summary=summary,
        repository=f"facebook/{repository}",
        file="model.safetensors",
        takes=("cameras", "depth"),
        metric=True,
    )


def _both(version: str, parameters: int, summary: str) -> tuple[ModelInfo, ModelInfo]:
    """The free checkpoint of a version and the non-commercial one, which was trained on 13 data sets instead of 6."""
    name = f"map-anything{version}"
    return (
        _metric(name, parameters, APACHE, f"map-anything-apache{version}", summary),
        _metric(f"hf:facebook/{name}", parameters, NON_COMMERCIAL, name, f"as {name}, trained on 13 data sets, not 6"),
    )


V1_1_MODELS = _both("", 1_228_492_758, "in metres; takes known cameras and depth; for a GPU, free for commercial use")
V1_MODELS = _both("-v1", 563_336_150, "the version before map-anything: half its size")
MODELS = V1_1_MODELS + V1_MODELS
