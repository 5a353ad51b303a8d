"""`--refine` of a long set: one chunk after the other from the cameras of the graph; then the graph is solved again."""

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

MODEL = "pinhole"  # of the lens: a chunk alone would choose another than the next one


@dataclass(frozen=True)
class RefinedPasses:
    """The chunks once more, as refined; their numbers in the store follow those of all passes before."""

    passes: list[Pass]
    first: int  # number of passes[0]
    sources: list[int]  # the chunk that each was made from

    def source_of(self, number: int) -> int:
        """The pass whose pictures a pass has."""
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
    """Adjust each chunk of each scene by itself, with the cameras of the whole as start and prior.

    What is on the disk already is not made again. Raises BackendError without pycolmap, OutputError, InputError.
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
    """What became of each view's camera in the chunk that its depth is from. Raises InputError for damaged files."""
    try:
        return [
            store.facts(number)["verdicts"][store.views(number).index(position)]
            for position, number in zip(placed.positions, placed.source)
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"a finished chunk is damaged ({error}); run again without --resume") from error


def kept_warning(names: Sequence[str], verdicts: Sequence[dict[str, Any]]) -> str | None:
    """What to say of pictures whose predicted cameras stay; None where all were refined."""
    kept = [name for name, verdict in zip(names, verdicts) if verdict.get("cameras") == "kept"]
    if not kept:
        return None
    more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    return f"--refine kept the predicted cameras of {', '.join(kept[:3])}{more}, of {len(names)} images"
