"""Places new photos in a written scene; shared by `locate`, `add` and `merge`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..config import PredictConfig
from ..console import Progress, Tell
from ..errors import InputError, UsageError
from ..io.images import ImageSet
from ..io.names import printable
from ..io.regular import reason_of
from ..io.view_memory import ViewMemory
from ..networks.pictures import NetworkInput
from ..refine.resection import Link
from ..scene import geometry
from ..scene.coverage import most_covered
from ..scene.posed_view import View
from ..world.photometric import looks_alike
from .lens_hints import no_lens_warnings
from .place_in_scene import Placement, by_matches, place_as_known, place_in_scene
from .predict import Pictures, Predictions, Predictor
from .retrieval import Match, Matches, Retrieval
from .scene_images import SceneImages
from .written_scene import WrittenScene

FOREIGN = "shows nothing that the photos of the scene show"
LINKS = 8  # photos of the scene whose feature matches make the camera of a new one exact
ASTRAY = "looks like the scene, but its geometry does not fit into it"


@dataclass(frozen=True)
class Refused:
    """A photo that cannot be placed, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Located:
    """A photo and its camera in the frame and scale of the scene."""

    photo: int  # of the set
    name: str
    path: Path
    placement: Placement
    nearest: list[tuple[View, Match]]  # photographs of the scene, the most similar first
    seconds: float
    predictions: Predictions = field(repr=False)  # of the pass; the photo is the last view

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
            "confidence": round(found.agree, 4), "overlap": round(found.seen, 4), "matches": found.matches,
            "spread": {"degrees": round(found.turn, 3), "share_of_depth": round(found.shift, 5)},
            "nearest": nearest, "seconds": round(self.seconds, 3),
        }  # fmt: skip


