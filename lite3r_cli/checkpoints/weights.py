"""Checkpoints: safetensors files whose matrices may be FP8 E4M3 with per-row scales, config and licence in the
metadata.

`NAME` holds a tensor; where it is E4M3, `NAME::scale` holds its row scales. A file that could run code is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.checkpoints.sources import Source, open_source
from lite3r_cli.checkpoints.write import save_tensors
from lite3r_cli.errors import WeightsError
from lite3r_cli.quant.fp8 import dequantize_rows, quantize_rows

NAMES_SHOWN = 5
CHUNK = 2**24  # elements looked at together, so that a check costs little memory beside a large tensor


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    matrix_dtype: torch.dtype = torch.float8_e4m3fn,
) -> None:
    """Write a state dict: everything of two or more axes in `matrix_dtype`, vectors in float16. Raises OutputError."""
    stored: dict[str, Tensor] = {}
    for name, tensor in sorted(state.items()):
        if matrix_dtype == torch.float8_e4m3fn and tensor.ndim >= 2:
            stored[name], stored[name + SCALE_SUFFIX] = quantize_rows(tensor)
        else:
            stored[name] = tensor.detach().to(matrix_dtype if tensor.ndim >= 2 else torch.float16)
    save_tensors(path, stored, metadata)


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
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    require_names(expected, {name: tuple(tensor.shape) for name, tensor in state.items()}, path, "this model")
    model.load_state_dict(dict(state))


def require_names(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path, model: str
) -> None:
    """Names and shapes must be the same. WeightsError names at most five missing, unknown and mis-shaped tensors."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unknown": sorted(found.keys() - expected.keys()),
        "wrong shape": sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k]),
    }
    kinds = {kind: names for kind, names in problems.items() if names}
    shown: list[str] = []
    left = NAMES_SHOWN
    for i, (kind, names) in enumerate(kinds.items(), start=1):
        part = names[: left - (len(kinds) - i)]  # one name at least for each kind to come
        more = f" and {len(names) - len(part)} more" if len(names) > len(part) else ""
        shown.append(f"{kind}: {', '.join(part)}{more}")
        left -= len(part)
    if shown:
        raise WeightsError(f"{path}: not a checkpoint of {model} ({'; '.join(shown)})")
