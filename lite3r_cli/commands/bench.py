"""`lite3r bench`: time and memory of a prediction in several variants, and the limit of the hardware."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..config.benchmark import BenchConfig, numbers
from ..errors import BackendError
from ..extras import require
from ..io.kept_inputs import require_not_read
from ..io.transaction import require_writable
from .options import command

if TYPE_CHECKING:
    from ..bench.run import Bench, Row

More = Annotated[list[str] | None, typer.Argument(hidden=True, help="More numbers of views.")]
HEADINGS = ("views", "variant", "ms", "±", "peak GiB", "floor ms", "× floor", "skipped %", "depth diff.", "speed-up")


@command(BenchConfig)
def bench(config: BenchConfig, more: More = None) -> None:
    """Measure time and memory of a network and compare them with the limit of the hardware.

    Times are medians, from images on the device to depth and cameras on the device. Variants run in turn.
    A speed-up is printed only if every fused operator agrees with plain torch, and lite is close to dense.
    """
    config = replace(config, views=config.views + numbers(more or ()))
    if config.plot is not None:
        require("matplotlib", "--plot")  # both checks come before the measurement
        require_not_read([config.plot], _read(config))
        require_writable(config.plot, config.overwrite)
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes seconds
        from ..bench.run import run

    result = run(config, progress)
    if console.settings.json:
        console.document(result.as_dict())
    else:
        _show(config, result)
    if config.plot is not None:
        from ..bench.speed_plot import draw

        draw(
            result.rows,
            config.plot,
            f"{config.model}, {result.environment.get('gpu', result.environment['processor'])}",
        )
    if not result.gate["passed"]:
        raise BackendError("no ratios, the check failed: " + "; ".join(result.gate["complaints"][:5]))


def _read(config: BenchConfig) -> dict[Path, str]:
    """The files that are measured on, and what each is."""
    photos = [] if config.images is None else [config.images, *config.images.glob("*")]
    return {**dict.fromkeys(photos, "a photo of --images"), Path(config.model): "the checkpoint that is read"}


def _label(row: Row) -> str:
    """The name of the variant, with a note if `lite` used dense attention."""
    return "lite (dense attention)" if row.variant == "lite" and row.attention == "dense" else row.variant


def _show(config: BenchConfig, result: Bench) -> None:
    first = result.rows[0]
    cells = [
        (
            row.views, _label(row), f"{row.median_ms:.1f}", f"{row.spread_ms:.1f}", f"{row.peak_gib:.2f}",
            f"{row.floor_ms:.1f}", f"{row.median_ms / row.floor_ms:.1f}", f"{100 * row.skipped:.0f}",
            f"{row.depth_difference:.4f}", "–" if row.speedup is None else f"{row.speedup:.2f}",
        )
        for row in result.rows
    ]  # fmt: skip
    console.table(HEADINGS, cells, title=f"{config.model}, {first.height}×{first.width}")
    stages = [
        (row.views, _label(row), *(f"{milliseconds:.1f}" for milliseconds in row.stages.values()))
        for row in result.rows
    ]
    console.table(("views", "variant", *first.stages), stages, title="where it goes, ms, without a graph")
    environment = result.environment
    rows = [(name, entry["description"]) for name, entry in environment["variants"].items()]
    why = environment["variants"].get("lite", {})
    rows += [(f"lite, {what}", text) for what, text in why.items() if what != "description"]
    rows += [("withheld", f"{row.views} views: {row.withheld}") for row in result.rows if row.withheld]
    shown = ("weights", "gpu", "driver", "clock_sm", "torch", "triton", "dtype")
    rows += [(key, environment[key]) for key in shown if key in environment]
    checks = result.gate["operators"]
    rows.append(("check", f"{len(checks)} fast operators against plain torch; {result.gate['settings']}"))
    console.table(("", ""), rows, numbers=False)
