"""`lite3r convert`: a dense checkpoint in, a Lite3R checkpoint out."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from .. import console
from ..config.conversion import CalibrateConfig, ConvertConfig
from ..io.natural import natural_key
from .options import command

if TYPE_CHECKING:
    from ..pipelines.convert_checkpoint import ConvertReport


@command(ConvertConfig, CalibrateConfig)
def convert(config: ConvertConfig, calibrate: CalibrateConfig) -> None:
    """Convert a dense checkpoint: FP8 or bf16 weights, sparse-linear attention.

    [bold]lite3r convert da3-small -o da3-small-fp8.safetensors[/bold]

    Use it: [bold]lite3r reconstruct photos --model da3-small-fp8.safetensors[/bold], also on a CPU.
    The source is converted tensor by tensor: without --calibrate, memory stays near 1 GB for any size.
    """
    from ..pipelines.convert_checkpoint import convert as run

    config = replace(config, calibrate=calibrate if calibrate.images else None)
    _show(run(config, console.progress()))


def _show(report: ConvertReport) -> None:
    if console.settings.json:
        console.document(_summary(report))
        return
    console.table(
        ("matrix", "shape", "before", "after", "SQNR dB", "largest error", "sensitivity"), _layer_rows(report)
    )
    console.table(("", ""), _rows(report), numbers=False)


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
    """Quantised matrices and, with --verbose, all others; sorted by sensitivity if that was measured."""
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
    if sparse is None:
        attached = "dense"
    else:
        attached = f"sparse-linear in {len(sparse.layers)} modules, keep ratio {sparse.keep_ratio:g}"
        attached += "" if sparse.mean_ratio < 1 else ": dense until a keep ratio is given or it is distilled"
    ratio = report.bytes_after / report.bytes_before
    return [
        ("model", f"{report.model}, licence: {report.licence}"),
        ("matrices", matrices),
        ("attention", attached),
        ("size", f"{report.bytes_before / 1e6:.1f} MB → {report.bytes_after / 1e6:.1f} MB ({100 * ratio:.0f} %)"),
        ("seconds", f"{sum(report.seconds.values()):.1f}"),
        ("output", str(report.output) + (f" and {len(report.files) - 1} shards" if len(report.files) > 1 else "")),
    ]
