"""One process that keeps the network and makes the scenes that it is handed: it claims each, and sends it over the
conveyor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from .. import cuda_start
from ..console import Progress
from . import claims as recorded
from .claims import Claim
from .conveyor import Conveyor
from .job import FAILED, Outcome, SceneJob
from .manifest import SceneInput
from .past import Past
from .rota import Answer, End

if TYPE_CHECKING:
    from ..pipelines.predict import Predictor


class Office(Protocol):
    """Hands out scenes and hears what becomes of them."""

    def next(self) -> Answer:
        """Which scene is next."""

    def begun(self, name: str) -> None:
        """A scene is claimed, and its attempt counted."""

    def busy(self, name: str) -> None:
        """Another process has a scene that was handed out."""

    def ended(self, outcome: Outcome) -> None:
        """A scene is settled."""

    def warn(self, text: str) -> None:
        """Something odd about a scene."""

    def note(self, text: str) -> None:
        """A fact about the network."""

    def ready(self, seconds: dict[str, float]) -> None:
        """The network is loaded; the seconds of its stages."""


class Station:
    """`run` works until no scene is left. `number` of the worker, from 0, chooses among several GPUs; None: it is
    alone and takes the device that was asked for.
    """

    def __init__(self, past: Past, office: Office, number: int | None = None) -> None:
        self.past, self.office, self.number = past, office, number
        self._predictor: Predictor | None = None
        self._under_way: set[str] = set()

    def run(self) -> None:
        """Errors of a scene are recorded and told; what is wrong for all scenes is raised."""
        Conveyor(self._jobs()).run()

    def _jobs(self) -> Iterator[SceneJob | None]:
        """Scenes that this process has claimed; None while there is none for it."""
        while True:
            scene = self.office.next()
            if isinstance(scene, End):
                return
            if scene is None:
                yield None
                continue
            claim = self.past.claims.take(scene.name)
            if claim is None:
                self.office.busy(scene.name)
            else:
                yield from self._job(scene, claim)

    def _job(self, scene: SceneInput, claim: Claim) -> Iterator[SceneJob | None]:
        """The claimed scene, unless it turns out to be settled. One on which a process died runs alone: should this
        process die, too, then nobody else's scene is to blame.
        """
        try:
            record = self.past.claims.record(scene.name)
            outcome = self.past.settled(scene, claimed=True)
            if outcome is not None:
                claim.leave()
                return self.office.ended(outcome)
            before = record if self.past.counts(record) else None
            if before is not None and before.died:
                outcome = self.past.outcome(scene, FAILED, {"reason": recorded.DIED, "exit_code": 1})
                self.past.clear(scene)
                claim.failed(outcome.facts(), before.attempts)
                return self.office.ended(outcome)
            alone = before is not None and before.status == recorded.RUNNING
            while alone and self._under_way:
                yield None
            self._load()
            claim.begin(before)
        except BaseException:
            claim.give_back()
            raise
        self.office.begun(scene.name)
        self._under_way.add(scene.name)
        yield SceneJob(scene, self.past.config_of(scene), claim, self._loaded, self.office.warn, self._ended)
        while alone and scene.name in self._under_way:
            yield None

    def _ended(self, outcome: Outcome) -> None:
        self._under_way.discard(outcome.name)
        self.office.ended(outcome)

    # -- the network ---------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Only where there is something to do: nobody waits for a network that nothing needs."""
        if self._predictor is not None:
            return
        config = self.past.config.predict
        if self.number is not None:
            config = replace(config, device=device_of_worker(config.device, self.number))
        cuda_start.begin(config.device)
        from ..pipelines.predict import Predictor

        loading = Progress()  # the display of the scenes is on
        self._predictor = Predictor(config, loading)
        for text in self._predictor.origin.notes:
            self.office.note(text)
        self.office.ready(loading.seconds)

    def _loaded(self) -> Predictor:
        assert self._predictor is not None  # no job is made before
        return self._predictor

    def facts(self) -> dict[str, Any]:
        """For batch.json; nothing where the network was not needed."""
        if self._predictor is None:
            return {}
        from .. import runtime

        return {
            "versions": runtime.versions(),
            "runtime": self._predictor.choices(),
            "peak_memory": runtime.peak_memory(self._predictor.runtime.torch_device),
        }


def device_of_worker(asked: str, number: int) -> str:
    """Workers take turns with the GPUs, unless one of them, or the CPU, was asked for by name."""
    if asked not in ("auto", "cuda"):
        return asked
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count else asked
