"""`lite3r locate`: finds the cameras of new photos in an existing scene. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import InputConfig, PredictConfig
from ..config.locating import LocateConfig
from ..console import Progress, Tell
from ..scene.frame import WorldFrame
from .finding import find_images
from .scene_finder import Finder, Located, Refused
from .written_scene import WrittenScene


@dataclass(frozen=True)
class Locations:
    """The outcome of the photos."""

    located: list[Located]
    refused: list[Refused]
    frame: WorldFrame
    choices: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return {
            "located": [each.document() for each in self.located],
            "refused": [vars(each) for each in self.refused],
            "world": self.frame.as_dict(),
            "runtime": self.choices,
        }


def locate(config: LocateConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Locations:
    """Locate each photo separately.

    Raises InputError if there is no scene, if none of its photographs is left, or if no photo is readable.
    """
    progress = progress or Progress()
    scene = WrittenScene.at(config.scene)
    predict = prediction_for(config, scene)
    photos = find_images(InputConfig(config.inputs, panorama="off"), progress, warn, predict.model)
    finder = Finder(scene, photos, predict, config.views, progress, warn)
    located: list[Located] = []
    refused = list(finder.unreadable)
    with progress.stage("Locate", total=len(finder.photos)) as step:
        for i in finder.photos:
            found = finder.locate(i)
            if isinstance(found, Located):
                located.append(found)
            else:
                refused.append(found)
            step()
    return Locations(located, refused, scene.frame, finder.predictor.choices())


def prediction_for(config: LocateConfig, scene: WrittenScene) -> PredictConfig:
    """The network and resolution that made the scene, unless others are requested."""
    arguments = scene.facts.get("arguments")
    made = arguments.get("predict") if isinstance(arguments, dict) else None
    made = made if isinstance(made, dict) else {}
    model, resolution = made.get("model"), made.get("resolution")
    return PredictConfig(
        model=config.model or (model if isinstance(model, str) else PredictConfig.model),
        resolution=config.resolution or (resolution if isinstance(resolution, int) else None),
        device=config.device,
        dtype=config.dtype,
    )
