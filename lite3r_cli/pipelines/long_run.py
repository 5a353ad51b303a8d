"""A long set in chunks, from pictures to files: predict, find where the chunks stand, fuse, write."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import ReconstructConfig
from ..io.images import ImageSet
from ..io.kept_chunks import place_of
from ..long.assembly import Assembly, Passes, Placed, place_views
from ..long.chunk_plan import ChunkPlan, Pass
from ..long.work_folder import WorkFolder
from ..scene.frame import FIRST_CAMERA
from ..scene.lazy_views import LazyViews
from .anchoring import anchor
from .depth_request import depth_warnings
from .long_fuse import confidence_threshold, fuse_pieces, lazy_views
from .long_loops import Loops, close_loops
from .long_predict import Predicted, predict_passes, stand_passes
from .predict import Predictions, Predictor
from .result import Scene, plain
from .run_info import Part, run_info
from .scene_formats import format_warnings
from .standing import stand_up

if TYPE_CHECKING:
    from .reconstruct_scene import Report, SceneRun

SAMPLE = 24  # views that are looked at to tell what is up, and how far depth reaches


def reconstruct_long(run: SceneRun, predictor: Predictor, plan: ChunkPlan) -> Report:
    """Everything after the images are found. Raises the errors of errors.py."""
    config, progress = run.config, run.progress
    progress.note(plan.sentence())
    images = replace(predictor.as_pinholes(run.images), spares=[])  # no other picture takes a place: it has neighbours
    asked = what_was_asked(config, images, predictor, plan)
    with WorkFolder(place_of(run.out.layout), asked, config.long.resume, run.tell) as work:
        if work.found:
            progress.note(f"{work.found} chunks of a stopped run are there already")
        predicted, passes = Predicted(), list(plan.chunks)
        predict_passes(config, images, predictor, passes, 0, work, progress, run.check, predicted)
        for item in predicted.skipped.values():
            run.tell(f"skipped {item.name}: {item.reason}")
        for text in predicted.warnings:
            run.tell(text)
        loops = Loops([], [], [])
        if config.long.loops and len(passes) > 2:
            loops = close_loops(config, images, predictor, plan, work, progress, run.check, predicted)
        passes += loops.passes
        with progress.stage("Align"):
            assemblies, read = stand_passes(images, passes, [True] * len(plan.chunks) + loops.accepted, work)
        for text in warnings_of(assemblies):
            run.tell(text)
        parts = [
            _part(run, images, predictor, predicted, assembly, read, main=k == 0)
            for k, assembly in enumerate(assemblies)
        ]
        scene = _scene(run, images, predictor, predicted, parts, account(plan, passes, loops, assemblies))
        report = run.write(scene, predictor)
        work.done()
        return report


def what_was_asked(
    config: ReconstructConfig, images: ImageSet, predictor: Predictor, plan: ChunkPlan
) -> dict[str, Any]:
    """All that decides what a run writes: a run that goes on with another's chunks has the same."""
    arguments = plain(replace(config, output="", overwrite=False, long=replace(config.long, resume=False)))
    files = [[r.name, r.width, r.height, r.path.stat().st_size, r.frame] for r in images.records]
    return {
        "lite3r": __version__,
        **arguments,
        "device": predictor.runtime.device.chosen,
        "precision": predictor.runtime.dtype.chosen,
        "weights": predictor.fingerprint.result(),
        "the size of chunks": plan.size,
        "the pictures": files,
    }


def _part(
    run: SceneRun, images: ImageSet, predictor: Predictor, predicted: Predicted, assembly: Assembly, read: Passes,
    main: bool,
) -> Part:  # fmt: skip
    """One scene of the passes."""
    config, device = run.config, predictor.runtime.torch_device
    placed = place_views(assembly, read, len(images))
    found = _predictions(config, images, predictor, predicted, placed, read)
    found = anchor(config.world, images, found) if main else found
    assert isinstance(found.views, LazyViews)
    files = run.view_files if main else None
    if files is not None:
        files.depth = files.depth.settled(found.views[:: max(1, len(found.views) // SAMPLE)])
    threshold = confidence_threshold(placed, read.store, config.fusion.confidence_percentile)
    cloud, statistics = fuse_pieces(
        config, images, found.indices, found.views, lambda j: read.store.colors(placed.source[j], placed.positions[j]),
        threshold, device, files, run.progress, run.tell, run.check,
    )  # fmt: skip
    some = found.views[:: max(1, len(found.views) // SAMPLE)]
    for text in (
        *images.mask_warnings(found.indices),
        *format_warnings(config, found),
        *depth_warnings(config, some, found.frame.metric),
    ):
        run.tell(text)
    return stand_up(config.world, images, Part(found, cloud, statistics), run.progress)


def _predictions(
    config: ReconstructConfig, images: ImageSet, predictor: Predictor, predicted: Predicted, placed: Placed,
    read: Passes,
) -> Predictions:  # fmt: skip
    views = lazy_views(placed, read.store, predicted.maps)
    priors = predictor.beforehand.priors([images.records[i] for i in placed.positions])
    found = Predictions(
        views=views,  # type: ignore[arg-type]
        indices=placed.positions,
        network_sizes=[predicted.sizes[i] for i in placed.positions],
        skipped=list(predicted.skipped.values()),
        priors=priors,
        frame=FIRST_CAMERA,
    )
    if config.world.up == "none":
        return found
    which = list(range(0, len(views), max(1, len(views) // SAMPLE)))
    pictures = predictor.read(images, indices=[placed.positions[k] for k in which])
    by_index = dict(zip(pictures.indices, pictures.inputs))
    which = [k for k in which if placed.positions[k] in by_index]
    sample = replace(
        found,
        views=[views[k] for k in which],
        indices=[placed.positions[k] for k in which],
        inputs=[by_index[placed.positions[k]] for k in which],
    )
    return replace(found, sample=sample)


def _scene(
    run: SceneRun, images: ImageSet, predictor: Predictor, predicted: Predicted, parts: list[Part],
    told: dict[str, Any],
) -> Scene:  # fmt: skip
    facts = run_info(
        run.config.predict.seed, predictor, images, parts, [], [], predicted.ran, run.warnings, run.progress
    )
    scenes = [
        Scene(run.config, p.cloud, {**facts, "chunks": told}, predictor.fingerprint, images, p.predictions, p.level)
        for p in parts
    ]
    return replace(scenes[0], parts=tuple(scenes[1:]))


def account(plan: ChunkPlan, passes: list[Pass], loops: Loops, assemblies: list[Assembly]) -> dict[str, Any]:
    """For run.json: the passes, how they lie to each other, and what came of it."""
    return {
        "size": plan.size,
        "overlap": plan.overlap,
        "reason": plan.reason,
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


def warnings_of(assemblies: list[Assembly]) -> list[str]:
    """What the user should know of how the chunks fit together."""
    told = []
    if len(assemblies) > 1:
        told.append(
            f"the chunks do not hang together: {len(assemblies)} scenes, the others are in part-2, … of the output's "
            "folder; more overlap between pictures, or a larger --chunk, may tie them"
        )
    weak = [e for s in assemblies for e in s.edges if e.kind == "next" and e.verdict == "weak"]
    if weak:
        some = ", ".join(f"{e.passes[0] + 1} and {e.passes[1] + 1}" for e in weak[:3])
        more = f" and {len(weak) - 3} more" if len(weak) > 3 else ""
        told.append(f"neighbouring chunks that agree little on what both saw: {some}{more}")
    return told
