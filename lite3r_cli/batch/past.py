"""What is known of a scene before anybody works on it: made already, failed for good, or to be made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import ReconstructConfig
from ..errors import OutputError
from ..io.atomic import bring_right
from ..io.locks import remove_folders
from ..io.output_layout import is_complete
from . import claims as recorded
from .claims import Claims, Record
from .job import ELSEWHERE, FAILED, THERE, Outcome
from .manifest import SceneInput

LARGEST = 1e15  # of a number in a record


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST  # not so NaN


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


_KINDS: dict[str, Callable[[Any], bool]] = {  # what a record may say of a scene
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
    """Where the scenes of a batch stand. What was recorded since `began` (seconds since 1970) belongs to this batch."""

    config: ReconstructConfig  # of the batch
    began: float

    @property
    def claims(self) -> Claims:
        return Claims(Path(self.config.output))

    def settled(self, scene: SceneInput, claimed: bool = False) -> Outcome | None:
        """What became of a scene for which nothing is left to be done; None: it has to be made, or somebody who has it
        is about to record it. `claimed`: this process has it.
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
        with suppress(OutputError):  # of which one says that somebody writes there
            bring_right(self.folder(scene))  # hidden files of a process that was killed behind its last file
        latest = self.claims.record(scene.name)  # it may have been made between the two looks
        if latest is None or latest.status != recorded.DONE:
            return self.outcome(scene, THERE, {})
        return self.outcome(scene, ELSEWHERE if latest.time >= self.began else THERE, latest.facts)

    def clear(self, scene: SceneInput) -> None:
        """Remove what a killed process has left of a scene, which this process has claimed, and nobody begins now."""
        with suppress(OutputError):  # as much as can be removed
            bring_right(self.folder(scene))
            remove_folders([Path(self.folder(scene))])

    def counts(self, record: Record | None) -> bool:
        """Whether a record says something: with --overwrite, what was there before this batch does not."""
        return record is not None and not (self.config.overwrite and record.time < self.began)

    def folder(self, scene: SceneInput) -> str:
        """As `-o` of `lite3r reconstruct` takes it."""
        return f"{Path(self.config.output) / scene.name}/"

    def config_of(self, scene: SceneInput) -> ReconstructConfig:
        """That of `lite3r reconstruct` for the scene."""
        masks = self.config.input.masks
        own = replace(self.config.input, inputs=(scene.path,), masks=None if masks is None else masks / scene.name)
        return replace(self.config, input=own, output=self.folder(scene))

    def outcome(self, scene: SceneInput, status: str, facts: dict[str, Any]) -> Outcome:
        """From the facts of a record; those that are not of their kind are left out."""
        kept = {key: value for key, value in facts.items() if key in _KINDS and _KINDS[key](value)}
        return Outcome(scene.name, str(scene.path), self.folder(scene), status, **kept)
