"""Checkpoints: safetensors files whose matrices may be FP8 E4M3 with per-row scales, config and licence in the metadata.

`NAME` holds a tensor; where it is E4M3, `NAME::scale` holds its row scales. No pickle is ever opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lite3r_cli.errors import WeightsError
from lite3r_cli.quant.fp8 import dequantize_rows, quantize_rows

SCALE_SUFFIX = "::scale"
NAMES_SHOWN = 5


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str], matrix_dtype: torch.dtype = torch.float8_e4m3fn
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
    _refuse_non_checkpoints(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            raw = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise WeightsError(f"{path}: damaged or truncated safetensors file ({str(error).splitlines()[0]}); get it again") from error
    state = {}
    for name, tensor in raw.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = raw.get(name + SCALE_SUFFIX)
        state[name] = dequantize_rows(tensor, scale) if scale is not None else tensor.float()
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"{path}: not-a-number or infinite values in {_some(broken)}; get the file again")
    return state, metadata


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


def config_from(metadata: Mapping[str, str], path: Path) -> dict:
    """The `config` entry of the metadata, a JSON object."""
    try:
        config = json.loads(metadata["config"])
        if not isinstance(config, dict):
            raise ValueError("not an object")
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: its metadata holds no readable `config`; this is not a Lite3R checkpoint") from error
    return config


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _refuse_non_checkpoints(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint file; `lite3r models` lists what is here")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError(f"{path}: the file is empty; get it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull`")
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise WeightsError(f"{path}: a pickle, which could run code when opened; only safetensors files are read")
