"""MapAnything's published checkpoints. Those with a non-commercial licence have no short name, only hf:OWNER/NAME."""

from __future__ import annotations

from lite3r_cli.networks.publication import APACHE, NON_COMMERCIAL, ModelInfo

V1_1_VALUES, V1_VALUES = 1_228_492_758, 563_336_150
FILE = "model.safetensors"
V1_1_MODELS = (
    ModelInfo(
        name="map-anything",
        parameters=V1_1_VALUES,
        licence=APACHE,
        summary="in metres; takes known cameras and depth; for a GPU, free for commercial use",
        repository="facebook/map-anything-apache",
        file=FILE,
        takes=("cameras", "depth"),
        metric=True,
        fast=True,
    ),
    ModelInfo(
        name="hf:facebook/map-anything",
        parameters=V1_1_VALUES,
        licence=NON_COMMERCIAL,
        summary="as map-anything, trained on 13 data sets instead of 6",
        repository="facebook/map-anything",
        file=FILE,
        takes=("cameras", "depth"),
        metric=True,
        fast=True,
    ),
)
V1_MODELS = (
    ModelInfo(
        name="map-anything-v1",
        parameters=V1_VALUES,
        licence=APACHE,
        summary="the version before map-anything: half its size",
        repository="facebook/map-anything-apache-v1",
        file=FILE,
        takes=("cameras", "depth"),
        metric=True,
        fast=True,
    ),
    ModelInfo(
        name="hf:facebook/map-anything-v1",
        parameters=V1_VALUES,
        licence=NON_COMMERCIAL,
        summary="as map-anything-v1, trained on 13 data sets instead of 6",
        repository="facebook/map-anything-v1",
        file=FILE,
        takes=("cameras", "depth"),
        metric=True,
        fast=True,
    ),
)
MODELS = V1_1_MODELS + V1_MODELS
