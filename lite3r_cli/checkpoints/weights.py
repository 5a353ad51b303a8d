"""Read and write checkpoints: safetensors files whose matrices may be FP8 E4M3 with per-row scales.

Entry `NAME` is a tensor; if it is E4M3, `NAME::scale` holds its row scales. Configuration and licence are in the
metadata. A file that could run code is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.checkpoints.tensor_sources import Source, open_source
from lite3r_cli.checkpoints.write import save_tensors
from lite3r_cli.errors import WeightsError
from lite3r_cli.quant.fp8 import dequantize_rows, quantize_rows

NAMES_SHOWN = 5
LARGEST_FINITE = {torch.float8_e4m3fn: 0x7E, torch.float8_e5m2: 0x7B}  # bit patterns without the sign bit


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    matrix_dtype: torch.dtype = torch.float8_e4m3fn,
) -> None:
    """Write a state dict: tensors of two or more axes in `matrix_dtype`, vectors in float16. Raises OutputError."""
    stored: dict[str, Tensor] = {}
    for name, tensor in sorted(state.items()):
        if matrix_dtype == torch.float8_e4m3fn and tensor.ndim >= 2:
            stored[name], stored[name + SCALE_SUFFIX] = quantize_rows(tensor)
        else:
            stored[name] = tensor.detach().to(matrix_dtype if tensor.ndim >= 2 else torch.float16)
    save_tensors(path, stored, metadata)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors in float32, and the metadata. Raises WeightsError for a file that is not a valid checkpoint."""
    with open_source(path) as source:
        names = [name for name in source.entries if not name.endswith(SCALE_SUFFIX)]
        return {name: read_float(source, name).float() for name in names}, dict(source.metadata)


def read_float(source: Source, stored: str) -> Tensor:
    """A tensor in its stored dtype; FP8 with row scales becomes float32. Raises WeightsError for NaN or infinity."""
    value, extremes = on_device(source, stored, parts_of(source, stored), torch.device("cpu"))
    require_sound(source, {stored: extremes})
    return value


def parts_of(source: Source, stored: str) -> tuple[Tensor, Tensor | None]:
    """A tensor as stored, and its row scales if it is FP8, else None. Thread-safe. Raises WeightsError."""
    value = source.read(stored)
    if value.dtype not in LARGEST_FINITE:
        return value, None
    scale = stored + SCALE_SUFFIX
    if scale not in source.entries or value.ndim < 2 or source.entries[scale].shape != (value.shape[0],):
        raise WeightsError(f"{source.path}: {stored} is FP8 without one scale for each of its rows; get it again")
    return value, source.read(scale).float()


def on_device(
    source: Source, stored: str, parts: tuple[Tensor, Tensor | None], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Copy the parts of a tensor, as stored, to a device → its values there (FP8 becomes float32), and their extremes
    (2,), which are finite if and only if all values are. `require_sound` checks the extremes of all tensors at once, so
    that no tensor needs a synchronisation. Raises WeightsError for a tensor of integers.
    """
    value, scale = parts[0].to(device), None if parts[1] is None else parts[1].to(device)
    if scale is not None:
        extremes = _extremes(scale * torch.finfo(value.dtype).max)
        if value.numel():
            beyond = (value.view(torch.uint8) & 0x7F).max() > LARGEST_FINITE[value.dtype]
            extremes = extremes.masked_fill_(beyond, torch.nan)
        return _expand(value, scale), extremes
    if not value.is_floating_point():
        raise WeightsError(f"{source.path}: {stored} holds {str(value.dtype).removeprefix('torch.')}, not real numbers")
    if value.dtype == torch.float64:  # nothing computes in float64; values beyond float32 become infinite here
        value = value.float()
    return value, _extremes(value)


def require_sound(source: Source, extremes: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for the first tensor that is not finite, given the extremes from `on_device`."""
    if not extremes or bool(torch.stack([each.float() for each in extremes.values()]).isfinite().all()):
        return
    bad = next(name for name, each in extremes.items() if not bool(each.isfinite().all()))
    wide = bad in source.entries and source.entries[bad].dtype == torch.float64
    what = "not-a-number, infinite or beyond float32:" if wide else "not-a-number or infinite"
    raise WeightsError(f"{source.path}: {what} values in {bad}; get the file again")


def _extremes(value: Tensor) -> Tensor:
    """The smallest and the largest value (2,); both are NaN if any value is."""
    return torch.stack(value.aminmax()) if value.numel() else torch.zeros(2, device=value.device)


def _expand(values: Tensor, scale: Tensor) -> Tensor:
    """FP8 with row scales → float32."""
    if values.device.type != "cpu":
        return dequantize_rows(values, scale)
    # on a CPU, a NumPy table lookup takes half the time of torch's FP8 conversion
    table = torch.arange(256, dtype=torch.uint8).view(values.dtype).float().numpy()
    out = torch.empty(values.shape)
    np.take(table, values.view(torch.uint8).numpy(), out=out.numpy(), mode="clip")
    out.flatten(1).mul_(scale[:, None])
    return out


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict strictly. Raises WeightsError, see `require_names`."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    require_names(expected, {name: tuple(tensor.shape) for name, tensor in state.items()}, path, "this model")
    model.load_state_dict(dict(state))


def require_names(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path, model: str
) -> None:
    """Raises WeightsError if names or shapes differ; it lists at most five missing, unknown or mis-shaped tensors."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unknown": sorted(found.keys() - expected.keys()),
        "wrong shape": sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k]),
    }
    kinds = {kind: names for kind, names in problems.items() if names}
    shown: list[str] = []
    left = NAMES_SHOWN
    for i, (kind, names) in enumerate(kinds.items(), start=1):
        part = names[: left - (len(kinds) - i)]  # leave at least one name for each following kind
        more = f" and {len(names) - len(part)} more" if len(names) > len(part) else ""
        shown.append(f"{kind}: {', '.join(part)}{more}")
        left -= len(part)
    if shown:
        raise WeightsError(f"{path}: not a checkpoint of {model} ({'; '.join(shown)})")
