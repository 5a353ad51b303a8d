"""Random scenes: the kinds of places, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import Looks
from lite3r_cli.data.procedural.sampling import chaos, collage, facade, outdoor, room
from lite3r_cli.data.procedural.scene import Scene
from lite3r_cli.data.procedural.textures import Catalog
from lite3r_cli.errors import UsageError

SAMPLERS: dict[str, Callable[[Draw, Looks], Scene]] = {
    "chaos": chaos.sample,
    "collage": collage.sample,
    "room": room.sample,
    "desk": room.desk,
    "facade": facade.sample,
    "outdoor": outdoor.sample,
    "street": outdoor.street,
}


@dataclass(frozen=True)
class SceneConfig:
    """`catalog`: the textures that exist; `weights`: relative frequency of each sampler; `photos`: share of
    photographed textures."""

    catalog: Catalog
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "chaos": 0.17,
            "collage": 0.26,
            "room": 0.27,
            "desk": 0.08,
            "facade": 0.12,
            "outdoor": 0.05,
            "street": 0.05,
        }
    )
    photos: float = 0.25

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(SAMPLERS))
        if unknown or not self.weights:
            raise UsageError(f"unknown kind of scene {unknown}; choose from {', '.join(SAMPLERS)}")


def sample_scene(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """One random scene; the same generator state gives the same scene."""
    d = Draw(rng)
    looks = Looks(d, config.catalog, config.photos)
    return SAMPLERS[d.weighted(dict(config.weights))](d, looks)
