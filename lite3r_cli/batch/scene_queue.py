"""Which scene comes next, and what became of all of them."""

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
    """What became of all scenes, in the order of the manifest."""

    output: Path
    outcomes: list[Outcome]
    facts: dict[str, Any]  # of batch.json, but for the scenes

    @property
    def counts(self) -> dict[str, int]:
        """How many scenes have which status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.status == FAILED]

    def document(self) -> dict[str, Any]:
        """What stands in batch.json."""
        return {**self.facts, "counts": self.counts, "scenes": [vars(outcome) for outcome in self.outcomes]}


class End:
    """The answer to "which scene is next?" when there is none and none can come."""


END = End()
Answer = SceneInput | End | None  # None: others have the rest, ask again


class Rota:
    """Hands out the scenes of a batch one by one. `warn` hears of failures, `step` of every scene that is settled."""

    def __init__(self, scenes: Sequence[SceneInput], past: Past, warn: Tell, step: Any) -> None:
        self.scenes, self.past = scenes, past
        self.outcomes: dict[str, Outcome] = {}
        self._warn, self._step = warn, step
        self._waiting = deque(scenes)
        self._later: list[SceneInput] = []  # other processes have them, or one died on them
        self._given: dict[str, SceneInput] = {}  # handed out, not settled
        self._stopped = False  # --strict, and a scene has failed

    def next(self) -> Answer:
        """The next scene that is to be made."""
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
        """Scenes that wait to be handed out; those that turn out to be there are among them."""
        return 0 if self._stopped else len(self._waiting) + len(self._later)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be handed out or waited for."""
        return not self.missing and not self._given

    def later(self, names: Iterable[str]) -> None:
        """Scenes that were handed out and could not be made now."""
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
        """The workers have ended: remove what those that were killed have left of scenes that are not settled."""
        for scene in self.scenes:
            if scene.name not in self.outcomes:
                self.past.claims.tidy(scene.name, partial(self.past.clear, scene))

    def report(self, output: Path, facts: dict[str, Any]) -> BatchReport:
        """The account of all scenes."""
        found = [self.outcomes.get(scene.name) or self.past.outcome(scene, OPEN, {}) for scene in self.scenes]
        return BatchReport(output, found, facts)
