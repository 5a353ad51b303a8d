"""Processes a long set in chunks, from pictures to files: predict, align the chunks, fuse, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..config import ReconstructConfig
from ..console import Tell
from ..io.images import ImageSet
from ..io.kept_chunks import place_of
from ..long.assembly import Assembly, Passes, Placed, place_views
from ..long.chunk_plan import ChunkPlan, Pass
from ..long.work_folder import IMAGES, WorkFolder
from ..scene.frame import FIRST_CAMERA
from ..scene.lazy_views import LazyViews
from .anchoring import anchor
from .depth_request import depth_warnings
from .finding import content_of_inputs
from .in_chunks import options_of
from .known_cameras import frame_of
from .long_fuse import AROUND, confidence_threshold, fuse_pieces, lazy_views
from .long_loops import Loops, Places, close_loops
from .long_predict import Predicted, predict_passes, stand_passes
from .long_refine import RefinedPasses, kept_warning, refine_passes, verdicts_of
from .predict import Predictions, Predictor
from .result import Scene
from .run_info import Part, run_info
from .scene_formats import format_warnings
from .scene_memory import Memories
from .standing import stand_up

if TYPE_CHECKING:
    from .in_chunks import LongPlan
    from .long_order import Arranged
    from .reconstruct_scene import Report, SceneRun

SAMPLE = 24  # views for estimating the up direction and the range of depth


def reconstruct_long(run: SceneRun, predictor: Predictor, long: LongPlan) -> Report:
    """Everything after finding the images. Raises the errors of errors.py."""
    config, progress, plan, arranged = run.config, run.progress, long.chunks, long.arranged
    progress.note(plan.sentence())
    if arranged is not None:
        run.images = arranged.images
    images = replace(predictor.as_pinholes(run.images), spares=[])  # spares have no neighbours
    asked = what_was_asked(config, images, predictor, plan)
    with WorkFolder(place_of(run.out.layout), asked, config.long.resume, run.tell) as work:
        if work.found:
            progress.note(f"{work.found} chunks of a stopped run are there already")
        predicted, passes = Predicted(), list(plan.chunks)
        wanted = config.long.loops and len(passes) > 2 and arranged is None  # subsets share overlapping pictures anyway
        loops = Loops([], [], [])
        with Places(images, plan, work) as places:
            after = places.begin if wanted else lambda k: True
            predict_passes(config, images, predictor, passes, 0, work, progress, run.check, predicted, after=after)
            for item in predicted.skipped.values():
                run.tell(f"skipped {item.name}: {item.reason}")
            for text in predicted.warnings:
                run.tell(text)
            if wanted:
                loops = close_loops(config, images, predictor, plan, places, work, progress, run.check, predicted)
        predictor.network.forget_recorded()  # the network is not needed any more, but fusion needs memory
        passes += loops.passes
        with progress.stage("Align"):
            assemblies, read = stand_passes(images, passes, [True] * len(plan.chunks) + loops.accepted, work)
        used, refined = [True] * len(plan.chunks) + loops.accepted, None
        if config.predict.refine:
            rank = None if arranged is None else arranged.rank
            refined = refine_passes(images, predictor, assemblies, read, rank, work, progress, run.check)
            passes = [*passes, *refined.passes]
            used = [False] * len(plan.chunks) + loops.accepted + [True] * len(refined.passes)
            with progress.stage("Align"):
                assemblies, read = stand_passes(images, passes, used, work)
        for text in warnings_of(assemblies, 1 if arranged is None else len(arranged.grouping.parts)):
            run.tell(text)
        parts = [
            _part(run, images, predictor, predicted, assembly, read, arranged, refined, main=k == 0)
            for k, assembly in enumerate(assemblies)
        ]
        told = account(plan, passes, loops, assemblies, predicted.drift)
        scene = _scene(run, images, predictor, predicted, parts, told, arranged)
        report = run.write(scene, predictor)
        work.done()
        return report


def what_was_asked(
    config: ReconstructConfig, images: ImageSet, predictor: Predictor, plan: ChunkPlan
) -> dict[str, Any]:
    """Everything that affects the output; a resumed run must have the same."""
    files = [[r.name, r.width, r.height, r.path.stat().st_size, r.frame] for r in images.records]
    return {
        **options_of(config),
        "device": predictor.runtime.device.chosen,
        "precision": predictor.runtime.dtype.chosen,
        "weights": predictor.fingerprint.result(),
        "the size of chunks": plan.size,
        IMAGES: files,
        **(content_of_inputs(config, images) if config.long.resume else {}),  # other runs leave no chunks to go on with
    }


def _part(
    run: SceneRun, images: ImageSet, predictor: Predictor, predicted: Predicted, assembly: Assembly, read: Passes,
    arranged: Arranged | None, refined: RefinedPasses | None, main: bool,
) -> Part:  # fmt: skip
    """One scene of the passes."""
    config, device = run.config, predictor.runtime.torch_device
    placed = place_views(assembly, read, len(images), rank=None if arranged is None else arranged.rank)
    found = _predictions(config, images, predictor, predicted, placed, read)
    if refined is not None:
        found = _with_verdicts(found, placed, read, run.tell)
    found = anchor(config.world, images, found) if main else found
    assert isinstance(found.views, LazyViews)
    files = run.view_files if main else None
    some = found.views[:: max(1, len(found.views) // SAMPLE)]
    if files is not None:
        files.depth = files.depth.settled(some)
    memories = None if files is None else Memories(config, images, found)
    threshold = confidence_threshold(placed, read.store, config.fusion.confidence_percentile)
    pictured = placed.source if refined is None else [refined.source_of(number) for number in placed.source]
    cloud, statistics = fuse_pieces(
        config, images, found.indices, found.views, lambda j: read.store.colors(pictured[j], placed.positions[j]),
        threshold, device, files, memories, run.progress, run.tell, run.check, _around(placed, arranged),
    )  # fmt: skip
    for text in (
        *images.mask_warnings(found.indices),
        *format_warnings(config, found),
        *depth_warnings(config, some, found.frame.metric),
    ):
        run.tell(text)
    return stand_up(config.world, images, Part(found, cloud, statistics), run.progress)


def _with_verdicts(found: Predictions, placed: Placed, read: Passes, tell: Tell) -> Predictions:
    verdicts = verdicts_of(placed, read.store)
    if text := kept_warning([camera.name for camera in placed.cameras], verdicts):
        tell(text)
    return replace(found, verdicts=verdicts, account={"path": "chunk by chunk", "chunks": len(set(placed.source))})


def _around(placed: Placed, arranged: Arranged | None) -> Callable[[list[int]], list[int]] | None:
    """For views, by their index in `placed`, those with the most overlap; None: their neighbours in order."""
    if arranged is None:
        return None
    subsets, place = arranged.subsets, {position: k for k, position in enumerate(placed.positions)}

    def around(own: list[int]) -> list[int]:
        near = subsets.around([placed.positions[k] for k in own], 2 * AROUND)
        return [place[position] for position in near if position in place]

    return around


def _predictions(
    config: ReconstructConfig, images: ImageSet, predictor: Predictor, predicted: Predicted, placed: Placed,
    read: Passes,
) -> Predictions:  # fmt: skip
    views = lazy_views(placed, read.store, predicted.maps)
    priors = predictor.beforehand.priors([images.records[i] for i in placed.positions])
    told = frame_of(predictor.backbone, priors, predictor.beforehand.depth is not None)
    found = Predictions(
        views=views,  # type: ignore[arg-type]
        indices=placed.positions,
        network_sizes=[predicted.sizes[i] for i in placed.positions],
        skipped=list(predicted.skipped.values()),
        priors=priors,
        frame=replace(FIRST_CAMERA, units=told.units, metric=told.metric),  # the unit of the first chunk
    )
    if config.world.up == "none":
        return found
    which = list(range(0, len(views), max(1, len(views) // SAMPLE)))
    pictures = predictor.read(images, indices=[placed.positions[k] for k in which])
    by_index = dict(zip(pictures.indices, pictures.inputs))
    which = [k for k in which if placed.positions[k] in by_index]
    sample = replace(
        found,
        views=views.some(which),
        indices=[placed.positions[k] for k in which],
        inputs=[by_index[placed.positions[k]] for k in which],
    )
    return replace(found, sample=sample)


def _scene(
    run: SceneRun, images: ImageSet, predictor: Predictor, predicted: Predicted, parts: list[Part],
    told: dict[str, Any], arranged: Arranged | None,
) -> Scene:  # fmt: skip
    left_out, untied = ([], []) if arranged is None else (arranged.grouping.left_out, arranged.grouping.untied)
    seed, ran = run.config.predict.seed, predicted.ran
    facts = run_info(seed, predictor, images, parts, left_out, untied, ran, run.warnings, run.progress)
    scenes = [
        Scene(run.config, p.cloud, {**facts, "chunks": told}, predictor.fingerprint, images, p.predictions, p.level)
        for p in parts
    ]
    return replace(scenes[0], parts=tuple(scenes[1:]))


def account(
    plan: ChunkPlan, passes: list[Pass], loops: Loops, assemblies: list[Assembly], drift: float | None
) -> dict[str, Any]:
    """The entry of run.json: passes, edges, and results."""
    return {
        "size": plan.size,
        "overlap": plan.overlap,
        "reason": plan.reason,
        "drift_estimate_percent": None if drift is None else round(drift, 2),  # before loop closure
        "passes": [each.as_dict() for each in passes],
        "loops": loops.account,
        "scenes": [
            {
                "passes": sorted(scene.nodes),
                "scales": [round(scene.nodes[k].scale, 6) for k in sorted(scene.nodes)],
                "edges": [edge.as_dict() for edge in scene.edges],
                **scene.facts,
            }
            for scene in assemblies
        ],
    }


def warnings_of(assemblies: list[Assembly], expected: int = 1) -> list[str]:
    """Warnings about the alignment of the chunks; `expected` scenes were reported already."""
    told = []
    if len(assemblies) > expected:
        told.append(
            f"the chunks are not connected: {len(assemblies)} scenes, the others are in part-2, … of the output's "
            "folder; more overlap between images, or a larger --chunk, may connect them"
        )
    weak = [e for s in assemblies for e in s.edges if e.kind == "next" and e.verdict == "weak"]
    if weak:
        some = ", ".join(f"{e.passes[0] + 1} and {e.passes[1] + 1}" for e in weak[:3])
        more = f" and {len(weak) - 3} more" if len(weak) > 3 else ""
        told.append(f"neighbouring chunks whose depth agrees poorly in their overlap: {some}{more}")
    return told
