"""A process that has the network and makes the scenes that it gets: it claims each and runs it through the job
pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from .. import cuda_start
from ..console import Progress
from . import claims as recorded
from .claims import Claim
from .job import FAILED, Outcome, SceneJob
from .job_pipeline import JobPipeline
from .manifest import SceneInput
from .past import Past
from .scene_queue import Answer, End

if TYPE_CHECKING:
    from ..pipelines.predict import Predictor


class Dispatcher(Protocol):
    """Hands out scenes and receives their outcomes."""

    def next(self) -> Answer:
        """The next scene."""

    def begun(self, name: str) -> None:
        """A scene is claimed, and its attempt counted."""

    def busy(self, name: str) -> None:
        """Another process has a scene that was handed out."""

    def ended(self, outcome: Outcome) -> None:
        """A scene is settled."""

    def warn(self, text: str) -> None:
        """A warning about a scene."""

    def note(self, text: str) -> None:
        """A fact about the network."""

    def ready(self, seconds: dict[str, float]) -> None:
        """The network is loaded; `seconds` of its stages."""


class SceneWorker:
    """`run` works until no scene is left. `number` of the worker, from 0, selects one of several GPUs; None: the
    process works alone and uses the requested device.
    """

    def __init__(self, past: Past, dispatcher: Dispatcher, number: int | None = None) -> None:
        self.past, self.dispatcher, self.number = past, dispatcher, number
        self._predictor: Predictor | None = None
        self._under_way: set[str] = set()

    def run(self) -> None:
        """Errors of a scene are recorded and reported; errors that concern all scenes are raised."""
        JobPipeline(self._jobs()).run()

    def _jobs(self) -> Iterator[SceneJob | None]:
        """Scenes that this process has claimed; None while no scene is available."""
        while True:
            scene = self.dispatcher.next()
            if isinstance(scene, End):
                return
            if scene is None:
                yield None
                continue
            claim = self.past.claims.take(scene.name)
            if claim is None:
                self.dispatcher.busy(scene.name)
            else:
                yield from self._job(scene, claim)

    def _job(self, scene: SceneInput, claim: Claim) -> Iterator[SceneJob | None]:
        """The job of a claimed scene, unless the scene turns out to be settled. A scene on which a process died runs
        alone, so that a second death is not blamed on other scenes.
        """
        try:
            record = self.past.claims.record(scene.name)
            outcome = self.past.settled(scene, claimed=True)
            if outcome is not None:
                claim.leave()
                return self.dispatcher.ended(outcome)
            before = record if self.past.counts(record) else None
            if before is not None and before.died:
                outcome = self.past.outcome(scene, FAILED, {"reason": recorded.DIED, "exit_code": 1})
                self.past.clear(scene)
                claim.failed(outcome.facts(), before.attempts)
                return self.dispatcher.ended(outcome)
            alone = before is not None and before.status == recorded.RUNNING
            while alone and self._under_way:
                yield None
            self._load()
            claim.begin(before)
        except BaseException:
            claim.give_back()
            raise
        self.dispatcher.begun(scene.name)
        self._under_way.add(scene.name)
        yield SceneJob(scene, self.past, claim, self._loaded, self.dispatcher.warn, self._ended)
        while alone and scene.name in self._under_way:
            yield None

    def _ended(self, outcome: Outcome) -> None:
        self._under_way.discard(outcome.name)
        self.dispatcher.ended(outcome)

    # -- the network ---------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Load the network only if there is a scene to make."""
        if self._predictor is not None:
            return
        config = self.past.config.predict
        if self.number is not None:
            config = replace(config, device=device_of_worker(config.device, self.number))
        cuda_start.begin(config.device)
        from ..networks.recorded import IN_BATCH
        from ..pipelines.predict import Predictor

        loading = Progress()  # the display shows the scenes
        self._predictor = Predictor(config, loading, repeats=IN_BATCH)
        for text in self._predictor.origin.notes:
            self.dispatcher.note(text)
        self.dispatcher.ready(loading.seconds)

    def _loaded(self) -> Predictor:
        assert self._predictor is not None  # jobs are made after loading
        return self._predictor

    def facts(self) -> dict[str, Any]:
        """Fields of batch.json; empty if the network was not needed."""
        if self._predictor is None:
            return {}
        from .. import runtime

        return {
            "versions": runtime.versions(),
            "runtime": self._predictor.choices(),
            "peak_memory": runtime.peak_memory(self._predictor.runtime.torch_device),
        }


def device_of_worker(asked: str, number: int) -> str:
    """The GPU of a worker, in turn, unless a GPU or the CPU was requested by name."""
    if asked not in ("auto", "cuda"):
        return asked
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count else asked
