"""`lite3r reconstruct`: photos in; point cloud, depth maps and cameras out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..config import ReconstructConfig
from ..config.option import OUTPUT
from ..ranks import Rank, launched
from .options import command
from .sentences import sentence
from .view import show

if TYPE_CHECKING:
    from ..pipelines.reconstruct_scene import Report


SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        metavar="",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="Exit with code 0 if the output is already complete; for shell loops.",
    ),
]

Open = Annotated[
    bool,
    typer.Option(
        "--open",
        metavar="",
        show_default=False,
        rich_help_panel=OUTPUT,
        help="Write view.html (--format html) and open it in a browser on this machine.",
    ),
]


@command(ReconstructConfig)
def reconstruct(config: ReconstructConfig, skip_existing: SkipExisting = False, open: Open = False) -> None:
    """Reconstruct a scene: photos in; point cloud, depth maps and cameras out.

    [bold]lite3r reconstruct photos -o scene.ply[/bold] writes scene.ply and a folder scene/
    with cameras.json, depth/, depth_preview/, confidence/, memory/ (for locate, add and merge)
    and run.json.

    The world frame is the first camera (x right, y down, z forward).
    Depth is z-depth in scene units: photos alone do not determine the scale.
    """
    rank = launched()
    if rank is not None and rank.number:
        return _help(config, rank)
    if skip_existing and _is_done(config.output):
        return None if rank is None else _send_home(config, rank)
    if open:
        config = replace(config, formats=(*config.formats, "html"))
    from ..pipelines.reconstruct_scene import reconstruct as run

    report = run(config, console.progress(), console.warn)
    if console.settings.json:
        console.document(_summary(report))
    else:
        console.table(("", ""), _rows(report), numbers=False)
    if open:
        show(report.folder / "view.html")


def _help(config: ReconstructConfig, rank: Rank) -> None:
    """Ranks other than 0 under torchrun: compute their share; print and write nothing."""
    from ..pipelines.team import for_rank, help_out, launched_team

    help_out(for_rank(config.predict, rank), lambda own: launched_team(own, rank))


def _send_home(config: ReconstructConfig, rank: Rank) -> None:
    """End the other ranks, which wait for rank 0."""
    from ..pipelines.team import for_rank, launched_team

    launched_team(for_rank(config.predict, rank), rank).dismiss()


def _is_done(output: str) -> bool:
    from ..io.atomic import bring_right
    from ..io.kept_chunks import remove_finished
    from ..io.output_layout import is_complete, output_layout

    bring_right(output)  # a stopped run may have left files half in place
    if not is_complete(output):
        return False
    layout = output_layout(output)
    remove_finished(layout)
    cloud = layout.root / layout.cloud
    console.info(f"{cloud}: complete already, skipped")
    if console.settings.json:
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
        "wall_seconds": round(report.wall, 3),
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
        ("seconds", f"{report.wall:.1f} ({stages})"),
        ("peak memory", memory),
        *((what.replace("_", " "), sentence(choice)) for what, choice in report.runtime.items()),
        ("cloud", str(report.cloud)),
        ("folder", f"{report.folder}/: {', '.join(others)}, run.json"),
    ]
