"""Predicts the passes of a long set one by one, and writes each to disk while the next one is predicted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress
from ..errors import InputError, MemoryLimitError
from ..io.images import ImageSet, Skipped
from ..long.assembly import Assembly, AssemblyConfig, Passes, assemble
from ..long.chunk_plan import CHUNK, Pass
from ..long.drift import SHARED, DriftEstimate
from ..long.pass_store import PassStore
from ..long.work_folder import WorkFolder
from ..scene.posed_view import View
from ..stopping import responsive
from .later import Later
from .planned import Ran

if TYPE_CHECKING:
    from .predict import Pictures, Predictions, Predictor


@dataclass
class Predicted:
    """Results of all passes, except those on disk."""

    skipped: dict[str, Skipped] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # position → (h, w) inside the network
    maps: dict[int, tuple[int, int]] = field(default_factory=dict)  # position → (h, w) of its depth map
    drift: float | None = None  # estimate of the chunks' drift before loop closure, percent of the path
    ran: list[Ran] = field(default_factory=list)  # what the network used for them, in this process or a stopped one


def predict_passes(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    passes: Sequence[Pass],
    first: int,
    work: WorkFolder,
    progress: Progress,
    check: Callable[[], None],
    into: Predicted,
    stage: str = "Predict",
) -> None:
    """Predict the passes that are not on disk; the number of passes[0] is `first`.

    Raises MemoryLimitError, InputError, OutputError.
    """
    missing = {k for k, each in enumerate(passes) if not work.store.has(first + k, each)}
    with (
        progress.stage(stage, total=len(passes)) as step,
        _Line(config, images, predictor, passes, first, work) as line,
    ):
        began, new, drift = time.perf_counter(), 0, DriftEstimate()
        for k in range(len(passes) + 1):
            if k in missing:
                line.predict(k, k + 1 in missing)  # while the pass before it is written
            line.written()
            if k > 0:
                last = passes[k - 1]
                _gather(work.store.facts(first + k - 1), work.store.views(first + k - 1), into)
                if last.kind == CHUNK:
                    _extend(drift, images, work.store, first + k - 1)
                new += k - 1 in missing
                seconds = time.perf_counter() - began
                told = f"chunk {k} of {len(passes)}, {new * len(last.views) / seconds:.1f} views/s, "
                told += f"about {_duration(seconds / max(new, 1) * (len(passes) - k))} left"
                told += "" if drift.percent is None else f", drift about {drift.percent:.1f} % of the path"
                step(figures=told if new and k < len(passes) else "")
                check()
            if k in missing:
                line.write(k)
        into.drift = drift.percent if into.drift is None else into.drift


class _Line:
    """While the network predicts one pass, the pass before it is written, and the images of the next one are read.

    Use as a context manager: at its end a pass that is being written is complete.
    """

    def __init__(
        self, config: ReconstructConfig, images: ImageSet, predictor: Predictor, passes: Sequence[Pass], first: int,
        work: WorkFolder,
    ) -> None:  # fmt: skip
        self._images, self._predictor, self._passes, self._work = images, predictor, passes, work
        self._strict, self._first = config.input.strict, first
        self._read: dict[int, Later[Pictures]] = {}
        self._writing: Later[None] | None = None
        self._found: tuple[Predictions, dict[str, Any]] | None = None

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writing is not None:
            self._writing.wait()

    def predict(self, k: int, another: bool) -> None:
        """Predict pass k; pass k + 1 is predicted next if there is `another`. Raises MemoryLimitError, InputError."""
        pictures = responsive(self._pictures(k).result)
        if another:
            self._pictures(k + 1)
        before = len(self._predictor.network.ran)
        try:
            found = self._predictor.predict_pictures(self._images, pictures)
        except MemoryLimitError as error:
            raise MemoryLimitError(f"{error}, or give a --chunk below {len(self._passes[k].views)}") from error
        found.held.release()  # of the device's memory, which the next pass needs
        facts = {
            "skipped": [[item.name, item.reason] for item in pictures.skipped],
            "warnings": found.warnings,
            "sizes": [list(size) for size in found.network_sizes],
            "maps": [list(view.depth.shape) for view in found.views],  # type: ignore[union-attr]
            "ran": [asdict(each) for each in self._predictor.network.ran[before:]],
        }
        self._found = found, facts

    def write(self, k: int) -> None:
        """Begin to write what was predicted last; `written` was called for the pass before."""
        assert self._found is not None
        (found, facts), self._found = self._found, None
        number, wanted, store = self._first + k, self._passes[k], self._work.store
        self._writing = Later(
            lambda: store.write(number, wanted, found.indices, found.views, found.colors, facts), "write a chunk"
        )

    def written(self) -> None:
        """Wait until the pass is on disk. Raises OutputError."""
        if self._writing is not None:
            responsive(self._writing.result)
            self._writing = None

    def _pictures(self, k: int) -> Later[Pictures]:
        self._read = {i: read for i, read in self._read.items() if i >= k}
        if k not in self._read:
            wanted = self._passes[k].views
            read = lambda: self._predictor.read(self._images, indices=wanted, strict=self._strict)  # noqa: E731
            self._read[k] = Later(read, "read a chunk")
        return self._read[k]


def _extend(drift: DriftEstimate, images: ImageSet, store: PassStore, number: int) -> None:
    """Chunk `number`, which follows the one before, becomes part of the estimate."""
    shared = sorted(set(store.views(number)) & set(store.views(number - 1))) if number else []
    some = shared[:: max(1, len(shared) // SHARED)]
    before, here = ([store.read(k, i, bare_view(images, i)) for i in some] for k in (number - 1, number))
    drift.add(store.cameras(number)[1], before, here)


def _gather(facts: dict[str, Any], positions: Sequence[int], into: Predicted) -> None:
    """Raises InputError for damaged facts, because they may be from disk."""
    try:
        for name, reason in facts["skipped"]:
            into.skipped.setdefault(name, Skipped(name, reason))
        into.warnings += [text for text in facts["warnings"] if text not in into.warnings]
        for position, size, shape in zip(positions, facts["sizes"], facts["maps"], strict=True):
            into.sizes.setdefault(position, tuple(size))
            into.maps.setdefault(position, tuple(shape))
        into.ran += [Ran.from_dict(each) for each in facts["ran"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a finished chunk is damaged ({error}); run again without --resume") from error


def bare_view(images: ImageSet, position: int) -> View:
    """A view with name and size, without a camera."""
    record = images.records[position]
    return View(record.name, record.width, record.height, np.eye(3), np.eye(3, 4))


def stand_passes(
    images: ImageSet, passes: Sequence[Pass], used: Sequence[bool], work: WorkFolder,
    config: AssemblyConfig = AssemblyConfig(),
) -> tuple[list[Assembly], Passes]:  # fmt: skip
    """Transforms of the passes `used`, in one scene or several."""
    read = Passes(work.store, passes, lambda position: bare_view(images, position), config.focal, used)
    return assemble(read, config), read


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
