"""Converts a dense checkpoint tensor by tensor to FP8 or bf16 weights with sparse-linear attention.

Peak memory is little more than the largest tensor. The output appears only when everything is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import __version__
from ..attention.sparse_config import METADATA_KEY, SparseConfig, settle
from ..checkpoints.metadata import SCALE_SUFFIX, describe
from ..checkpoints.shards import shard_files
from ..checkpoints.tensor_sources import Source
from ..checkpoints.weights import read_float
from ..checkpoints.write import CheckpointWriter, bring_right, refuse_existing
from ..config.conversion import ConvertConfig
from ..console import Progress
from ..errors import UsageError
from ..io.images import discover
from ..networks.checkpoint import Checkpoint, open_checkpoint
from ..quant.fp8 import FP8, dequantize_rows, quantize_rows
from .convert_plan import WEIGHTS, Item, keep_also, plan, select_attention

CHUNK = 2**22  # elements that are quantised at once


@dataclass(frozen=True)
class LayerReport:
    """The effect of the conversion on one matrix."""

    name: str
    shape: tuple[int, ...]
    before: str
    after: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float | None  # None: no rounding
    largest_error: float
    sensitivity: float | None = None  # of depth and poses, with --calibrate


@dataclass(frozen=True)
class ConvertReport:
    model: str
    licence: str
    output: Path
    files: list[Path]
    bytes_before: int
    bytes_after: int
    attention: SparseConfig | None
    layers: list[LayerReport]
    notices: list[str]
    seconds: dict[str, float] = field(default_factory=dict)


def convert(config: ConvertConfig, progress: Progress | None = None) -> ConvertReport:
    """Convert a checkpoint. Raises the errors of errors.py; an existing output is intact then."""
    progress = progress or Progress()
    if config.calibrate is not None:
        discover(config.calibrate.images, max_views=config.calibrate.views)  # told before the checkpoint is read
    with open_checkpoint(config.source, progress.note) as checkpoint:
        origin, files_before = checkpoint.origin, shard_files(checkpoint.path)
        for text in origin.notes:
            progress.note(text)
        model = checkpoint.build()  # strict: refuses a source with wrong tensors
        sparse = _attention(config, checkpoint, model)
        items = plan(checkpoint, model, sparse, config.weights, config.keep, config.quantize)
        bring_right(config.output)
        refuse_existing(config.output, config.overwrite, files_before)
        sensitivity: dict[str, float] = {}
        if config.calibrate is not None:
            from .fp8_sensitivity import measure_sensitivity

            candidates = [item.name for item in items if item.dtype == FP8 and not item.as_stored]
            sensitivity = measure_sensitivity(checkpoint, candidates, config.calibrate, progress)
            worst = sorted(sensitivity, key=lambda name: (-sensitivity[name], name))
            items = keep_also(items, worst[: config.calibrate.keep_worst])
        metadata = _metadata(checkpoint, sparse, config)
        before = sum(part.stat().st_size for part in files_before)
        files, layers = _write(config, checkpoint.source, items, metadata, sensitivity, progress)
    after = sum(file.stat().st_size for file in files)
    return ConvertReport(
        origin.model,
        origin.licence,
        files[0],
        files,
        before,
        after,
        sparse,
        layers,
        list(origin.notices),
        dict(progress.seconds),
    )


def _attention(config: ConvertConfig, checkpoint: Checkpoint, model: nn.Module) -> SparseConfig | None:
    """Sparse-linear attention of the new checkpoint: the settings of the source, changed as requested."""
    present = checkpoint.sparse
    chosen = select_attention(model, checkpoint.spec, config.attention)
    layers = tuple(dict.fromkeys([*(present.layers if present else ()), *chosen]))
    if not layers:
        return None
    if present is not None and layers == present.layers and config.keep_ratio in (None, present.keep_ratio):
        return present
    if present is not None and present.mix != "sum" and set(layers) != set(present.layers):
        raise UsageError(
            f"--attention: the source's {present.mix} mix must be trained for other modules, see lite3r distill"
        )
    if config.keep_ratio is None and (present is None or present.unset):  # settings: those of the preset, at prediction
        return SparseConfig(layers, mix=present.mix if present else "sum")
    spec = checkpoint.spec
    return settle(spec.family.global_layers(spec.config), present, config.keep_ratio, layers)


def _metadata(checkpoint: Checkpoint, sparse: SparseConfig | None, config: ConvertConfig) -> dict[str, str]:
    spec, licence = checkpoint.spec, checkpoint.origin.licence
    said = describe(spec.name, spec.config, licence=licence, weights=config.weights)
    metadata = {**checkpoint.metadata, **said, "converted_by": f"lite3r {__version__}"}
    metadata.pop(METADATA_KEY, None)
    return metadata | ({METADATA_KEY: sparse.to_json()} if sparse else {})


def _write(
    config: ConvertConfig,
    source: Source,
    items: Sequence[Item],
    metadata: dict[str, str],
    sensitivity: dict[str, float],
    progress: Progress,
) -> tuple[list[Path], list[LayerReport]]:
    """Write all files of the new checkpoint. Returns them, the one to load first, and the report on its matrices."""
    layers: list[LayerReport] = []
    writer = CheckpointWriter(
        config.output,
        [slot for item in items for slot in item.slots],
        metadata,
        shard_bytes=config.shard_bytes,
        overwrite=config.overwrite,
        sources=shard_files(source.path),
    )
    with writer as out, progress.stage("Convert", total=len(items)) as step:
        for item in items:
            report = _convert_one(source, item, out.write)
            if report is not None:
                layers.append(replace(report, sensitivity=sensitivity.get(report.name)))
            step()
        source.require_unchanged()
    return writer.files, layers


# -- one tensor --------------------------------------------------------------------------------------------------------


def _convert_one(source: Source, item: Item, write: Callable[[str, Tensor], None]) -> LayerReport | None:
    """Read, round and write one tensor; a report for matrices."""
    if item.stored is None:
        write(item.name, torch.zeros(item.shape, dtype=item.dtype))
        return None
    before = source.entries[item.stored].nbytes
    squares = (0.0, 0.0, 0.0)  # of the signal and of the error; then the largest error
    if item.as_stored:
        read_float(source, item.stored)  # for its checks
        write(item.name, source.read(item.stored))
        write(item.name + SCALE_SUFFIX, source.read(item.stored + SCALE_SUFFIX).float())
    else:
        value = read_float(source, item.stored)
        if item.dtype == FP8:
            stored, scale, squares = _quantise(value)
            write(item.name, stored)
            write(item.name + SCALE_SUFFIX, scale)
        else:
            rounded = value.to(item.dtype)
            if item.dtype != value.dtype and item.matrix:
                squares = _compare(value, rounded)
            write(item.name, rounded)
    if not item.matrix:
        return None
    signal, noise, largest = squares
    sqnr = 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None
    names = (_name(item.source_dtype), _name(item.dtype))
    return LayerReport(item.name, item.shape, *names, before, item.nbytes, sqnr, largest)


def _name(dtype: torch.dtype) -> str:
    return {value: key for key, value in WEIGHTS.items()}.get(dtype, str(dtype).removeprefix("torch."))


def _quantise(value: Tensor) -> tuple[Tensor, Tensor, tuple[float, float, float]]:
    """FP8 values, row scales, and (signal, noise, largest error); some rows at a time to limit memory."""
    stored = torch.empty(value.shape, dtype=FP8)
    scale = torch.empty(value.shape[0])
    rows = max(1, CHUNK // max(1, value[0].numel()))
    sums = (0.0, 0.0, 0.0)
    for i in range(0, len(value), rows):
        part = value[i : i + rows].float()
        stored[i : i + rows], scale[i : i + rows] = quantize_rows(part)
        sums = _add(sums, _squares(part, dequantize_rows(stored[i : i + rows], scale[i : i + rows])))
    return stored, scale, sums


def _compare(value: Tensor, rounded: Tensor) -> tuple[float, float, float]:
    sums = (0.0, 0.0, 0.0)
    for a, b in zip(value.view(-1).split(CHUNK), rounded.view(-1).split(CHUNK)):
        sums = _add(sums, _squares(a.float(), b.float()))
    return sums


def _squares(value: Tensor, rounded: Tensor) -> tuple[float, float, float]:
    error = value - rounded
    largest = float(error.abs().max()) if error.numel() else 0.0
    return float(value.square().sum(dtype=torch.float64)), float(error.square().sum(dtype=torch.float64)), largest


def _add(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return a[0] + b[0], a[1] + b[1], max(a[2], b[2])
