"""`lite3r bench`: what a prediction costs here, several ways, beside what the hardware allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..bench.config import BenchConfig, numbers, size
from ..config import LiteConfig
from ..errors import BackendError
from . import options

if TYPE_CHECKING:
    from ..bench.run import Bench

MEASURE = "Measurement"
Views = Annotated[
    list[str],
    typer.Option(
        "--views", metavar="N...", rich_help_panel=MEASURE, help="Numbers of views: --views 2 8 32, or 2,8,32."
    ),
]
More = Annotated[list[str] | None, typer.Argument(hidden=True, help="More numbers of views.")]
Resolution = Annotated[
    str | None,
    typer.Option(
        "--resolution", "-r", metavar="PIXELS", rich_help_panel=MEASURE, show_default="the model's, 4:3",
        help="Longest side, or HEIGHTxWIDTH, of an image inside the network.",
    ),
]  # fmt: skip
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", rich_help_panel=MEASURE, show_default="stand-ins",
        help="Photographs to run on, in turn if there are fewer than views.",
    ),
]  # fmt: skip
Compare = Annotated[
    str,
    typer.Option(
        "--compare", metavar="NAMES", rich_help_panel=MEASURE,
        help="Which ways, the first is what the others are compared with: dense-eager as the model's authors run it, "
        "dense as fast as it goes, lite with sparse attention and FP8.",
    ),
]  # fmt: skip
Repeats = Annotated[int, typer.Option("--repeats", metavar="N", rich_help_panel=MEASURE, help="Timed runs of each.")]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE.png", rich_help_panel=MEASURE, show_default="none", help="Draw time and memory."
    ),
]
HEADINGS = ("views", "variant", "ms", "±", "peak GiB", "floor ms", "× floor", "skipped %", "depth diff.", "speed-up")


def bench(
    more: More = None,
    views: Views = ["2,8"],
    model: options.Model = BenchConfig.model,
    resolution: Resolution = None,
    images: Images = None,
    compare: Compare = ",".join(BenchConfig.compare),
    attention: options.Attention = LiteConfig.attention,
    keep_ratio: options.KeepRatio = LiteConfig.keep_ratio,
    fp8_backend: options.Fp8Backend = LiteConfig.fp8_backend,
    repeats: Repeats = BenchConfig.repeats,
    plot: Plot = None,
    device: options.Device = BenchConfig.device,
    dtype: options.Dtype = BenchConfig.dtype,
    seed: options.Seed = BenchConfig.seed,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Time and memory of a network, beside the least that the hardware could take.

    Runs alternate, inputs too; medians of runs from the images on the device to depth and cameras there.
    No ratio is printed unless every fast operator agrees with plain torch code.
    """
    config = BenchConfig(
        model=model,
        views=numbers((*views, *(more or ()))),
        size=size(resolution),
        images=images,
        compare=tuple(compare.split(",")),
        lite=LiteConfig(attention, keep_ratio, fp8_backend),
        repeats=repeats,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes longer than many a stage
        from ..bench.run import run

    result = run(config, progress)
    if json:
        console.document(result.as_dict())
    else:
        _show(config, result)
    if plot is not None:
        from ..bench.plot import draw

        draw(result.rows, plot, f"{model}, {result.environment.get('gpu', result.environment['processor'])}")
    if not result.gate["passed"]:
        raise BackendError("no ratios, the check failed: " + "; ".join(result.gate["complaints"][:5]))


def _show(config: BenchConfig, result: Bench) -> None:
    first = result.rows[0]
    cells = [
        (
            row.views, row.variant, f"{row.median_ms:.1f}", f"{row.spread_ms:.1f}", f"{row.peak_gib:.2f}",
            f"{row.floor_ms:.1f}", f"{row.median_ms / row.floor_ms:.1f}", f"{100 * row.skipped:.0f}",
            f"{row.depth_difference:.4f}", "–" if row.speedup is None else f"{row.speedup:.2f}",
        )
        for row in result.rows
    ]  # fmt: skip
    console.table(HEADINGS, cells, title=f"{config.model}, {first.height}×{first.width}")
    stages = [
        (row.views, row.variant, *(f"{milliseconds:.1f}" for milliseconds in row.stages.values()))
        for row in result.rows
    ]
    console.table(("views", "variant", *first.stages), stages, title="where it goes, ms, without a graph")
    environment = result.environment
    rows = [(name, entry["description"]) for name, entry in environment["variants"].items()]
    shown = ("weights", "gpu", "driver", "clock_sm", "torch", "triton", "dtype")
    rows += [(key, environment[key]) for key in shown if key in environment]
    checks = result.gate["operators"]
    rows.append(("check", f"{len(checks)} fast operators against plain torch; {result.gate['settings']}"))
    console.table(("", ""), rows, numbers=False)
