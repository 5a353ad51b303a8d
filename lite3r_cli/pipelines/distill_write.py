"""The student as a checkpoint: the tensors of its teacher's file as they are stored there, and the few new ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..attention.module import METADATA_KEY, SparseConfig
from ..checkpoints.metadata import SCALE_SUFFIX, describe
from ..checkpoints.sources import Source, open_source
from ..checkpoints.write import CheckpointWriter, Slot
from ..networks.lite_form import RECIPE_KEY
from ..networks.recognise import Layout
from ..quant.fp8 import quantize_rows

FP8 = torch.float8_e4m3fn


def write_student(
    output: Path, teacher: Path, layout: Layout, trained: Mapping[str, Tensor], sparse: SparseConfig, recipe: str
) -> None:
    """Write the student in place of an old file. Raises OutputError.

    A trained tensor that the teacher's file holds too is stored in the same precision, a new one in float32.
    """
    with open_source(teacher) as source:
        names = list(layout.sources) + [name for name in trained if name not in layout.sources]
        slots = [slot for name in names for slot in _slots(name, source, layout, trained)]
        metadata = _metadata(source, layout, sparse, recipe)
        with CheckpointWriter(output, slots, metadata, overwrite=True) as writer:
            for name in names:
                for part, tensor in _tensors(name, source, layout, trained):
                    writer.write(part, tensor)


def _slots(name: str, source: Source, layout: Layout, trained: Mapping[str, Tensor]) -> list[Slot]:
    if name not in layout.sources:
        return [Slot(name, torch.float32, tuple(trained[name].shape))]
    entry = source.entries[layout.sources[name]]
    slots = [Slot(name, entry.dtype, entry.shape)]
    if entry.dtype == FP8:
        slots.append(Slot(name + SCALE_SUFFIX, torch.float32, entry.shape[:1]))
    return slots


def _tensors(name: str, source: Source, layout: Layout, trained: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    value = trained[name].detach().float().cpu() if name in trained else None
    if name not in layout.sources:
        return [(name, value)]
    stored = layout.sources[name]
    dtype = source.entries[stored].dtype
    if dtype == FP8:
        if value is None:
            parts = source.read(stored), source.read(stored + SCALE_SUFFIX).float()
        else:
            parts = quantize_rows(value)
        return [(name, parts[0]), (name + SCALE_SUFFIX, parts[1])]
    return [(name, source.read(stored) if value is None else value.to(dtype))]


def _metadata(source: Source, layout: Layout, sparse: SparseConfig, recipe: str) -> dict[str, str]:
    return {
        **source.metadata,
        **describe(layout.name, layout.config, distilled_by=f"lite3r {__version__}"),
        METADATA_KEY: sparse.to_json(),
        RECIPE_KEY: recipe,
    }
