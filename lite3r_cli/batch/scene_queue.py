"""The next scene of a batch, and the outcomes of all scenes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..console import Tell
from .job import DONE, FAILED, OPEN, Outcome
from .manifest import SceneInput
from .past import Past


@dataclass(frozen=True)
class BatchReport:
    """The outcomes of all scenes, in the order of the manifest."""

    output: Path
    outcomes: list[Outcome]
    facts: dict[str, Any]  # fields of batch.json other than the scenes

    @property
    def counts(self) -> dict[str, int]:
        """Number of scenes per status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == FAILED]

    def document(self) -> dict[str, Any]:
        """The content of batch.json."""
        return {**self.facts, "counts": self.counts, "scenes": [vars(outcome) for outcome in self.outcomes]}


class End:
    """The answer to "which scene is next?" when there will be no more."""


END = End()
Answer = SceneInput | End | None  # None: other processes have the remaining scenes, ask again


class SceneQueue:
    """Hands out the scenes of a batch one by one. `warn` is called for failures, `step` for every settled scene."""

    def __init__(self, scenes: Sequence[SceneInput], past: Past, warn: Tell, step: Any) -> None:
        self.scenes, self.past = scenes, past
        self.outcomes: dict[str, Outcome] = {}
        self._warn, self._step = warn, step
        self._waiting = deque(scenes)
        self._later: list[SceneInput] = []  # other processes have them, or a process died on them
        self._given: dict[str, SceneInput] = {}  # handed out, not settled
        self._stopped = False  # --strict, and a scene has failed

    def next(self) -> Answer:
        """The next scene to make."""
        while self._waiting and not self._stopped:
            scene = self._waiting.popleft()
            outcome = self.past.settled(scene)
            if outcome is None:
                self._given[scene.name] = scene
                return scene
            self.past.claims.tidy(scene.name)
            self.ended(outcome)
        if self._stopped or not (self._given or self._later):
            return END
        self._waiting.extend(self._later)
        self._later.clear()
        return None

    @property
    def missing(self) -> int:
        """Scenes that have not been handed out; some of them may already exist."""
        return 0 if self._stopped else len(self._waiting) + len(self._later)

    @property
    def is_done(self) -> bool:
        """Whether no scene is waiting or in progress."""
        return not self.missing and not self._given

    def later(self, names: Iterable[str]) -> None:
        """Scenes that were handed out but cannot be made now."""
        self._later += [self._given.pop(name) for name in names if name in self._given]

    def ended(self, outcome: Outcome) -> None:
        """A scene is settled."""
        self._given.pop(outcome.name, None)
        self.outcomes[outcome.name] = outcome
        if outcome.status == FAILED:
            self._stopped = self._stopped or self.past.config.input.strict
            self._warn(f"{outcome.name}: failed: {outcome.reason}")
        if outcome.status == DONE:
            self._step(
                f"{outcome.name}: {outcome.views} views, {outcome.points:,} points, {outcome.wall_seconds:.1f} s"
            )
        else:
            self._step()

    def tidy(self) -> None:
        """After the end of the workers: remove what killed workers have left of unsettled scenes."""
        for scene in self.scenes:
            if scene.name not in self.outcomes:
                self.past.claims.tidy(scene.name, partial(self.past.clear, scene))

    def report(self, output: Path, facts: dict[str, Any]) -> BatchReport:
        """The report of all scenes."""
        found = [self.outcomes.get(scene.name) or self.past.outcome(scene, OPEN, {}) for scene in self.scenes]
        return BatchReport(output, found, facts)
