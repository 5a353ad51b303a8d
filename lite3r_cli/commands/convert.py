"""`lite3r convert`: a dense checkpoint in, a Lite3R checkpoint out."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..errors import UsageError
from ..io.natural import natural_key
from . import options

if TYPE_CHECKING:
    from ..pipelines.convert import ConvertReport

LAYERS, CALIBRATION = "What becomes of the layers", "Calibration"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def _option(panel: str, *names: str, help: str, **more: object):
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Source = Annotated[
    str,
    typer.Argument(
        help="A name from `lite3r models`, a checkpoint (.safetensors, its index or folder, .pt) or hf:OWNER/NAME.",
        metavar="SOURCE", show_default=False,
    ),
]  # fmt: skip
Output = Annotated[
    Path,
    _option(
        options.OUTPUT,
        "--output",
        "-o",
        metavar="FILE",
        help="The new checkpoint, a .safetensors file.",
        show_default=False,
    ),
]
Weights = Annotated[
    str,
    _option(
        LAYERS,
        "--weights",
        metavar="KIND",
        help="fp8 (E4M3 with a scale for each row), bf16 or float32 (unchanged values).",
    ),
]
Keep = Annotated[
    list[str],
    _option(
        LAYERS, "--keep", metavar="PATTERN", show_default="embeddings, heads and the camera path",
        help="Keep these matrices in 16 bits too, e.g. '*.blocks.0.*'; may be given several times.",
    ),
]  # fmt: skip
Quantize = Annotated[
    list[str],
    _option(
        LAYERS, "--quantize", metavar="PATTERN", show_default=False,
        help="Quantise these although they are kept by default, e.g. 'camera_head.*'; may be given several times.",
    ),
]  # fmt: skip
Attention = Annotated[
    list[str],
    _option(
        LAYERS, "--attention", metavar="PATTERN", show_default="global",
        help="Attach sparse-linear attention to these modules: global (across views), all, none or a pattern; "
        "without effect until it is trained.",
    ),
]  # fmt: skip
KeepRatio = Annotated[
    float | None,
    _option(
        LAYERS, "--keep-ratio", metavar="SHARE", show_default="the source's, or 1",
        help="Share of key blocks that get exact attention there.",
    ),
]  # fmt: skip
ShardSize = Annotated[
    str | None,
    _option(
        options.OUTPUT, "--shard-size", metavar="SIZE", show_default="one file",
        help="Write several files of at most this size, e.g. 2G, and an index.",
    ),
]  # fmt: skip
Calibrate = Annotated[
    list[Path],
    _option(
        CALIBRATION, "--calibrate", metavar="IMAGES", show_default=False,
        help="Photos, or folders of them: measure what FP8 in each layer alone does to depth and poses, "
        "keep the worst in bf16.",
    ),
]  # fmt: skip
KeepWorst = Annotated[
    int, _option(CALIBRATION, "--keep-worst", metavar="N", help="How many layers stay in bf16 by that.")
]
CalibrateViews = Annotated[
    int, _option(CALIBRATION, "--calibrate-views", metavar="N", help="How many of the images to use.")
]
CalibrateResolution = Annotated[
    int, _option(CALIBRATION, "--calibrate-resolution", metavar="PIXELS", help="Their longest side inside the network.")
]


def convert(
    source: Source,
    output: Output,
    weights: Weights = "fp8",
    keep: Keep = [],
    quantize: Quantize = [],
    attention: Attention = [],
    keep_ratio: KeepRatio = None,
    shard_size: ShardSize = None,
    overwrite: options.Overwrite = False,
    calibrate: Calibrate = [],
    keep_worst: KeepWorst = 8,
    calibrate_views: CalibrateViews = 2,
    calibrate_resolution: CalibrateResolution = 224,
    device: options.Device = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Make a Lite3R checkpoint of a dense one: FP8 or bf16 weights, sparse-linear attention attached.

    [bold]lite3r convert da3-small -o da3-small-fp8.safetensors[/bold]

    Then [bold]lite3r reconstruct photos --model da3-small-fp8.safetensors[/bold], on a CPU too.
    Works through the source tensor by tensor: memory stays near 1 GB whatever its size (without --calibrate).
    """
    shard_bytes = None if shard_size is None else _bytes(shard_size)
    from ..pipelines.calibrate import CalibrateConfig
    from ..pipelines.convert import ConvertConfig
    from ..pipelines.convert import convert as run

    calibration = (
        CalibrateConfig(tuple(calibrate), calibrate_views, calibrate_resolution, keep_worst, device)
        if calibrate
        else None
    )
    config = ConvertConfig(
        source=source,
        output=output,
        weights=weights,
        attention=tuple(attention) or ("global",),
        keep_ratio=keep_ratio,
        keep=tuple(keep),
        quantize=tuple(quantize),
        shard_bytes=shard_bytes,
        overwrite=overwrite,
        calibrate=calibration,
    )
    _show(run(config, console.progress()), json)


