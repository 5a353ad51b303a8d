"""`lite3r batch`: one process, or a coordinator with several workers. The report of all scenes is batch.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..config import ReconstructConfig
from ..config.output_names import require_folder
from ..config.worker_pool import PoolConfig
from ..console import Progress, Tell
from ..io.formats import require_known
from ..io.locks import Busy, remove_folders
from ..io.transaction import replace_file, require_free
from ..pipelines.finding import require_named_files
from ..pipelines.result import plain
from .claims import Claims
from .job import Outcome
from .manifest import REPORT, find_scenes
from .older_options import older_options, told
from .past import Past
from .scene_queue import Answer, BatchReport, SceneQueue
from .scene_worker import SceneWorker

LONGEST_WAIT = 60.0  # seconds until another process has written its report


def run_batch(
    config: ReconstructConfig,
    progress: Progress | None = None,
    warn: Tell = lambda text: None,
    pool: PoolConfig = PoolConfig(),
) -> BatchReport:
    """Make every scene of `config.input.inputs` below `config.output`, except those that are complete or that other
    processes have, and write batch.json. With `config.input.strict` no scene is begun after the first failure. `pool`
    describes the worker processes.

    `warn` is called for each scene that fails, and the failure is recorded. Raises UsageError, InputError without a
    scene, BackendError and WeightsError for the network, OutputError if batch.json cannot be written.
    """
    progress = progress or Progress()
    require_known(config.formats)
    require_folder("-o", config.output)
    require_named_files(config)
    output = Path(config.output)
    require_free(output / REPORT, overwrite=True)  # now, not after all the work
    with progress.stage("Find scenes", minor=True):
        scenes = find_scenes(config.input.inputs, output)
    past = Past(config, Claims(output).now())
    made = [path for path in (output, *output.parents) if not os.path.lexists(path)]
    with progress.stage("Scenes", total=len(scenes)) as step, _without_empty_folders(past.claims, made):
        scene_queue = SceneQueue(scenes, past, warn, step)
        if pool.is_single:
            facts = _alone(past, scene_queue, progress, warn)
        else:
            from .coordinator import Coordinator

            facts = Coordinator(pool, past, scene_queue, progress, warn, step).run()
    older = older_options(past, scenes, scene_queue.report(output, {}).outcomes)
    if older:
        warn(told(older))
        facts["other_options"] = older
    arguments = plain(config) | ({} if pool.is_single else plain(pool))
    report = scene_queue.report(output, {"arguments": arguments, **facts, "wall_seconds": round(progress.wall, 3)})
    _write(output / REPORT, report.document())
    return report


@contextmanager
def _without_empty_folders(claims: Claims, made: Sequence[Path]) -> Iterator[None]:
    """If nothing was recorded because an error concerns all scenes, the folders of the records go, and so do the empty
    ones among `made`.
    """
    try:
        yield
    finally:
        with suppress(OSError):  # closed, or full of another process: they stay
            claims.leave()
        remove_folders(made)


def _alone(past: Past, scene_queue: SceneQueue, progress: Progress, warn: Tell) -> dict[str, Any]:
    """Make all scenes in this process."""
    dispatcher = _SameProcess(scene_queue, progress, warn)
    scene_worker = SceneWorker(past, dispatcher)
    scene_worker.run()
    return scene_worker.facts() | dispatcher.facts


class _SameProcess:
    """The dispatcher of a worker in the same process."""

    def __init__(self, scene_queue: SceneQueue, progress: Progress, warn: Tell) -> None:
        self._rota, self._progress, self.warn, self.note = scene_queue, progress, warn, progress.note
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
    """Write batch.json. Raises OutputError, also if another process holds its lock for longer than a file takes."""
    content = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")
    latest = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return replace_file(path, content)
        except Busy:  # another process writes its own
            if time.monotonic() > latest:
                raise
            time.sleep(0.1)
