"""Writes the student as a checkpoint: the stored tensors of its teacher's file, and the trained ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..attention.sparse_config import METADATA_KEY, SparseConfig
from ..checkpoints.metadata import SCALE_SUFFIX, describe
from ..checkpoints.write import CheckpointWriter, Slot
from ..networks.checkpoint import Checkpoint
from ..networks.checkpoint_facts import RECIPE_KEY
from ..quant.fp8 import FP8, quantize_rows


def write_student(
    output: Path,
    teacher: Checkpoint,
    trained: Mapping[str, Tensor],
    sparse: SparseConfig,
    recipe: str,
    overwrite: bool = True,
) -> None:
    """Write the student; with `overwrite` it replaces an old file. Raises OutputError, WeightsError for a teacher whose
    file was changed since it was opened.

    A trained tensor that the teacher's file also has is stored in the same precision, a new one in float32.
    """
    stored = teacher.spec.sources
    names = list(stored) + [name for name in trained if name not in stored]
    slots = [slot for name in names for slot in _slots(name, teacher, trained)]
    metadata = {
        **teacher.metadata,
        **describe(teacher.spec.name, teacher.spec.config, distilled_by=f"lite3r {__version__}"),
        METADATA_KEY: sparse.to_json(),
        RECIPE_KEY: recipe,
    }
    with CheckpointWriter(output, slots, metadata, overwrite=overwrite) as writer:
        for name in names:
            for part, tensor in _tensors(name, teacher, trained):
                writer.write(part, tensor)
        teacher.source.require_unchanged()


def stored_bytes(teacher: Checkpoint) -> int:
    """Minimum size in bytes of the student's file: that of the teacher's tensors."""
    return sum(slot.nbytes for name in teacher.spec.sources for slot in _slots(name, teacher, {}))


def _slots(name: str, teacher: Checkpoint, trained: Mapping[str, Tensor]) -> list[Slot]:
    if name not in teacher.spec.sources:
        return [Slot(name, torch.float32, tuple(trained[name].shape))]
    entry = teacher.source.entries[teacher.spec.sources[name]]
    slots = [Slot(name, entry.dtype, entry.shape)]
    if entry.dtype == FP8:
        slots.append(Slot(name + SCALE_SUFFIX, torch.float32, entry.shape[:1]))
    return slots


def _tensors(name: str, teacher: Checkpoint, trained: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    value = trained[name].detach().float().cpu() if name in trained else None
    if name not in teacher.spec.sources:
        return [(name, trained[name].detach().float().cpu())]
    source, stored = teacher.source, teacher.spec.sources[name]
    dtype = source.entries[stored].dtype
    if dtype == FP8:
        if value is None:
            parts = source.read(stored), source.read(stored + SCALE_SUFFIX).float()
        else:
            parts = quantize_rows(value)
        return [(name, parts[0]), (name + SCALE_SUFFIX, parts[1])]
    return [(name, source.read(stored) if value is None else value.to(dtype))]
