"""Predicts the passes of a long set one by one, and writes each to disk before the next."""

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
from .planned import Ran

if TYPE_CHECKING:
    from .predict import Predictor


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
    with progress.stage(stage, total=len(passes)) as step:
        began, new, drift = time.perf_counter(), 0, DriftEstimate()
        for k, wanted in enumerate(passes):
            if not work.store.has(first + k, wanted):
                try:
                    _predict(config, images, predictor, wanted, first + k, work)
                except MemoryLimitError as error:
                    raise MemoryLimitError(f"{error}, or give a --chunk below {len(wanted.views)}") from error
                new += 1
            _gather(work.store.facts(first + k), work.store.views(first + k), into)
            if wanted.kind == CHUNK:
                _extend(drift, images, work.store, first + k)
            left = (time.perf_counter() - began) / max(new, 1) * (len(passes) - 1 - k)
            rate = new * len(wanted.views) / (time.perf_counter() - began)
            told = f"chunk {k + 1} of {len(passes)}, {rate:.1f} views/s, about {_duration(left)} left"
            told += "" if drift.percent is None else f", drift about {drift.percent:.1f} % of the path"
            step(figures=told if new and k + 1 < len(passes) else "")
            check()
        into.drift = drift.percent if into.drift is None else into.drift


def _extend(drift: DriftEstimate, images: ImageSet, store: PassStore, number: int) -> None:
    """Chunk `number`, which follows the one before, becomes part of the estimate."""
    shared = sorted(set(store.views(number)) & set(store.views(number - 1))) if number else []
    some = shared[:: max(1, len(shared) // SHARED)]
    before, here = ([store.read(k, i, bare_view(images, i)) for i in some] for k in (number - 1, number))
    drift.add(store.cameras(number)[1], before, here)


def _predict(config, images: ImageSet, predictor: Predictor, wanted: Pass, number: int, work: WorkFolder) -> None:
    pictures = predictor.read(images, indices=wanted.views, strict=config.input.strict)
    before = len(predictor.network.ran)
    found = predictor.predict_pictures(images, pictures)
    facts = {
        "skipped": [[item.name, item.reason] for item in pictures.skipped],
        "warnings": found.warnings,
        "sizes": [list(size) for size in found.network_sizes],
        "maps": [list(view.depth.shape) for view in found.views],  # type: ignore[union-attr]
        "ran": [asdict(each) for each in predictor.network.ran[before:]],
    }
    work.store.write(number, wanted, found.indices, found.views, found.colors, facts)


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
