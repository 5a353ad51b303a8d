"""Photographs → a scene: find, predict, fuse, and write with a record in run.json.

torch is imported after the images are found, so that a wrong path or option is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from .. import cuda_start
from ..config import ReconstructConfig
from ..console import Progress, Tell
from ..errors import InputError, MemoryLimitError
from ..io.atomic import OutputSet
from ..io.formats import require_known
from ..io.images import ImageSet, Skipped
from ..io.kept_chunks import place_of, remove_finished
from ..io.kept_inputs import require_not_read
from ..io.output_layout import files_of_run
from ..io.video import DEFAULT_VIEWS
from ..long.work_folder import require_resumable
from ..scene.posed_view import View
from ..world.undistort import UndistortedImages
from .ahead import Ahead, Edges
from .all_frames import with_all_frames
from .anchoring import anchor, with_gps
from .depth_request import DepthFiles, depth_warnings
from .finding import find_images, lines_of, require_named_files, what_is_read
from .fuse_views import fuse_views
from .in_chunks import chunks_are_possible, long_plan, options_of
from .later import Later
from .report import Report
from .result import Scene, write_scene
from .run_info import Part, run_info, seconds_info
from .scene_formats import format_warnings
from .scene_memory import Memories
from .standing import stand_up, which_way_is_up
from .together import joined
from .view_files import ViewFiles

if TYPE_CHECKING:
    from ..world.ties import Groups
    from .grouping import Grouping
    from .planned import Ran
    from .predict import Pictures, Predictions, Predictor


class Stopped(Exception):
    """Another thread called `stop`."""


class SceneRun:
    """One scene from photographs to files: `with SceneRun(config) as run: run.find(); run.read(predictor);
    run.predict(predictor); run.finish(predictor)`.

    The steps may run in different threads, one after the other. Each raises the errors of errors.py; no partial output
    is left unless `finish` completes. `warn` is called with each warning at once.
    """

    images: ImageSet
    pictures: Pictures
    ahead: Ahead
    predicted: Predicted

    def __init__(
        self,
        config: ReconstructConfig,
        progress: Progress | None = None,
        warn: Tell = lambda text: None,
        alone: bool = False,
    ) -> None:
        self.config, self.progress, self._warn = config, progress or Progress(), warn
        self.alone = alone  # a long set may be processed in chunks
        self.warnings: list[str] = []
        self.views = 0  # number of readable pictures
        self.out = OutputSet(config.output, overwrite=config.overwrite)
        self._open = ExitStack()
        self._view_files: ViewFiles | None = None
        self._stopped = False

    def __enter__(self) -> SceneRun:
        require_known(self.config.formats)
        require_named_files(self.config)
        with ExitStack() as opened:
            opened.enter_context(self.out)
            files = ViewFiles(self.out, self.config.previews, self.config.save_npy, DepthFiles.of(self.config))
            self._view_files = opened.enter_context(files)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Make a step in another thread raise Stopped soon."""
        self._stopped = True

    def find(self) -> None:
        """Find the images."""
        most = None if chunks_are_possible(self.config) and self.alone else DEFAULT_VIEWS
        self.images = find_images(self.config.input, self.progress, self.tell, self.config.predict.model, most)
        require_not_read(self.out.replaced, what_is_read(self.config, self.images))

    def read(self, predictor: Predictor) -> None:
        """Decode the images."""
        self._check()
        self.images = predictor.as_pinholes(self.images)
        self.pictures = _read(self.config, predictor, self.images, self.progress, self.tell)
        self.views = len(self.pictures.indices)
        self.ahead = Ahead(self.config, self.images, predictor, self.pictures)

    def predict(self, predictor: Predictor) -> None:
        """Run the network."""
        self.predicted = _predict(
            self.config, self.images, predictor, self.pictures, self.ahead, self.progress, self.tell
        )
        del self.pictures, self.ahead

    def finish(self, predictor: Predictor) -> Report:
        """Refine, fuse, write, and move the files into place."""
        job = SceneJob(self.config, self.images, predictor, self.progress, self.tell, self.check)
        scene = _finish(job, self.predicted, self.warnings, self.view_files)
        report = self.write(scene, predictor)
        remove_finished(self.out.layout)
        return report

    def write(self, scene: Scene, predictor: Predictor) -> Report:
        """Write the remaining files, and move all of them into place."""
        from .. import runtime

        scene = with_all_frames(scene, self.progress, self.tell)
        with self.progress.stage("Write"):
            write_scene(self.out, scene, self.view_files)
            self._check()
            self.out.commit(scene.info | seconds_info(self.progress))
        layout = self.out.layout
        return Report(
            cloud=layout.root / layout.cloud,
            folder=layout.root / layout.folder,
            images=len(self.images) + len(self.images.skipped),
            views=len(scene.views),
            points=len(scene.cloud),
            skipped=scene.skipped,
            warnings=scene.warnings,
            runtime=scene.facts["runtime"],
            seconds=dict(self.progress.seconds),
            wall=self.progress.wall,
            peak_memory=runtime.peak_memory(predictor.runtime.torch_device),
            files=sorted(files_of_run(layout) or ()),
        )

    @property
    def view_files(self) -> ViewFiles:
        """The view files of the main scene."""
        assert self._view_files is not None  # set at the start of the block
        return self._view_files

    def tell(self, text: str) -> None:
        """Print and record a warning."""
        self.warnings.append(text)
        self._warn(text)

    def check(self) -> None:
        """Raises Stopped after `stop`, and the error of the first file that failed."""
        self._check()
        self.view_files.raise_failure()

    def _check(self) -> None:
        if self._stopped:
            raise Stopped


