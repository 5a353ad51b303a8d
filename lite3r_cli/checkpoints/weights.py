"""Checkpoints: safetensors files whose matrices may be FP8 E4M3 with per-row scales, config and licence in the
metadata.

`NAME` holds a tensor; where it is E4M3, `NAME::scale` holds its row scales. A file that could run code is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lite3r_cli.checkpoints.sources import Source, open_source
from lite3r_cli.errors import WeightsError
from lite3r_cli.quant.fp8 import dequantize_rows, quantize_rows

SCALE_SUFFIX = "::scale"
NAMES_SHOWN = 5
CHUNK = 2**24  # elements looked at together, so that a check costs little memory beside a large tensor


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    matrix_dtype: torch.dtype = torch.float8_e4m3fn,
) -> None:
    """Write a state dict: everything of two or more axes in `matrix_dtype`, vectors in float16."""
    stored: dict[str, Tensor] = {}
    for name, tensor in sorted(state.items()):
        if matrix_dtype == torch.float8_e4m3fn and tensor.ndim >= 2:
            stored[name], stored[name + SCALE_SUFFIX] = quantize_rows(tensor)
        else:
            stored[name] = tensor.detach().to(matrix_dtype if tensor.ndim >= 2 else torch.float16)
    blob = save({k: v.contiguous().cpu() for k, v in stored.items()}, metadata=dict(metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors in float32 and the metadata. Raises WeightsError for a file that is not a sound checkpoint."""
    with open_source(path) as source:
        names = [name for name in source.entries if not name.endswith(SCALE_SUFFIX)]
        return {name: read_float(source, name).float() for name in names}, dict(source.metadata)


def read_float(source: Source, stored: str) -> Tensor:
    """A tensor in the precision it has beyond FP8: FP8 with row scales becomes float32. Raises
    WeightsError for NaN and infinity.
    """
    value = source.read(stored)
    if value.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        scale = stored + SCALE_SUFFIX
        if scale not in source.entries or value.ndim < 2 or source.entries[scale].shape != (value.shape[0],):
            raise WeightsError(f"{source.path}: {stored} is FP8 without one scale for each of its rows; get it again")
        value = _expand(value, source.read(scale).float())
    if not value.is_floating_point():
        raise WeightsError(f"{source.path}: {stored} holds {str(value.dtype).removeprefix('torch.')}, not real numbers")
    if not all(torch.isfinite(part).all() for part in value.flatten().split(CHUNK)):
        raise WeightsError(f"{source.path}: not-a-number or infinite values in {stored}; get the file again")
    return value


def _expand(values: Tensor, scale: Tensor) -> Tensor:
    """FP8 with row scales → float32, some rows at a time: the temporaries stay small."""
    out = torch.empty(values.shape)
    rows = max(1, CHUNK // 16 // max(1, values[0].numel()))
    for target, part, factor in zip(out.split(rows), values.split(rows), scale.split(rows)):
        target.copy_(dequantize_rows(part, factor))
    return out


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Strict loading; WeightsError names at most five unknown, missing or mis-shaped tensors."""
    expected = model.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "wrong shape": sorted(k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape),
    }
    found = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsError(f"{path}: not a checkpoint of this model ({'; '.join(found)})")
    model.load_state_dict(dict(state))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
