"""One scene of a batch in the job pipeline: its claim, its steps, and its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .. import console
from ..console import Progress, Tell
from ..errors import Lite3RError, MemoryLimitError, OutputError
from ..pipelines.reconstruct_scene import Report, SceneRun
from .claims import Claim
from .manifest import SceneInput

if TYPE_CHECKING:
    from ..pipelines.predict import Predictor
    from .past import Past

DONE, THERE, ELSEWHERE, FAILED, OPEN = "done", "there", "elsewhere", "failed", "open"
MEANINGS = {
    DONE: "made by this run",
    ELSEWHERE: "made by another process meanwhile",
    THERE: "complete already",
    FAILED: "failed",
    OPEN: "not begun",
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a scene, as in batch.json."""

    name: str
    input: str
    folder: str
    status: str  # a key of MEANINGS
    images: int | None = None
    views: int | None = None
    points: int | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    wall_seconds: float | None = None  # from the first reading of its pictures to its files
    reason: str | None = None  # of a failure
    exit_code: int | None = None  # that `lite3r reconstruct` would have returned

    def facts(self) -> dict[str, Any]:
        """The fields of a record, without name and status."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "status")}


class SceneJob:
    """A claimed scene."""

    def __init__(
        self,
        scene: SceneInput,
        past: Past,
        claim: Claim,
        predictor: Callable[[], Predictor],
        warn: Tell,
        ended: Callable[[Outcome], None],
    ) -> None:
        """`ended` is called with the outcome."""
        self.scene, self.past, self.claim, self._predictor, self._ended = scene, past, claim, predictor, ended
        self.config = past.config_of(scene)
        self._run = SceneRun(self.config, Progress(), lambda text: warn(f"{scene.name}: {text}"))
        self._report: Report | None = None

    @property
    def views(self) -> int:
        """Number of readable pictures, once they are read."""
        return self._run.views

    def read(self) -> None:
        self._run.progress.restart()
        self.past.require_own_folder(self.scene)
        self._run.__enter__()
        self.past.require_own_folder(self.scene)  # another user's link may have appeared before the folder was made
        self._run.find()
        self._run.read(self._predictor())

    def predict(self) -> None:
        self._run.predict(self._predictor())

    def finish(self) -> None:
        self._report = self._run.finish(self._predictor())
        self._run.__exit__(None, None, None)

    def stop(self) -> None:
        self._run.stop()

    def end(self, error: Exception | None) -> None:
        error = self._leave(error)
        report = self._report
        outcome = self._failure(error) if error is not None or report is None else self._success(report)
        try:
            if outcome.status == DONE:
                self.claim.done(outcome.facts())
            else:
                self.claim.failed(outcome.facts())
        except OutputError as failure:  # the disk is full: then the scene's own files show the outcome
            console.warn(f"{self.scene.name}: its record is missing: {failure}")
        self._ended(outcome)

    def drop(self) -> None:
        self._leave(InterruptedError())
        self.claim.give_back()

    def _leave(self, error: Exception | None) -> Exception | None:
        """Remove partial output. Returns the error, with file names as the user knows them."""
        try:
            self._run.__exit__(None if error is None else type(error), error, None)
        except OutputError as renamed:
            return renamed
        return error

    def _success(self, report: Report) -> Outcome:
        return Outcome(
            self.scene.name,
            str(self.scene.path),
            str(report.folder),
            DONE,
            report.images,
            report.views,
            report.points,
            report.warnings,
            {name: round(value, 3) for name, value in report.seconds.items()},
            round(report.wall, 3),
        )

    def _failure(self, error: Exception | None) -> Outcome:
        if error is not None and console.settings.debug:
            console.traceback(error)
        reason, code = _explain(error)
        return Outcome(
            self.scene.name,
            str(self.scene.path),
            self.config.output,
            FAILED,
            warnings=list(self._run.warnings),
            wall_seconds=round(self._run.progress.wall, 3),
            reason=reason,
            exit_code=code,
        )


def _explain(error: Exception | None) -> tuple[str, int]:
    """The reason of a failure, and its exit code."""
    from ..runtime import is_out_of_memory

    if isinstance(error, Lite3RError):
        return str(error), error.exit_code
    if error is not None and is_out_of_memory(error):
        text = "out of memory; lower --resolution, or limit the images with --max-views"
        return text, MemoryLimitError.exit_code
    return f"{type(error).__name__}: {error} (a bug; --debug shows where)", 1
