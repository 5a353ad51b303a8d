"""`lite3r reconstruct`: photographs in; cloud, depth maps and cameras out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..config import InputConfig, LiteConfig, PredictConfig
from . import options

if TYPE_CHECKING:
    from ..pipelines.reconstruct import Report


def _output(*names: str, help: str, **more: object):
    return typer.Option(*names, help=help, rich_help_panel=options.OUTPUT, **more)


Output = Annotated[
    str,
    _output("--output", "-o", metavar="PATH", help="The cloud's .ply file, or a folder that gets a scene.ply."),
]
Formats = Annotated[
    list[str],
    _output(
        "--format", "-f", metavar="FORMAT", show_default=False,
        help="Write also colmap, nerfstudio, tum or glb; may be given several times.",
    ),
]  # fmt: skip
Preview = Annotated[
    bool, _output("--preview", metavar="", show_default=False, help="Draw the cloud and the cameras to preview.png.")
]
SaveNpy = Annotated[
    bool, _output("--save-npy", metavar="", show_default=False, help="Write depth as unrounded float32 .npy too.")
]
SkipExisting = Annotated[
    bool,
    _output(
        "--skip-existing", metavar="", show_default=False,
        help="Do nothing, successfully, if the output is already complete: for shell loops.",
    ),
]  # fmt: skip


def reconstruct(
    images: options.Images,
    output: Output = "scene.ply",
    formats: Formats = [],
    preview: Preview = False,
    save_npy: SaveNpy = False,
    overwrite: options.Overwrite = False,
    skip_existing: SkipExisting = False,
    masks: options.Masks = None,
    max_views: options.MaxViews = None,
    stride: options.Stride = InputConfig.stride,
    max_pixels: options.MaxPixels = InputConfig.max_pixels,
    strict: options.Strict = False,
    model: options.Model = PredictConfig.model,
    resolution: options.Resolution = PredictConfig.resolution,
    preprocess: options.Preprocess = PredictConfig.preprocess,
    poses: options.Poses = PredictConfig.poses,
    reference_view: options.ReferenceView = PredictConfig.reference_view,
    cameras: options.Cameras = None,
    refine: options.Refine = PredictConfig.refine,
    intrinsics: options.Intrinsics = PredictConfig.intrinsics,
    attention: options.Attention = LiteConfig.attention,
    keep_ratio: options.KeepRatio = LiteConfig.keep_ratio,
    fp8_backend: options.Fp8Backend = LiteConfig.fp8_backend,
    engine: options.Engine = PredictConfig.engine,
    device: options.Device = PredictConfig.device,
    dtype: options.Dtype = PredictConfig.dtype,
    seed: options.Seed = PredictConfig.seed,
    confidence_percentile: options.ConfidencePercentile = options.CONFIDENCE_PERCENTILE,
    no_edge_filter: options.NoEdgeFilter = False,
    no_consistency: options.NoConsistency = False,
    tolerance: options.Tolerance = None,
    voxel_size: options.VoxelSize = None,
    max_points: options.MaxPoints = options.MAX_POINTS,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Reconstruct a scene: photographs in; a coloured cloud, depth maps and cameras out.

    [bold]lite3r reconstruct photos -o scene.ply[/bold] writes scene.ply and a folder scene/
    with cameras.json, depth/, depth_preview/, confidence/ and run.json.

    The world frame is the first camera (x right, y down, z forward).
    Depth is along z, in scene units: photographs alone do not tell the scale.
    """
    if skip_existing and _is_done(output, json):
        return
    from ..pipelines.reconstruct import ReconstructConfig
    from ..pipelines.reconstruct import reconstruct as run
    from ..scene.fusion import FusionConfig

    config = ReconstructConfig(
        input=InputConfig(tuple(images), masks, max_views, stride, max_pixels, strict),
        predict=PredictConfig(
            model,
            resolution,
            device,
            dtype,
            seed,
            preprocess,
            poses,
            reference_view,
            cameras,
            refine,
            LiteConfig(attention, keep_ratio, fp8_backend),
            intrinsics,
            engine,
        ),
        fusion=FusionConfig(
            confidence_percentile=confidence_percentile,
            edge_filter=not no_edge_filter,
            consistency=not no_consistency,
            tolerance=tolerance,
            voxel=voxel_size,
            max_points=max_points,
        ),
        output=output,
        formats=tuple(formats),
        preview=preview,
        save_npy=save_npy,
        overwrite=overwrite,
    )
    report = run(config, console.progress(), console.warn)
    if json:
        console.document(_summary(report))
    else:
        console.table(("", ""), _rows(report), numbers=False)


def _is_done(output: str, json: bool) -> bool:
    from ..io.output_layout import is_complete, layout_of

    if not is_complete(output):
        return False
    layout = layout_of(output)
    cloud = layout.root / layout.cloud
    console.info(f"{cloud}: complete already, skipped")
    if json:
        console.document({"skipped_existing": True, "cloud": str(cloud), "folder": str(layout.root / layout.folder)})
    return True


def _summary(report: Report) -> dict[str, object]:
    """The document of --json."""
    return {
        "skipped_existing": False,
        "cloud": str(report.cloud),
        "folder": str(report.folder),
        "images": report.images,
        "views": report.views,
        "points": report.points,
        "skipped": report.skipped,
        "warnings": report.warnings,
        "runtime": report.runtime,
        "seconds": {name: round(value, 3) for name, value in report.seconds.items()},
        "peak_memory": report.peak_memory,
        "files": report.files,
    }


def _rows(report: Report) -> list[tuple[str, str]]:
    stages = ", ".join(f"{name.lower()} {value:.1f}" for name, value in report.seconds.items() if value >= 0.05)
    peaks = {name.removesuffix("_bytes"): value / 2**30 for name, value in report.peak_memory.items()}
    memory = ", ".join(f"{value:.2f} GiB {name}" for name, value in peaks.items())
    inside = {name.removeprefix(f"{report.folder.name}/").split("/")[0] for name in report.files}
    others = sorted(inside - {report.cloud.name})
    return [
        ("views", f"{report.views} of {report.images} images"),
        ("points", f"{report.points:,}"),
        ("seconds", f"{sum(report.seconds.values()):.1f} ({stages})"),
        ("peak memory", memory),
        *((what, f"{choice['chosen']} ({choice['reason']})") for what, choice in report.runtime.items()),
        ("cloud", str(report.cloud)),
        ("folder", f"{report.folder}/: {', '.join(others)}, run.json"),
    ]
