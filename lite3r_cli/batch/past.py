"""The state of a scene before this process works on it: already made, failed for good, or to be made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ReconstructConfig
from ..errors import InputError, OutputError
from ..io.atomic import bring_right
from ..io.beneath import refuse_links
from ..io.documents import read_json
from ..io.files import output_error
from ..io.locks import remove_folders
from ..io.output_layout import is_complete
from . import claims as recorded
from .claims import Claims, Record
from .job import ELSEWHERE, FAILED, THERE, Outcome
from .manifest import SceneInput

LARGEST = 1e15  # largest number in a record


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST  # false for NaN


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


_KINDS: dict[str, Callable[[Any], bool]] = {  # fields of a record and their checks
    "images": _is_count,
    "views": _is_count,
    "points": _is_count,
    "warnings": lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    "seconds": lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    "wall_seconds": _is_number,
    "reason": lambda value: isinstance(value, str),
    "exit_code": _is_count,
}


@dataclass(frozen=True)
class Past:
    """The state of the scenes of a batch. Records written after `began` (seconds since 1970) belong to this batch."""

    config: ReconstructConfig  # of the batch
    began: float

    @property
    def claims(self) -> Claims:
        return Claims(Path(self.config.output))

    def settled(self, scene: SceneInput, claimed: bool = False) -> Outcome | None:
        """The outcome of a scene for which nothing is left to do; None if it has to be made, or another process is
        about to record it. `claimed`: this process has claimed it.
        """
        record = self.claims.record(scene.name)
        if record is not None and record.status == recorded.FAILED:
            if record.time >= self.began or (record.died and not self.config.overwrite):
                return self.outcome(scene, FAILED, record.facts)
            return None
        running = record is not None and record.status == recorded.RUNNING
        if running and not claimed:
            return None
        ours = record is not None and record.time >= self.began
        if (not ours and self.config.overwrite) or not is_complete(self.folder(scene)):
            return None
        try:
            self.require_own_folder(scene)
        except OutputError:  # raised again, and recorded, when the scene is made
            return None
        with suppress(OutputError):  # OutputError may mean that another process writes there
            bring_right(self.folder(scene))  # temporary files of a process that was killed after its last file
        latest = self.claims.record(scene.name)  # it may have been made between the two checks
        if latest is None or latest.status != recorded.DONE:  # its process was killed before it wrote the record
            return self.outcome(scene, THERE, _facts_in(Path(self.folder(scene)) / "run.json"))
        return self.outcome(scene, ELSEWHERE if latest.time >= self.began else THERE, latest.facts)

    def clear(self, scene: SceneInput) -> None:
        """Remove what a killed process has left of a scene that this process has claimed."""
        with suppress(OutputError):  # remove as much as possible
            self.require_own_folder(scene)
            bring_right(self.folder(scene))
            remove_folders([Path(self.folder(scene))])

    def counts(self, record: Record | None) -> bool:
        """Whether a record is valid: with --overwrite, records from before this batch are not."""
        return record is not None and not (self.config.overwrite and record.time < self.began)

    def folder(self, scene: SceneInput) -> str:
        """The value of `-o` for `lite3r reconstruct`."""
        return f"{Path(self.config.output) / scene.name}/"

    def require_own_folder(self, scene: SceneInput) -> None:
        """Raises OutputError if the scene's folder is reached through a link below that of the batch, where other users
        may have put it.
        """
        try:
            refuse_links(Path(self.config.output), scene.name)
        except OSError as error:
            raise output_error(Path(error.filename), error) from error

    def config_of(self, scene: SceneInput) -> ReconstructConfig:
        """The configuration of `lite3r reconstruct` for the scene."""
        masks = self.config.input.masks
        own = replace(self.config.input, inputs=(scene.path,), masks=None if masks is None else masks / scene.name)
        return replace(self.config, input=own, output=self.folder(scene))

    def outcome(self, scene: SceneInput, status: str, facts: dict[str, Any]) -> Outcome:
        """The outcome from the facts of a record. Facts of a wrong type are left out."""
        kept = {key: value for key, value in facts.items() if key in _KINDS and _KINDS[key](value)}
        return Outcome(scene.name, str(scene.path), self.folder(scene), status, **kept)


def _facts_in(run_json: Path) -> dict[str, Any]:
    """The facts of a complete scene, like those of its record; empty if the file cannot be read."""
    try:
        document = read_json(run_json)
        images = document["images"]
        used = [image for image in images if image["verdict"] == "used" and image.get("part", 1) == 1]
    except (InputError, KeyError, TypeError, AttributeError):
        return {}
    return document | {"images": len(images), "views": len(used)}
