"""Photographs → a scene: find, predict, fuse; and on disk, accounted for in run.json.

torch is imported after the images are found: a wrong path or option is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import InputConfig, ReconstructConfig
from ..console import Progress, Tell
from ..errors import InputError
from ..io.atomic import OutputSet
from ..io.formats import require_known
from ..io.images import ImageSet, Skipped, discover
from ..io.output_layout import files_of_run
from ..scene.frame import local_origin, move_cloud, move_views, translation
from ..scene.geometry import camera_centres
from ..scene.view import PointCloud, View
from .result import Scene, write_scene
from .run_info import Part, run_info, seconds_info
from .standing import stand_up
from .view_files import ViewFiles

if TYPE_CHECKING:
    import torch

    from ..scene.fusion import FusionStatistics
    from .grouping import Grouping
    from .predict import Pictures, Predictions, Predictor


@dataclass(frozen=True)
class Report:
    """What a run did, for the table and for --json."""

    cloud: Path
    folder: Path
    images: int  # given and readable by their header
    views: int
    points: int
    skipped: list[dict[str, str]]
    warnings: list[str]
    runtime: dict[str, dict[str, Any]]
    seconds: dict[str, float]  # by stage; stages may overlap
    wall: float  # seconds since the program began
    peak_memory: dict[str, int]
    files: list[str] = field(default_factory=list)  # relative to the folder of the cloud


def reconstruct(config: ReconstructConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Report:
    """Run the whole pipeline and put the scene in place; `warn` is told of everything odd as soon as it is known.

    Raises the errors of errors.py; nothing is left behind then.
    """
    progress = progress or Progress()
    require_known(config.formats)
    warnings: list[str] = []

    def tell(text: str) -> None:
        warnings.append(text)
        warn(text)

    with (
        OutputSet(config.output, overwrite=config.overwrite) as out,
        ViewFiles(out, config.previews, config.save_npy) as view_files,
    ):
        images = find_images(config.input, progress, tell)
        with progress.stage("Start", minor=True):
            from .. import runtime
            from .predict import Predictor
        predictor = Predictor(config.predict, progress)
        scene = make_scene(config, predictor, images, progress, warn, warnings, view_files)
        with progress.stage("Write"):
            write_scene(out, scene, view_files)
            out.commit(scene.info | seconds_info(progress))
        files = sorted(files_of_run(out.layout) or ())
    return Report(
        cloud=out.layout.root / out.layout.cloud,
        folder=out.layout.root / out.layout.folder,
        images=len(images) + len(images.skipped),
        views=len(scene.views),
        points=len(scene.cloud),
        skipped=scene.skipped,
        warnings=scene.warnings,
        runtime=predictor.choices(),
        seconds=dict(progress.seconds),
        wall=progress.wall,
        peak_memory=runtime.peak_memory(predictor.runtime.torch_device),
        files=files,
    )


def make_scene(
    config: ReconstructConfig,
    predictor: Predictor,
    images: ImageSet,
    progress: Progress,
    warn: Tell = lambda text: None,
    warnings: Sequence[str] = (),
    view_files: ViewFiles | None = None,
) -> Scene:
    """The scene that a loaded network sees in the images, with further ones in its `parts` where nothing ties them
    together; `warnings` are those that were told before. `view_files` begin to be written when the views are known.

    Raises InputError if no image can be used (with `config.input.strict`: if one cannot), MemoryLimitError.
    """
    told = list(warnings)

    def tell(text: str) -> None:
        told.append(text)
        warn(text)

    known = len(images.skipped)
    pictures = predictor.read(images, progress, strict=config.input.strict)
    for text in _told([*images.skipped[known:], *pictures.skipped]):
        tell(text)
    grouping, whole = _group(config, images, predictor, pictures, progress, tell)
    if whole is not None:
        parts = [_finish(config, images, predictor, whole, progress, tell, view_files)]
    else:
        predicted = (predictor.predict_pictures(images, pictures.only(part), progress) for part in grouping.parts)
        parts = [
            _finish(config, images, predictor, found, progress, tell, None if k else view_files)
            for k, found in enumerate(predicted)
        ]
    parts[0] = replace(parts[0], predictions=replace(parts[0].predictions, skipped=pictures.skipped))
    left_out, untied = ([pictures.indices[k] for k in which] for which in (grouping.left_out, grouping.untied))
    facts = run_info(config.predict.seed, predictor, images, parts, left_out, untied, told, progress)
    scenes = [Scene(config, p.cloud, facts, predictor.fingerprint, images, p.predictions, p.level) for p in parts]
    return replace(scenes[0], parts=tuple(scenes[1:]))


def _group(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    pictures: Pictures,
    progress: Progress,
    tell: Tell,
) -> tuple[Grouping, Predictions | None]:
    """Which pictures make which scene; and the prediction of all together, where it was made and they are one scene.

    Raises InputError where some do not belong and `--strict` was given.
    """
    from .grouping import explain, group_pictures, one_group

    count, indices = len(pictures.indices), pictures.indices
    if config.input.keep_unrelated or count < 2:
        return one_group(count), None
    made: list[Predictions] = []

    def predict_all() -> list[View]:
        made.append(predictor.predict_pictures(images, pictures, progress))
        return made[0].views

    grouping = group_pictures(
        [item.rgb for item in pictures.inputs],
        lambda k: images.read(indices[k]),
        predict_all,
        predictor.beforehand.priors([images.records[i] for i in indices]).known_poses,
        progress,
    )
    for text in explain(grouping, [images.records[i].name for i in indices]):
        if config.input.strict and not grouping.whole:
            raise InputError(text)
        tell(text)
    return grouping, made[0] if made and grouping.whole else None


def _finish(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    predictions: Predictions,
    progress: Progress,
    tell: Tell,
    view_files: ViewFiles | None = None,
) -> Part:
    """One scene from its prediction: refinement where it was asked for, and fusion."""
    predictions = predictor.refine(images, predictions, progress)
    for text in predictions.warnings:
        tell(text)
    if view_files is not None:
        view_files.start(predictions.views, [images.records[i].stem for i in predictions.indices])
    device, check = predictor.runtime.torch_device, None if view_files is None else view_files.raise_failure
    cloud, statistics = _fuse(config, images, predictions, device, progress, tell, check)
    for text in images.mask_warnings(predictions.indices):
        tell(text)
    return stand_up(config.world, images, Part(predictions, cloud, statistics), progress)


def find_images(config: InputConfig, progress: Progress, tell: Tell) -> ImageSet:
    """The usable images of the inputs, in order; `tell` hears of what is skipped. Raises InputError, UsageError."""
    with progress.stage("Find images", minor=True):
        images = discover(
            config.inputs,
            masks=config.masks,
            max_views=config.max_views,
            stride=config.stride,
            max_pixels=config.max_pixels,
            strict=config.strict,
            recursive=config.recursive,
        )
    for text in _told(images.skipped):
        tell(text)
    for text in images.warnings:
        tell(text)
    return images


def _told(skipped: Sequence[Skipped]) -> list[str]:
    """A line for each file, or for each reason that many share: a folder may hold hundreds that are not read."""
    names: dict[str, list[str]] = {}
    for item in skipped:
        names.setdefault(item.reason, []).append(item.name)
    lines = []
    for reason, those in names.items():
        if len(those) > 3:
            those = [f"{', '.join(those[:3])}, … ({len(those)} files)"]
        lines += [f"skipped {name}: {reason}" for name in those]
    return lines


def _fuse(
    config: ReconstructConfig,
    images: ImageSet,
    predictions: Predictions,
    device: torch.device,
    progress: Progress,
    tell: Tell,
    check: Callable[[], None] | None,
) -> tuple[PointCloud, FusionStatistics]:
    from ..scene.fusion import fuse_with_statistics

    indices = predictions.indices
    # fusion computes in single precision: in the frame of a map it works around the cameras' middle
    origin = local_origin(camera_centres(np.stack([view.cam_from_world for view in predictions.views])))

    def colors(j: int) -> np.ndarray:
        """At the size of the depth map where the file was read for the network already, else at full size."""
        small, depth = predictions.colors[j] if predictions.colors else None, predictions.views[j].depth
        same = small is not None and depth is not None and small.shape[:2] == depth.shape
        return small if same else images.read(indices[j])

    with progress.stage("Fuse", total=len(indices)) as step:

        def after_view() -> None:
            step()
            if check is not None:
                check()

        cloud, statistics = fuse_with_statistics(
            move_views(predictions.views, translation(None if origin is None else -origin)),
            colors,
            lambda j: images.read_mask(indices[j]),
            config.fusion,
            config.predict.seed,
            after_view,
            device,
        )
    if origin is not None:
        cloud = move_cloud(cloud, translation(origin))
    if len(cloud) == 0:
        counts = statistics.to_dict()
        reason = max(("unknown", "masked", "low_confidence", "edge", "inconsistent", "free_space"), key=counts.get)
        dropped = f"most pixels dropped: {reason.replace('_', ' ')}"
        text = f"no point is left ({dropped}); loosen --masks or the cloud's filters"
        if config.input.strict:
            raise InputError(text)
        tell(text)
    return cloud, statistics
