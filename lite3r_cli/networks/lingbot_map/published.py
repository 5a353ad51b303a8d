"""LingBot-Map's published checkpoints."""

from __future__ import annotations

from lite3r_cli.networks.publication import ModelInfo

LICENCE = "Apache-2.0 by the project's readme; what the weights were initialised from is not said"
REPOSITORY = "robbyant/lingbot-map"
MODELS = (
    ModelInfo(
        name="lingbot-map",
        parameters=1_157_937_162,
        licence=LICENCE,
        summary="videos as a stream, frame by frame in bounded memory; for long ones",
        repository=REPOSITORY,
        file="lingbot-map-long.pt",
        figures="Oxford Spires: cameras off by 6.42 m over 320 frames, 7.11 m over 3,840 (its paper's tables)",
        streams=True,
    ),
    ModelInfo(
        name="lingbot-map-short",
        parameters=1_157_937_162,
        licence=LICENCE,
        summary="as lingbot-map, balanced between short and long videos",
        repository=REPOSITORY,
        file="lingbot-map.pt",
        streams=True,
    ),
)