class Finder:
    """`photos` are the positions in `images` of the readable new photos; `stands` maps photographs to views of the
    scene; `memories` is the stored memory.
    """

    def __init__(
        self,
        scene: WrittenScene,
        photos: ImageSet,
        predict: PredictConfig,
        neighbours: int,
        progress: Progress,
        warn: Tell,
        predictor: Predictor | None = None,
    ) -> None:
        views = [view for view in scene.views(load_depth=True) if view.depth is not None]
        self.memories = {view.name: kept for view in views if (kept := scene.memory(view)) is not None}
        self.images = SceneImages.of(photos, scene, views, self.memories)
        there = {view.name for view in self.images.captured}
        if lost := [view.name for view in views if view.name not in there]:
            why = scene.photographs().why_missing(lost)
            warn(f"{len(lost)} of {len(views)} photos of the scene are not used: {why}")
        self.neighbours, self._warn = neighbours, warn
        self.predictor = predictor or Predictor(predict, progress)
        self.predictor.lens_warnings = no_lens_warnings  # the scene was warned of when it was made
        if self.predictor.streams:
            raise UsageError(f"--model {predict.model} sees a video in order and locates no photos: give --model mini")
        new = self.images.new
        everything = range(len(self.images))
        self.stands = {i: self.images.view(i) for i in everything if i >= new}
        self._inputs: dict[int, NetworkInput | None] = {}
        self.unreadable = [Refused(skipped.name, f"is left out: {skipped.reason}") for skipped in photos.skipped]
        self._read([i for i in everything if i < new or self._kept(i) is None], progress)
        self.photos = [i for i in range(new) if self._inputs[i] is not None]
        if not self.stands:
            raise InputError(f"{printable(scene.folder)}: none of its photos can be read")
        with progress.stage("Compare images", minor=True):
            self.retrieval = Retrieval(
                list(self.stands), lambda i: self.input(i).rgb, self.images.read, lambda i: self._features(i)
            )

    def locate(self, photo: int, among: Sequence[int] | None = None) -> Located | Refused:
        """Locate one of `photos` by its most similar photographs; only those in `among`, if given."""
        start, record = time.perf_counter(), self.images.records[photo]
        matches = self.retrieval.find(photo, None if among is None else set(among))
        chosen = self._readable([match.image for match in matches.matches])
        if not chosen:
            return Refused(record.name, FOREIGN)
        of = {match.image: match for match in matches.matches}
        own, predictions = self.look(photo, chosen)
        *predicted, new = predictions.views
        if not matches.tied and not self._alike(photo, new, chosen, predicted):
            return Refused(record.name, FOREIGN)
        placement = place_in_scene(new, predicted, own)
        if placement is not None:
            placement = by_matches(placement, self._links(new, matches), own)
        return self._settled(photo, placement, own, [of[i] for i in chosen], predictions, start)

    def _links(self, photo: View, matches: Matches) -> list[Link]:
        """The feature matches of the photo with photographs of the scene."""
        links = []
        for match in [match for match in matches.sure() if match.image in self.stands][:LINKS]:
            view, found = self.stands[match.image], match.agreement
            assert found is not None
            sizes = (np.array([each.width, each.height]) for each in (photo, view))
            here, there = (points * size for points, size in zip((found.first, found.second), sizes))
            links.append(Link(view, here, there))
        return links

    def place(self, photo: int, camera: View) -> Located | Refused:
        """Place a photo with a known camera; only its depth is scaled to the scene. Its neighbours are the photographs
        with the largest overlap.
        """
        start = time.perf_counter()
        numbers = list(self.stands)
        order = most_covered(camera, [self.stands[i] for i in numbers])
        chosen = self._readable([numbers[k] for k in order])
        if not chosen:
            return Refused(self.images.records[photo].name, FOREIGN)
        own, predictions = self.look(photo, chosen)
        *predicted, new = predictions.views
        matches = [Match(i, 0.0) for i in chosen]
        return self._settled(photo, place_as_known(camera, new, predicted, own), own, matches, predictions, start)

    def look(self, photo: int, chosen: Sequence[int]) -> tuple[list[View], Predictions]:
        """The scene's views of its photographs `chosen`, and one prediction of these and a photo, which comes last."""
        indices = [*chosen, photo]
        predictions = self.predictor.predict_pictures(self.images, Pictures(indices, [self.input(i) for i in indices]))
        return [self.stands[i] for i in chosen], self.predictor.refine(self.images, predictions)

    def accept(self, found: Located) -> None:
        """Include the photo in the scene."""
        self.stands[found.photo] = found.view
        self.retrieval.add(found.photo)

    def input(self, i: int) -> NetworkInput:
        """Image i at the network's size. Raises InputError if it is not readable."""
        if i not in self._inputs:
            self._read([i], Progress())
        found = self._inputs[i]
        if found is None:
            raise InputError(f"{self.images.records[i].name}: cannot be read")
        return found

    def _settled(
        self, photo: int, placement: Placement | None, own: list[View], matches: list[Match], predictions: Predictions,
        start: float,
    ) -> Located | Refused:  # fmt: skip
        record = self.images.records[photo]
        if placement is None or not placement.stands:
            return Refused(record.name, ASTRAY)
        seconds = time.perf_counter() - start
        placed = replace(placement, view=replace(placement.view, name=record.name))
        return Located(photo, record.name, record.path, placed, list(zip(own, matches)), seconds, predictions)

    def _readable(self, order: Sequence[int]) -> list[int]:
        """The first readable photographs of `order`, as many as one prediction takes."""
        chosen: list[int] = []
        for i in order:
            if len(chosen) == self.neighbours:
                break
            if i not in self._inputs:
                self._read([i], Progress())
            if self._inputs[i] is not None:
                chosen.append(i)
        return chosen

    def _read(self, indices: Sequence[int], progress: Progress) -> None:
        """Read images for the network; damaged ones are reported and removed from the scene."""
        if not indices:
            return
        try:
            pictures = self.predictor.read(self.images, progress, indices=indices)
        except InputError as error:
            if len(indices) > 1:
                raise
            pictures, reasons = Pictures([], []), [self._reason(indices[0], error)]
        else:
            reasons = [skipped.reason for skipped in pictures.skipped]
        self._inputs |= dict(zip(pictures.indices, pictures.inputs, strict=True))
        damaged = [i for i in indices if i not in set(pictures.indices)]
        for i, reason in zip(damaged, reasons, strict=True):  # both are in the order of the set
            self._inputs[i] = None
            name = self.images.records[i].name
            if self.stands.pop(i, None) is None:
                self.unreadable.append(Refused(name, f"cannot be read: {reason}"))
            else:
                self._warn(f"{name}, a photo of the scene, cannot be read: {reason}")

    def _reason(self, i: int, error: InputError) -> str:
        """The reason why image i is not readable, without the words about its set."""
        try:
            self.images.read(i)
        except InputError as own:
            return reason_of(own)
        return str(error)

    def _kept(self, i: int) -> ViewMemory | None:
        """The memory of a photograph that has stored features."""
        kept = self.memories.get(self.images.view(i).name) if i >= self.images.new else None
        return kept if kept is not None and kept.features is not None else None

    def _features(self, i: int):
        kept = self._kept(i)
        return None if kept is None else kept.features

    def _alike(self, photo: int, new: View, others: Sequence[int], predicted: Sequence[View]) -> bool:
        """Whether the photo looks like a photograph where the network predicts the same surface: this can connect
        photos without feature matches.
        """
        grey = self._grey(photo, new)
        return any(
            looks_alike(new, grey, view, self._grey(i, view)) and looks_alike(view, self._grey(i, view), new, grey)
            for i, view in zip(others, predicted)
        )

    def _grey(self, i: int, view: View) -> np.ndarray:
        assert view.depth is not None  # every predicted view has depth
        grey = cv2.cvtColor(np.ascontiguousarray(self.input(i).rgb), cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, view.depth.shape[::-1], interpolation=cv2.INTER_AREA)
