"""`lite3r batch`: claim scenes, send them over the conveyor, and account for all of them in batch.json."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cuda_start
from ..config import ReconstructConfig
from ..console import Progress, Tell
from ..errors import UsageError
from ..io.formats import require_known
from ..io.locks import Busy
from ..io.output_layout import is_complete
from ..io.transaction import replace_file
from ..pipelines.result import plain
from . import claims as recorded
from .claims import Claim, Claims, Record
from .conveyor import Conveyor
from .job import DONE, ELSEWHERE, FAILED, OPEN, THERE, Outcome, SceneJob
from .manifest import SceneInput, find_scenes

if TYPE_CHECKING:
    from ..pipelines.predict import Predictor

REPORT = "batch.json"


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


def run_batch(
    config: ReconstructConfig, progress: Progress | None = None, warn: Tell = lambda text: None
) -> BatchReport:
    """Make every scene of `config.input.inputs` below `config.output`, but for those that are there or that other
    processes have, and write batch.json. With `config.input.strict` the first that fails is the last that is begun.

    A scene that fails is told by `warn` and recorded. Raises UsageError, InputError where there is no scene,
    BackendError and WeightsError for the network, OutputError where batch.json cannot be written.
    """
    progress = progress or Progress()
    require_known(config.formats)
    if config.output.lower().endswith(".ply"):
        raise UsageError(f"{config.output}: a batch has many scenes: give -o a folder")
    output = Path(config.output)
    with progress.stage("Find scenes", minor=True):
        scenes = find_scenes(config.input.inputs, output)
    with progress.stage("Scenes", total=len(scenes)) as step:
        batch = _Batch(config, scenes, Claims(output), progress, warn, step)
        Conveyor(batch.jobs()).run()
    report = batch.report(output)
    _write(output / REPORT, report.document())
    return report


class _Batch:
    """The scenes of one run, and what is known of them."""

    def __init__(
        self,
        config: ReconstructConfig,
        scenes: Sequence[SceneInput],
        claims: Claims,
        progress: Progress,
        warn: Tell,
        step: Any,
    ) -> None:
        self.config, self.scenes, self.claims = config, scenes, claims
        self.progress, self.warn, self.step = progress, warn, step
        self.began = time.time()
        self.outcomes: dict[str, Outcome] = {}
        self._predictor: Predictor | None = None
        self.start_seconds: float | None = None

    def jobs(self) -> Iterator[SceneJob | None]:
        """The scenes that this process can have; None while others have the rest."""
        waiting = list(self.scenes)
        while waiting:
            busy = []
            for scene in waiting:
                if self.config.input.strict and any(o.status == FAILED for o in self.outcomes.values()):
                    return
                if self._is_settled(scene):
                    continue
                claim = self.claims.take(scene.name)
                if claim is None:
                    busy.append(scene)
                elif (job := self._job(scene, claim)) is not None:
                    yield job
            waiting = busy
            if waiting:
                yield None

    def _job(self, scene: SceneInput, claim: Claim) -> SceneJob | None:
        """The claimed scene as a job; None where it turns out to be settled."""
        try:
            record = self.claims.record(scene.name)
            if self._is_settled(scene, claimed=True):
                claim.leave()
                return None
            if record is not None and record.died and not self._is_to_be_replaced(record):
                outcome = self._outcome(scene, FAILED, {"reason": recorded.DIED, "exit_code": 1})
                claim.failed(outcome.facts(), record.attempts)
                self._ended(outcome)
                return None
            self._load()
            claim.begin(None if record is None or self._is_to_be_replaced(record) else record)
        except BaseException:
            claim.leave()
            raise
        return SceneJob(scene, self._config_of(scene), claim, self._loaded, self.warn, self._ended)

    def _is_to_be_replaced(self, record: Record) -> bool:
        """With --overwrite, what was there before this run counts for nothing."""
        return self.config.overwrite and record.time < self.began

    def _is_settled(self, scene: SceneInput, claimed: bool = False) -> bool:
        """Whether nothing is left to be done for a scene; its outcome is then noted."""
        record = self.claims.record(scene.name)
        if record is not None and record.status == recorded.FAILED:
            if record.time >= self.began or (record.died and not self.config.overwrite):
                self._ended(self._outcome(scene, FAILED, record.facts))
                return True
            return False
        running = record is not None and record.status == recorded.RUNNING
        if running and not claimed:
            return False  # somebody is about to record it
        ours = record is not None and record.time >= self.began
        if (not ours and self.config.overwrite) or not is_complete(self._folder(scene)):
            return False
        latest = self.claims.record(scene.name)  # it may have been made between the two looks
        if latest is None or latest.status != recorded.DONE:
            self._ended(self._outcome(scene, THERE, {}))
        else:
            self._ended(self._outcome(scene, ELSEWHERE if latest.time >= self.began else THERE, latest.facts))
        return True

    # -- one scene -----------------------------------------------------------------------------------------------------

    def _folder(self, scene: SceneInput) -> str:
        """As `-o` of `lite3r reconstruct` takes it."""
        return f"{Path(self.config.output) / scene.name}/"

    def _config_of(self, scene: SceneInput) -> ReconstructConfig:
        masks = self.config.input.masks
        own = replace(self.config.input, inputs=(scene.path,), masks=None if masks is None else masks / scene.name)
        return replace(self.config, input=own, output=self._folder(scene))

    def _outcome(self, scene: SceneInput, status: str, facts: dict[str, Any]) -> Outcome:
        known = {field.name for field in fields(Outcome)} - {"name", "status", "input", "folder"}
        kept = {key: value for key, value in facts.items() if key in known}
        return Outcome(scene.name, str(scene.path), self._folder(scene), status, **kept)

    def _ended(self, outcome: Outcome) -> None:
        self.outcomes[outcome.name] = outcome
        if outcome.status == FAILED:
            self.warn(f"{outcome.name}: failed: {outcome.reason}")
        if outcome.status == DONE:
            self.step(f"{outcome.name}: {outcome.views} views, {outcome.points:,} points, {outcome.wall_seconds:.1f} s")
        else:
            self.step()

    # -- the network ---------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Only where there is something to do: nobody waits for a network that nothing needs."""
        if self._predictor is not None:
            return
        cuda_start.begin(self.config.predict.device)
        from ..pipelines.predict import Predictor

        loading = Progress()  # the display of the scenes is on
        self._predictor = Predictor(self.config.predict, loading)
        self.progress.seconds.update(loading.seconds)
        for text in self._predictor.origin.notes:
            self.progress.note(text)
        self.start_seconds = self.progress.wall

    def _loaded(self) -> Predictor:
        assert self._predictor is not None  # no job is made before
        return self._predictor

    # -- the account ---------------------------------------------------------------------------------------------------

    def report(self, output: Path) -> BatchReport:
        outcomes = [self.outcomes.get(s.name) or self._outcome(s, OPEN, {}) for s in self.scenes]
        facts: dict[str, Any] = {"arguments": plain(self.config)}
        if self._predictor is not None:
            from .. import runtime

            device = self._predictor.runtime.torch_device
            facts["versions"] = runtime.versions()
            facts["runtime"] = self._predictor.choices()
            facts["peak_memory"] = runtime.peak_memory(device)
            facts["start_seconds"] = round(self.start_seconds or 0.0, 3)
        return BatchReport(output, outcomes, {**facts, "wall_seconds": round(self.progress.wall, 3)})


def _write(path: Path, document: dict[str, Any]) -> None:
    """Raises OutputError."""
    content = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")
    while True:
        try:
            return replace_file(path, content)
        except Busy:  # another process writes its own
            time.sleep(0.1)
