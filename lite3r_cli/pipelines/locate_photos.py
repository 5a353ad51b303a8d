"""Where new photos were taken in a scene that is there already: `lite3r locate`. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..config import InputConfig, PredictConfig
from ..config.locating import LocateConfig
from ..console import Progress, Tell
from ..errors import InputError, UsageError
from ..io.images import ImageSet
from ..io.names import printable
from ..scene import geometry
from ..scene.frame import WorldFrame
from ..scene.posed_view import View
from ..world.photometric import looks_alike
from .finding import find_images
from .place_in_scene import Placement, place_in_scene
from .predict import Pictures, Predictor
from .retrieval import Match, Retrieval
from .scene_images import SceneImages
from .written_scene import WrittenScene

FOREIGN = "shows nothing that the photographs of the scene show"
ASTRAY = "looks like the scene, but its geometry does not fit into it"


@dataclass(frozen=True)
class Located:
    """A photo, and its camera in the scene's frame and scale."""

    name: str
    path: Path
    placement: Placement
    nearest: list[tuple[View, Match]]  # photographs of the scene, the most alike first
    seconds: float

    @property
    def view(self) -> View:
        return self.placement.view

    def document(self) -> dict[str, Any]:
        found, pose = self.placement, self.view.cam_from_world
        centre = geometry.camera_centres(pose)
        nearest = [
            {
                "image": view.name,
                "evidence": round(match.evidence, 1) if np.isfinite(match.evidence) else None,
                "distance": float(np.linalg.norm(geometry.camera_centres(view.cam_from_world) - centre)),
            }
            for view, match in self.nearest
        ]
        return {
            "name": self.name, "path": str(self.path), "width": self.view.width, "height": self.view.height,
            "K": self.view.K.tolist(), "cam_from_world": pose.tolist(), "centre": centre.tolist(),
            "confidence": round(found.agree, 4), "overlap": round(found.seen, 4),
            "spread": {"degrees": round(found.turn, 3), "share_of_depth": round(found.shift, 5)},
            "nearest": nearest, "seconds": round(self.seconds, 3),
        }  # fmt: skip


@dataclass(frozen=True)
class Refused:
    """A photo that has no place in the scene, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Locations:
    """What became of the photos."""

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
    """Locate the photos, one after the other, each by itself.

    Raises InputError where there is no scene, none of its photographs is left, or no photo can be read.
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
    """The network and the size that the scene was made with, unless others are asked for."""
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


class Finder:
    """A scene and a network that are ready to locate photos. `photos` are the positions of those that can be read."""

    def __init__(
        self,
        scene: WrittenScene,
        photos: ImageSet,
        predict: PredictConfig,
        neighbours: int,
        progress: Progress,
        warn: Tell,
    ) -> None:
        views = scene.views(load_depth=True)
        self.images = SceneImages.of(photos, scene, views)
        if (lost := len(views) - len(self.images.captured)) > 0:
            warn(f"{lost} of {len(views)} photographs of the scene are no longer where they were: the others serve")
        self.neighbours = neighbours
        self.predictor = Predictor(predict, progress)
        if self.predictor.streams:
            raise UsageError(f"--model {predict.model} sees a video in order and locates no photos: give --model mini")
        pictures = self.predictor.read(self.images, progress)
        self._inputs = dict(zip(pictures.indices, pictures.inputs, strict=True))
        damaged = sorted(set(range(len(self.images))) - set(pictures.indices))
        reasons = [f"cannot be read: {skipped.reason}" for skipped in pictures.skipped]
        told = dict(zip(damaged, reasons, strict=True))  # both in the order of the set
        self.unreadable = [Refused(skipped.name, f"is left out: {skipped.reason}") for skipped in photos.skipped]
        for i, reason in told.items():
            if i < self.images.new:
                self.unreadable.append(Refused(self.images.records[i].name, reason))
            else:
                warn(f"{self.images.records[i].name}, a photograph of the scene, {reason}")
        self.photos = [i for i in pictures.indices if i < self.images.new]
        captured = [i for i in pictures.indices if i >= self.images.new]
        if not captured:
            raise InputError(f"{printable(scene.folder)}: none of its photographs can be read")
        with progress.stage("Compare images", minor=True):
            self._retrieval = Retrieval(captured, lambda i: self._inputs[i].rgb, self.images.read)

    def locate(self, photo: int) -> Located | Refused:
        """Locate one of `photos`."""
        start, record = time.perf_counter(), self.images.records[photo]
        found = self._retrieval.find(photo)
        chosen = found.matches[: self.neighbours]
        own = [self.images.view(match.image) for match in chosen]
        indices = [*(match.image for match in chosen), photo]
        predictions = self.predictor.predict_pictures(
            self.images, Pictures(indices, [self._inputs[i] for i in indices])
        )
        *predicted, new = predictions.views
        if not found.tied and not self._alike(photo, new, indices, predicted):
            return Refused(record.name, FOREIGN)
        placement = place_in_scene(new, predicted, own)
        if placement is None or not placement.stands:
            return Refused(record.name, ASTRAY)
        seconds = time.perf_counter() - start
        return Located(record.name, record.path, placement, list(zip(own, chosen)), seconds)

    def _alike(self, photo: int, new: View, others: Sequence[int], predicted: Sequence[View]) -> bool:
        """Whether the photo looks like a photograph where the network says that both show the same surface: what
        features cannot tie may still be tied so.
        """
        grey = self._grey(photo, new)
        return any(
            looks_alike(new, grey, view, self._grey(i, view)) and looks_alike(view, self._grey(i, view), new, grey)
            for i, view in zip(others, predicted)
        )

    def _grey(self, i: int, view: View) -> np.ndarray:
        assert view.depth is not None  # every predicted view has depth
        grey = cv2.cvtColor(np.ascontiguousarray(self._inputs[i].rgb), cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, view.depth.shape[::-1], interpolation=cv2.INTER_AREA)
