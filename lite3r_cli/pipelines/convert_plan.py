"""Decides the format of each tensor of a converted checkpoint from names and shapes, before values are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from lite3r_cli.attention.module import PROJECTION, UNUSED, attention_modules
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.checkpoints.write import Slot
from lite3r_cli.errors import UsageError
from lite3r_cli.networks.checkpoint import Checkpoint
from lite3r_cli.networks.recognise import CheckpointSpec
from lite3r_cli.quant.fp8 import FP8

WEIGHTS: dict[str, torch.dtype] = {"fp8": FP8, "bf16": torch.bfloat16, "float32": torch.float32}
SELECTIONS = ("global", "all", "none")  # of attention modules, besides patterns


@dataclass(frozen=True)
class Item:
    """One tensor of the new checkpoint."""

    name: str
    shape: tuple[int, ...]
    stored: str | None  # its name in the source; None for a new tensor that starts at zero
    source_dtype: torch.dtype
    dtype: torch.dtype  # FP8 has one scale per row
    matrix: bool  # a matrix or kernel that multiplies activations; other tensors are small

    @property
    def as_stored(self) -> bool:
        """FP8 in source and output: copied bit for bit."""
        return self.source_dtype == FP8 and self.dtype == FP8

    @property
    def slots(self) -> list[Slot]:
        slots = [Slot(self.name, self.dtype, self.shape)]
        if self.dtype == FP8:
            slots.append(Slot(self.name + SCALE_SUFFIX, torch.float32, self.shape[:1]))
        return slots

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self.slots)


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def select_attention(model: torch.nn.Module, spec: CheckpointSpec, patterns: Sequence[str]) -> tuple[str, ...]:
    """The attention modules that `patterns` (or SELECTIONS) match. Raises UsageError for a pattern without a match."""
    found = attention_modules(model)
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern == "none":
            continue
        hits = spec.family.global_layers(spec.config) if pattern == "global" else list(found)
        if pattern not in SELECTIONS:
            hits = [name for name in found if fnmatchcase(name, pattern)]
        if not hits:
            raise UsageError(
                f"--attention {pattern}: no attention module of {spec.name} is called so, e.g. {next(iter(found))}"
            )
        chosen.update(hits)
    return tuple(name for name in found if name in chosen)


def plan(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    sparse: SparseConfig | None,
    weights: str,
    keep: Sequence[str],
    quantize: Sequence[str],
) -> list[Item]:
    """Every tensor of the new checkpoint in the order of the source. `model` is its network without values.

    Matrices become `weights`. Those that match the family's or the given `keep` patterns, and none of `quantize`, stay
    in 16 bits. Vectors, norms, tokens and position embeddings are never rounded. Raises UsageError for a pattern
    without a match.
    """
    source, spec = checkpoint.source, checkpoint.spec
    order = {stored: i for i, stored in enumerate(source.entries)}
    names = sorted(spec.sources, key=lambda name: (order[spec.sources[name]], name))
    for option, patterns in (("--keep", keep), ("--quantize", quantize)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UsageError(
                    f"{option} {pattern}: no tensor is called so; `*` stands for any part, e.g. '*.attn.qkv.*'"
                )
    items = []
    for name in names:
        entry = source.entries[spec.sources[name]]
        matrix = len(entry.shape) >= 2 and name.endswith(".weight")
        kept = matches(name, keep) or (matches(name, spec.family.high_precision) and not matches(name, quantize))
        dtype = _target(entry.dtype, matrix, kept, weights)
        items.append(Item(name, entry.shape, spec.sources[name], entry.dtype, dtype, matrix))
    return items + _new_items(spec, model, sparse, weights)


def _target(stored: torch.dtype, matrix: bool, kept: bool, weights: str) -> torch.dtype:
    if weights == "float32":
        return torch.float32
    if matrix and not kept:
        return WEIGHTS[weights]
    if stored == FP8:
        return FP8 if weights == "fp8" else torch.bfloat16  # the source has no higher precision
    if stored.itemsize <= 2:
        return stored
    return torch.bfloat16 if matrix else torch.float32


def _new_items(spec: CheckpointSpec, model: torch.nn.Module, sparse: SparseConfig | None, weights: str) -> list[Item]:
    """The zero tensors that sparse-linear attention adds if the source lacks them."""
    if sparse is None or sparse.mix != "sum":  # other mixes do not start at zero: the source has their tensors
        return []
    dtype = torch.float32 if weights == "float32" else torch.bfloat16
    items, found = [], attention_modules(model)
    for layer in sparse.layers:
        module = found[layer]
        width = module.proj.in_features // module.heads
        wanted: dict[str, tuple[int, ...]] = {f"{layer}.{PROJECTION}": (width, width)}
        if sparse.official:
            wanted[f"{layer}.{UNUSED}"] = ()
        for name, shape in wanted.items():
            if name not in spec.sources:
                items.append(Item(name, shape, None, torch.float32, dtype if shape else torch.float32, bool(shape)))
    return items


def keep_also(items: Sequence[Item], names: Iterable[str]) -> list[Item]:
    """The same plan, with the named FP8 matrices in bf16."""
    spared = set(names)
    return [replace(item, dtype=torch.bfloat16) if item.name in spared else item for item in items]
