"""`--refine` of a long set: refines each chunk from the cameras of the graph, then solves the graph again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..console import Progress
from ..errors import InputError
from ..io.images import ImageSet
from ..long.assembly import Assembly, Passes, Placed, place_views
from ..long.chunk_plan import MAIN, Pass
from ..long.pass_store import PassStore
from ..long.work_folder import WorkFolder
from ..scene.posed_view import View

if TYPE_CHECKING:
    from .predict import Predictor

MODEL = "pinhole"  # of the lens: single chunks would select different models


@dataclass(frozen=True)
class RefinedPasses:
    """The refined chunks as new passes; their numbers in the store follow those of all other passes."""

    passes: list[Pass]
    first: int  # number of passes[0]
    sources: list[int]  # the chunk of each refined pass

    def source_of(self, number: int) -> int:
        """The pass with the pictures of a pass."""
        return number if number < self.first else self.sources[number - self.first]


def refine_passes(
    images: ImageSet,
    predictor: Predictor,
    assemblies: Sequence[Assembly],
    read: Passes,
    rank: Sequence[int] | None,
    work: WorkFolder,
    progress: Progress,
    check: Callable[[], None],
) -> RefinedPasses:
    """Adjust each chunk of each scene separately, with the cameras of the scene as start and prior.

    Chunks that are already on disk are skipped. Raises BackendError without pycolmap, OutputError, InputError.
    """
    first = len(read.passes)
    made: list[Pass] = []
    sources: list[int] = []
    mains = [[k for k in sorted(scene.nodes) if read.passes[k].kind in MAIN] for scene in assemblies]
    with progress.stage("Refine", total=sum(map(len, mains))) as step:
        for scene, chunks in zip(assemblies, mains):
            placed = place_views(scene, read, len(images), rank=rank)
            for k in chunks:
                wanted, number = read.passes[k], first + len(made)
                if not work.store.has(number, wanted):
                    _refine(images, predictor, views_in_world(scene, read, placed, k), wanted, number, work)
                made.append(wanted)
                sources.append(k)
                step()
                check()
    return RefinedPasses(made, first, sources)


def views_in_world(scene: Assembly, read: Passes, placed: Placed, number: int) -> dict[int, View]:
    """The views of a pass by position, with its depth and the cameras of the scene, in the scene's unit of length."""
    cameras = dict(zip(placed.positions, placed.cameras))
    factor = np.float32(scene.nodes[number].scale / placed.unit)
    views = {}
    for position in read.store.views(number):
        own, camera = read.view(number, position), cameras[position]
        assert own.depth is not None
        views[position] = replace(camera, depth=own.depth * factor, confidence=own.confidence)
    return views


def _refine(
    images: ImageSet, predictor: Predictor, views: dict[int, View], wanted: Pass, number: int, work: WorkFolder
) -> None:
    from .predict import Predictions

    pictures = predictor.read(images, indices=list(views))
    shown = [views[i] for i in pictures.indices]
    sizes = [item.rgb.shape[:2] for item in pictures.inputs]
    priors = predictor.beforehand.priors([images.records[i] for i in pictures.indices])
    found = Predictions(shown, pictures.indices, sizes, priors=priors, inputs=list(pictures.inputs))
    refined = predictor.refine(images, found, camera_model=MODEL)
    facts = {"verdicts": refined.verdicts}
    work.store.write(number, wanted, refined.indices, refined.views, [None] * len(refined.views), facts)


def verdicts_of(placed: Placed, store: PassStore) -> list[dict[str, Any]]:
    """The verdict on each view's camera, from the chunk of its depth. Raises InputError for damaged files."""
    try:
        return [
            store.facts(number)["verdicts"][store.views(number).index(position)]
            for position, number in zip(placed.positions, placed.source)
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"a finished chunk is damaged ({error}); run again without --resume") from error


def kept_warning(names: Sequence[str], verdicts: Sequence[dict[str, Any]]) -> str | None:
    """The warning about pictures that keep their predicted cameras; None if all were refined."""
    kept = [name for name, verdict in zip(names, verdicts) if verdict.get("cameras") == "kept"]
    if not kept:
        return None
    more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return f"--refine kept the predicted cameras of {', '.join(kept[:3])}{more}, of {len(names)} images"
