"""`lite3r batch`: one process, or one that hands scenes to several; the account of all scenes is batch.json."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ..config import ReconstructConfig
from ..config.crew import CrewConfig
from ..console import Progress, Tell
from ..errors import UsageError
from ..io.formats import require_known
from ..io.locks import Busy
from ..io.transaction import replace_file
from ..pipelines.result import plain
from .job import Outcome
from .manifest import find_scenes
from .past import Past
from .rota import Answer, BatchReport, Rota
from .station import Station

REPORT = "batch.json"


def run_batch(
    config: ReconstructConfig,
    progress: Progress | None = None,
    warn: Tell = lambda text: None,
    crew: CrewConfig = CrewConfig(),
) -> BatchReport:
    """Make every scene of `config.input.inputs` below `config.output`, but for those that are there or that other
    processes have, and write batch.json. With `config.input.strict` the first that fails is the last that is begun.
    `crew` says which processes make them.

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
    past = Past(config, time.time())
    with progress.stage("Scenes", total=len(scenes)) as step:
        rota = Rota(scenes, past, warn, step)
        if crew.is_single:
            facts = _alone(past, rota, progress, warn)
        else:
            from .foreman import Foreman

            facts = Foreman(crew, past, rota, progress, warn, step).run()
    arguments = plain(config) | ({} if crew.is_single else plain(crew))
    report = rota.report(output, {"arguments": arguments, **facts, "wall_seconds": round(progress.wall, 3)})
    _write(output / REPORT, report.document())
    return report


def _alone(past: Past, rota: Rota, progress: Progress, warn: Tell) -> dict[str, Any]:
    """This process makes all of them."""
    office = _SameProcess(rota, progress, warn)
    station = Station(past, office)
    station.run()
    return station.facts() | office.facts


class _SameProcess:
    """The station's office where no other process is."""

    def __init__(self, rota: Rota, progress: Progress, warn: Tell) -> None:
        self._rota, self._progress, self.warn, self.note = rota, progress, warn, progress.note
        self.facts: dict[str, Any] = {}

    def next(self) -> Answer:
        return self._rota.next()

    def begun(self, name: str) -> None:
        pass

    def busy(self, name: str) -> None:
        self._rota.later([name])

    def ended(self, outcome: Outcome) -> None:
        self._rota.ended(outcome)

    def ready(self, seconds: dict[str, float]) -> None:
        self._progress.seconds.update(seconds)
        self.facts["start_seconds"] = round(self._progress.wall, 3)


def _write(path: Path, document: dict[str, Any]) -> None:
    """Raises OutputError."""
    content = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")
    while True:
        try:
            return replace_file(path, content)
        except Busy:  # another process writes its own
            time.sleep(0.1)