def reconstruct(config: ReconstructConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Report:
    """Run the whole pipeline and move the scene into place; `warn` is called with each warning at once.

    Raises the errors of errors.py; no partial output is left then.
    """
    progress = progress or Progress()
    with SceneRun(config, progress, warn, alone=True) as run:
        if config.long.resume:
            require_resumable(place_of(run.out.layout), options_of(config))
        cuda_start.begin(config.predict.device)
        run.find()
        with progress.stage("Start", minor=True):
            from ..networks.recorded import IN_CHUNKS
            from .predict import Predictor
        with joined(config, progress) as (own, begin):
            predictor = Predictor(own, progress, background=True, repeats=IN_CHUNKS)
            try:
                join = begin(predictor)
                plan = long_plan(config, run.images, predictor, progress, run.tell)
                if plan is None:
                    run.read(predictor)
                predictor.team = join()
                if plan is not None:
                    from .long_run import reconstruct_long

                    return reconstruct_long(run, predictor, plan)
            except Exception:
                predictor.settle()  # a thread that computes while the process ends could crash it
                raise
            run.predict(predictor)
        return run.finish(predictor)


def make_scene(
    config: ReconstructConfig,
    predictor: Predictor,
    images: ImageSet,
    progress: Progress,
    warn: Tell = lambda text: None,
    warnings: Sequence[str] = (),
) -> Scene:
    """Reconstruct a scene from images with a loaded network. Groups of images without a connection to it are further
    scenes in `parts`; `warnings` are earlier ones.

    Raises InputError if no image is usable (with `config.input.strict`: if one is not), MemoryLimitError.
    """
    told = list(warnings)

    def tell(text: str) -> None:
        told.append(text)
        warn(text)

    images = predictor.as_pinholes(images)
    pictures = _read(config, predictor, images, progress, tell)
    ahead = Ahead(config, images, predictor, pictures)
    predicted = _predict(config, images, predictor, pictures, ahead, progress, tell)
    return with_all_frames(
        _finish(SceneJob(config, images, predictor, progress, tell), predicted, told), progress, tell
    )


@dataclass(frozen=True)
class Predicted:
    """The prediction for a set of pictures."""

    grouping: Grouping  # assignment of pictures to scenes
    parts: list[Predictions]  # per scene, the main one first
    indices: list[int]  # of the readable pictures
    skipped: list[Skipped]  # the others
    ran: list[Ran]
    edges: Edges  # of the pictures


def _read(
    config: ReconstructConfig, predictor: Predictor, images: ImageSet, progress: Progress, tell: Tell
) -> Pictures:
    """The images at the network's size. Raises InputError."""
    known = len(images.skipped)
    pictures = predictor.read(images, progress, strict=config.input.strict)
    for text in lines_of([*images.skipped[known:], *pictures.skipped]):
        tell(text)
    return pictures


def _predict(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    pictures: Pictures,
    ahead: Ahead,
    progress: Progress,
    tell: Tell,
) -> Predicted:
    """The prediction, for one scene or several. Raises InputError, MemoryLimitError."""
    ran_before = len(predictor.network.ran)
    grouping, whole = _group(config, images, predictor, pictures, ahead.ties, progress, tell)
    parts = (
        [predictor.predict_pictures(images, pictures.only(part), progress) for part in grouping.parts]
        if whole is None
        else [whole]
    )
    ran = predictor.network.ran[ran_before:]
    return Predicted(grouping, parts, pictures.indices, pictures.skipped, ran, ahead.edges)


@dataclass(frozen=True)
class SceneJob:
    """Data for all steps after the prediction."""

    config: ReconstructConfig
    images: ImageSet
    predictor: Predictor
    progress: Progress
    tell: Tell
    check: Callable[[], None] | None = None  # called from time to time; may raise


def _finish(job: SceneJob, predicted: Predicted, told: Sequence[str], view_files: ViewFiles | None = None) -> Scene:
    """The scene of a prediction. `told` are the warnings so far, `view_files` the files of the main scene."""
    config, images, predictor, progress = job.config, job.images, job.predictor, job.progress
    parts = [
        _fuse_part(job, found, k == 0, predicted.edges, None if k else view_files)
        for k, found in enumerate(predicted.parts)
    ]
    parts[0] = replace(parts[0], predictions=replace(parts[0].predictions, skipped=predicted.skipped))
    grouping = predicted.grouping
    left_out, untied = ([predicted.indices[k] for k in which] for which in (grouping.left_out, grouping.untied))
    seed, ran = config.predict.seed, predicted.ran
    facts = run_info(seed, predictor, images, parts, left_out, untied, ran, told, progress)
    scenes = []
    for p in parts:
        shown, told_lenses = _undistorted(images, p.predictions), _with_known_lenses(images, p.predictions)
        scenes.append(Scene(config, p.cloud, facts, predictor.fingerprint, shown, told_lenses, p.level))
    return replace(scenes[0], parts=tuple(scenes[1:]))


def _group(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    pictures: Pictures,
    ties: Later[Groups] | None,
    progress: Progress,
    tell: Tell,
) -> tuple[Grouping, Predictions | None]:
    """The assignment of pictures to scenes; and the prediction of all together, if there is one and it is one scene.

    Raises InputError for unrelated pictures with `--strict`, MemoryLimitError.
    """
    from .grouping import explain, one_group, settle

    if ties is None:
        return one_group(len(pictures.indices)), None
    made: list[Predictions] = []

    def predict_all() -> list[View]:
        if not made:
            made.append(predictor.predict_pictures(images, pictures, progress))
        return made[0].views

    too_many: MemoryLimitError | None = None
    if predictor.runtime.torch_device.type != "cpu":  # a GPU would wait; usually it is one scene
        try:
            predict_all()
        except MemoryLimitError as error:
            too_many = error
    with progress.stage("Compare images", minor=True):
        groups = ties.result()
    grouping = settle(groups, [item.rgb for item in pictures.inputs], predict_all)
    if too_many is not None and grouping.whole:
        raise too_many
    for text in explain(grouping, [images.records[i].name for i in pictures.indices]):
        if config.input.strict and not grouping.whole:
            raise InputError(text)
        tell(text)
    if made and not grouping.whole and made[0].early is not None:
        made[0].early.end()  # each part has its own
    return grouping, made[0] if made and grouping.whole else None


def _fuse_part(job: SceneJob, predictions: Predictions, main: bool, edges: Edges, view_files: ViewFiles | None) -> Part:
    """One scene from its prediction: refinement if requested, and fusion."""
    config, images, predictor, progress, tell = job.config, job.images, job.predictor, job.progress, job.tell
    predictions = predictor.refine(images, with_gps(config.world, images, predictions), progress)
    try:
        predictions = anchor(config.world, images, predictions)
    except InputError as error:
        if main:
            raise
        tell(f"the scene of {predictions.views[0].name} keeps its own frame and scale: {error}")
    for text in predictions.warnings:
        tell(text)
    device, stems = predictor.runtime.torch_device, [images.records[i].stem for i in predictions.indices]
    shown = _undistorted(images, predictions)
    if view_files is not None:
        memories = Memories(config, shown, _with_known_lenses(images, predictions))
        view_files.start(predictions.views, stems, memories)
    up = None
    if config.world.up != "none":  # it is searched during fusion, because it does not need the cloud
        up = Later(lambda: which_way_is_up(config.world, images, predictions, edges, str(device)), "up")
    cloud, statistics = fuse_views(config, shown, predictions, device, progress, tell, job.check)
    for text in (*shown.mask_warnings(predictions.indices), *format_warnings(config, predictions)):
        tell(text)
    for text in depth_warnings(config, predictions.views, predictions.frame.metric):
        tell(text)
    return stand_up(config.world, images, Part(predictions, cloud, statistics), progress, up)


def _undistorted(images: ImageSet, found: Predictions) -> ImageSet:
    """The pictures that the views describe."""
    return UndistortedImages.of(images, found.views, found.indices)


def _with_known_lenses(images: ImageSet, found: Predictions) -> Predictions:
    """The predictions with the lenses of pictures that were undistorted when they were read, for the output files."""
    if not isinstance(images, UndistortedImages):
        return found
    lenses = {name: lens.camera for name, lens in images.lenses.items()}
    views = [replace(view, lens=view.lens or lenses.get(view.name)) for view in found.views]
    return replace(found, views=views)