def _show(report: ConvertReport, json: bool) -> None:
    if json:
        console.document(_summary(report))
        return
    console.table(
        ("matrix", "shape", "before", "after", "SQNR dB", "largest error", "sensitivity"), _layer_rows(report)
    )
    console.table(("", ""), _rows(report), numbers=False)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"--shard-size {text}: a size is written like 500M or 2G")
    return int(float(match[1]) * UNITS[match[2].upper()])


def _summary(report: ConvertReport) -> dict[str, object]:
    """The document of --json."""
    return {
        "model": report.model,
        "licence": report.licence,
        "output": str(report.output),
        "files": [str(file) for file in report.files],
        "bytes_before": report.bytes_before,
        "bytes_after": report.bytes_after,
        "attention": None if report.attention is None else asdict(report.attention),
        "not_loaded": report.notices,
        "layers": [asdict(layer) for layer in report.layers],
        "seconds": {name: round(value, 3) for name, value in report.seconds.items()},
    }


def _layer_rows(report: ConvertReport) -> list[tuple[str, ...]]:
    """Quantised matrices and, with --verbose, all others; the most sensitive first where that was measured."""
    ordered = sorted(report.layers, key=lambda layer: (-(layer.sensitivity or 0), natural_key(layer.name)))
    return [
        (
            layer.name,
            "×".join(map(str, layer.shape)),
            layer.before,
            layer.after,
            "exact" if layer.sqnr_db is None else f"{layer.sqnr_db:.1f}",
            f"{layer.largest_error:.1e}",
            "–" if layer.sensitivity is None else f"{layer.sensitivity:.1e}",
        )
        for layer in ordered
        if layer.after == "fp8" or layer.sensitivity is not None or console.settings.verbose
    ]


def _rows(report: ConvertReport) -> list[tuple[str, str]]:
    kinds = {
        kind: [layer for layer in report.layers if layer.after == kind]
        for kind in {layer.after for layer in report.layers}
    }
    matrices = ", ".join(f"{len(layers)} in {kind}" for kind, layers in sorted(kinds.items()))
    sparse = report.attention
    attached = (
        "dense"
        if sparse is None
        else f"sparse-linear in {len(sparse.layers)} modules, keep ratio {sparse.keep_ratio:g}"
    )
    ratio = report.bytes_after / report.bytes_before
    return [
        ("model", f"{report.model}, licence: {report.licence}"),
        ("matrices", matrices),
        ("attention", attached),
        ("size", f"{report.bytes_before / 1e6:.1f} MB → {report.bytes_after / 1e6:.1f} MB ({100 * ratio:.0f} %)"),
        ("seconds", f"{sum(report.seconds.values()):.1f}"),
        ("output", str(report.output) + (f" and {len(report.files) - 1} shards" if len(report.files) > 1 else "")),
    ]
