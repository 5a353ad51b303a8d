"""Predicts the passes of a long set one by one, and writes each to disk while the next one is predicted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress
from ..errors import InputError, MemoryLimitError
from ..io.images import ImageSet, Skipped
from ..long.assembly import Assembly, AssemblyConfig, Passes, assemble
from ..long.chunk_plan import CHUNK, MAIN, Pass, owners
from ..long.drift import SHARED, DriftEstimate
from ..long.pass_store import PassStore
from ..long.work_folder import WorkFolder
from ..networks.pictures import NetworkInput
from ..scene.posed_view import View
from ..stopping import responsive
from .later import Later
from .planned import Ran

if TYPE_CHECKING:
    from .predict import Pictures, Predictions, Predictor

LENS_EVERY = 4  # chunks: their straight edges tell whether the lens, which is one in most sets, has distortion
TELLING = 2  # number of the chunk that the expected time is estimated from: the first also waits for the network


@dataclass
class Predicted:
    """Results of all passes, except those on disk."""

    skipped: dict[str, Skipped] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # position → (h, w) inside the network
    maps: dict[int, tuple[int, int]] = field(default_factory=dict)  # position → (h, w) of its depth map
    drift: float | None = None  # estimate of the chunks' drift before loop closure, percent of the path
    ran: list[Ran] = field(default_factory=list)  # what the network used for them, in this process or a stopped one


# number of the pass in `passes`, what was predicted → facts that are stored with it
Examine = Callable[[int, "Predictions"], dict[str, Any]]


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
    examine: Examine | None = None,
    after: Callable[[int], bool] = lambda k: True,
) -> None:
    """Predict the passes that are not on disk; the number of passes[0] is `first`. `examine` is called with each
    predicted pass, whose maps are still on the device; `after` with the number of each that is on disk, in order: once
    it is false, the others are left out. Whole maps are stored once for each view, or with --refine in each chunk.

    Raises MemoryLimitError, InputError, OutputError.
    """
    missing = {k for k, each in enumerate(passes) if not work.store.has(first + k, each)}
    with (
        progress.stage(stage, total=len(passes)) as step,
        _Line(config, images, predictor, passes, first, work, examine) as line,
    ):
        began, new, seconds = time.perf_counter(), 0, 0.0
        for k in range(len(passes) + 1):
            if k in missing:
                line.predict(k, k + 1 in missing)  # while the pass before it is written
            if k > 0:
                line.settle(k - 1)
                last = passes[k - 1]
                _gather(work.store.facts(first + k - 1), work.store.views(first + k - 1), into)
                new += k - 1 in missing
                seconds, before = time.perf_counter() - began, seconds
                if new == TELLING and last.kind in MAIN:
                    progress.note(_expected(seconds - before, len(passes), config.long.loops and last.kind == CHUNK))
                told = f"chunk {k} of {len(passes)}, {new * len(last.views) / seconds:.1f} views/s, "
                told += f"about {_duration(seconds / max(new, 1) * (len(passes) - k))} left"
                told += "" if line.drift is None else f", drift about {line.drift:.1f} % of the path"
                step(figures=told if new and k < len(passes) else "")
                check()
                if not after(k - 1):
                    break
            if k in missing:
                line.write(k)
        into.drift = line.drift if into.drift is None else into.drift


class _Line:
    """While the network predicts one pass, the pass before it is written, and the images of the next one are read.

    Use as a context manager: at its end a pass that is being written is complete.
    """

    def __init__(
        self, config: ReconstructConfig, images: ImageSet, predictor: Predictor, passes: Sequence[Pass], first: int,
        work: WorkFolder, examine: Examine | None,
    ) -> None:  # fmt: skip
        self._images, self._predictor, self._passes, self._work = images, predictor, passes, work
        self._examine = examine
        self._chain = DriftEstimate()
        self.drift: float | None = None  # of the chunks so far, percent of the path
        self._strict, self._first = config.input.strict, first
        self._refine, self._owner = config.predict.refine, owners(passes, len(images))
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
            self._pictures(k + 1, dict(zip(pictures.indices, pictures.inputs)))
        before = len(self._predictor.network.ran)
        try:
            found = self._predictor.predict_pictures(self._images, pictures, refined_next=False)
        except MemoryLimitError as error:
            raise MemoryLimitError(f"{error}, or give a --chunk below {len(self._passes[k].views)}") from error
        examined = {} if self._examine is None else self._examine(k, found)
        found.held.release()  # of the device's memory, which the next pass needs
        facts = {
            **examined,
            "skipped": [[item.name, item.reason] for item in pictures.skipped],
            "warnings": found.warnings,
            "sizes": [list(size) for size in found.network_sizes],
            "maps": [list(view.depth.shape) for view in found.views],  # type: ignore[union-attr]
            "ran": [asdict(each) for each in self._predictor.network.ran[before:]],
        }
        self._found = found, facts

    def write(self, k: int) -> None:
        """Begin to write what was predicted last; `settle` was called for the pass before."""
        assert self._found is not None
        (found, facts), self._found = self._found, None
        self._writing = Later(lambda: self._store(k, found, facts), "write a chunk")

    def _store(self, k: int, found: Predictions, facts: dict[str, Any]) -> None:
        wanted = self._passes[k]
        self._work.store.write(self._first + k, wanted, found.indices, found.views, found.colors, facts, self._whole(k))
        self._extend_drift(k)

    def _whole(self, k: int) -> set[int]:
        """The views of pass k whose maps are stored whole: the scene takes them from there, or refines them."""
        wanted = self._passes[k]
        if wanted.kind not in MAIN:
            return set()
        return {i for i in wanted.views if self._refine or self._owner[i] == k}

    def settle(self, k: int) -> None:
        """Wait until pass k is on disk, and part of the estimate of the drift. Raises OutputError."""
        if self._writing is None:
            self._extend_drift(k)  # a stopped run has written it
        else:
            responsive(self._writing.result)
            self._writing = None

    def _extend_drift(self, k: int) -> None:
        if self._passes[k].kind == CHUNK:
            _extend(self._chain, self._images, self._work.store, self._first + k)
            self.drift = self._chain.percent

    def _pictures(self, k: int, known: Mapping[int, NetworkInput] | None = None) -> Later[Pictures]:
        """`known` are pictures of the pass before, by position."""
        self._read = {i: read for i, read in self._read.items() if i >= k}
        if k not in self._read:
            wanted = self._passes[k].views
            look = self._passes[k].kind in MAIN and k % LENS_EVERY == 0  # others repeat pictures of chunks
            self._read[k] = Later(
                lambda: self._predictor.read(
                    self._images, indices=wanted, strict=self._strict, known=known or {}, look_at_lens=look
                ),
                "read a chunk",
            )
        return self._read[k]


def _extend(drift: DriftEstimate, images: ImageSet, store: PassStore, number: int) -> None:
    """Chunk `number`, which follows the one before, becomes part of the estimate."""
    shared = sorted(set(store.views(number)) & set(store.views(number - 1))) if number else []
    some = shared[:: max(1, len(shared) // SHARED)]
    before, here = ([store.sample(k, i, bare_view(images, i)) for i in some] for k in (number - 1, number))
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


def _expected(seconds: float, chunks: int, loops: bool) -> str:
    """The expected time, from the `seconds` of one chunk."""
    more = f"up to {_duration(seconds * chunks)} for loops, " if loops and chunks > 2 else ""
    return (
        f"expected: about {_duration(seconds * chunks)} for {chunks} chunks, {more}then alignment and fusion "
        f"(estimated from chunk {TELLING}: {seconds:.1f} s)"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
