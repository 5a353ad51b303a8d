"""Photographs → a scene on disk: find, predict, fuse, write, and account for it in run.json.

torch is imported after the images are found: a wrong path or option is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import InputConfig, ReconstructConfig
from ..console import Progress
from ..errors import InputError
from ..io import depth as depth_files
from ..io.atomic import OutputSet
from ..io.cameras import write_cameras_json
from ..io.formats import EXTRA_FORMATS, image_references, require_known
from ..io.images import ImageSet, Skipped, discover
from ..io.output_layout import files_of_run
from ..io.ply import write_ply
from ..io.preview import render_preview
from ..scene.frame import local_origin, move_cloud, move_views, translation
from ..scene.fusion import FusionStatistics, fuse_with_statistics
from ..scene.geometry import camera_centres
from ..scene.view import PointCloud, View

if TYPE_CHECKING:
    from .predict import Predictions, Predictor

Warn = Callable[[str], None]


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
    runtime: dict[str, dict[str, str]]
    seconds: dict[str, float]
    peak_memory: dict[str, int]
    files: list[str] = field(default_factory=list)  # relative to the folder of the cloud


def reconstruct(config: ReconstructConfig, progress: Progress | None = None, warn: Warn = lambda text: None) -> Report:
    """Run the whole pipeline and put the scene in place; `warn` is told of everything odd as soon as it is known.

    Raises the errors of errors.py; nothing is left behind then.
    """
    progress = progress or Progress()
    require_known(config.formats)
    warnings: list[str] = []

    def tell(text: str) -> None:
        warnings.append(text)
        warn(text)

    with OutputSet(config.output, overwrite=config.overwrite) as out:
        images = _find(config.input, progress, tell)
        with progress.stage("Start", minor=True):
            from .. import runtime
            from .predict import Predictor
        predictor = Predictor(config.predict, progress)
        told = len(images.skipped)
        predictions = predictor.predict(images, progress, strict=config.input.strict)
        for text in (*_told([*images.skipped[told:], *predictions.skipped]), *predictions.warnings):
            tell(text)
        cloud, statistics = _fuse(config, images, predictions, progress, tell)
        for text in images.mask_warnings(predictions.indices):
            tell(text)
        with progress.stage("Write"):
            _write(out, config, images, predictions, cloud)
            out.commit(_run_info(config, predictor, images, predictions, statistics, warnings, progress.seconds))
        files = sorted(files_of_run(out.layout) or ())
    return Report(
        cloud=out.layout.root / out.layout.cloud,
        folder=out.layout.root / out.layout.folder,
        images=len(images) + len(images.skipped),
        views=len(predictions.views),
        points=len(cloud),
        skipped=[asdict(s) for s in (*images.skipped, *predictions.skipped)],
        warnings=warnings,
        runtime=predictor.choices(),
        seconds=dict(progress.seconds),
        peak_memory=runtime.peak_memory(predictor.runtime.torch_device),
        files=files,
    )


def _find(config: InputConfig, progress: Progress, tell: Warn) -> ImageSet:
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
    config: ReconstructConfig, images: ImageSet, predictions: Predictions, progress: Progress, tell: Warn
) -> tuple[PointCloud, FusionStatistics]:
    indices = predictions.indices
    # fusion computes in single precision: in the frame of a map it works around the cameras' middle
    origin = local_origin(camera_centres(np.stack([view.cam_from_world for view in predictions.views])))
    with progress.stage("Fuse", total=len(indices)) as step:
        cloud, statistics = fuse_with_statistics(
            move_views(predictions.views, translation(None if origin is None else -origin)),
            lambda j: images.read(indices[j]),
            lambda j: images.read_mask(indices[j]),
            config.fusion,
            config.predict.seed,
            step,
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


def _write(
    out: OutputSet, config: ReconstructConfig, images: ImageSet, predictions: Predictions, cloud: PointCloud
) -> None:
    """Every file but run.json into the staging folder."""
    views = predictions.views
    write_ply(out.cloud, cloud, predictions.frame.comments())
    stems = [images.records[i].stem for i in predictions.indices]
    scales = [_write_view(out, stem, view, config.save_npy) for stem, view in zip(stems, views)]
    write_cameras_json(out.path("cameras.json"), views, [f"depth/{stem}.png" for stem in stems], scales)
    references = _image_references(images, predictions, out.final(out.directory))
    for name in dict.fromkeys(config.formats):
        EXTRA_FORMATS[name](out.directory, views, cloud, references, predictions.sparse)
    if config.preview:
        render_preview(out.path("preview.png"), cloud, views)


def _write_view(out: OutputSet, stem: str, view: View, save_npy: bool) -> float:
    """The pictures of one view; returns the scale of its 16-bit depth file."""
    scale = depth_files.write_depth_png(out.path(f"depth/{stem}.png"), view.depth)
    if save_npy:
        depth_files.write_depth_npy(out.path(f"depth/{stem}.npy"), view.depth)
    depth_files.write_depth_preview(out.path(f"depth_preview/{stem}.png"), view.depth)
    depth_files.write_confidence(out.path(f"confidence/{stem}.png"), view.confidence)
    return scale


def _image_references(images: ImageSet, predictions: Predictions, folder: Path) -> Mapping[str, str]:
    records = [images.records[i] for i in predictions.indices]
    return image_references({record.name: record.path for record in records}, folder)


def _run_info(
    config: ReconstructConfig,
    predictor: Predictor,
    images: ImageSet,
    predictions: Predictions,
    statistics: FusionStatistics,
    warnings: list[str],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    from .. import runtime

    used = {
        i: {"height": h, "width": w} for i, (h, w) in zip(predictions.indices, predictions.network_sizes, strict=True)
    }
    refinement = dict(zip(predictions.indices, predictions.verdicts or ()))
    focal = {
        i: {"source": prior.source, "fx": prior.fx, "fy": prior.fy, "sigma": prior.sigma, "fixed": prior.fixed}
        for i, prior in zip(predictions.indices, predictions.priors.focal)
        if prior is not None
    }
    verdicts = [
        {
            "name": record.name,
            "path": str(record.path),
            "verdict": "used",
            "width": record.width,
            "height": record.height,
            "orientation": record.orientation,
            "network": used[i],
            **({"focal": focal[i]} if i in focal else {}),
            **({"refinement": refinement[i]} if i in refinement else {}),
        }
        for i, record in enumerate(images.records)
        if i in used
    ]
    verdicts += [
        {"name": skipped.name, "verdict": "skipped", "reason": skipped.reason}
        for skipped in (*images.skipped, *predictions.skipped)
    ]
    return {
        "versions": runtime.versions(),
        "arguments": _plain(asdict(config)),
        "seed": config.predict.seed,
        "model": {
            "name": predictor.backbone.name,
            "checkpoint": str(predictor.checkpoint),
            "sha256": predictor.fingerprint.result(),
            "licence": predictor.origin.licence,
            "not_loaded": list(predictor.origin.notices),
        },
        "runtime": predictor.choices(),
        "attention": predictor.lite.attention_info(predictor.backbone),
        "images": verdicts,
        "folders": images.folders,
        "warnings": warnings,
        "world": predictions.frame.as_dict(),
        "points": statistics.points,
        "fusion": statistics.to_dict(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory": runtime.peak_memory(predictor.runtime.torch_device),
    }


def _plain(value: Any) -> Any:
    """Paths become text, tuples lists: what JSON can hold."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
