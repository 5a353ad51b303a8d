"""What training writes and reads back: the averaged weights, and the whole state to go on from. Safetensors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lite3r_cli.checkpoints.metadata import describe
from lite3r_cli.checkpoints.weights import load_into, save_checkpoint
from lite3r_cli.checkpoints.write import save_tensors
from lite3r_cli.errors import WeightsError
from lite3r_cli.training.optimiser import WeightAverage


def save_weights(path: Path, state: Mapping[str, Tensor], model: nn.Module, dtype: torch.dtype, **extra: str) -> None:
    """A checkpoint that `lite3r reconstruct --model PATH` reads, in place of the old one. Raises OutputError."""
    save_checkpoint(path, state, describe("mini", model.config, **extra), dtype)


def save_training_state(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimisers: list[torch.optim.Optimizer],
    step: int,
    elapsed: float,
    beside: Mapping[str, bytes] | None = None,
    gone: Sequence[str] = (),
) -> None:
    """All that `load_training_state` needs, in place of an older state. `beside` (name → content) are written with it,
    and the files `gone` go with the old state. Raises OutputError.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        for j, slot in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{j}.{k}": torch.as_tensor(v) for k, v in slot.items()}
    metadata = describe("mini", model.config, step=str(step), elapsed=repr(elapsed))
    save_tensors(path, tensors, metadata, beside=beside, gone=gone)


def load_training_state(
    path: Path, model: nn.Module, average: WeightAverage, optimisers: list[torch.optim.Optimizer]
) -> tuple[int, float]:
    """Restore everything; returns the step and the seconds already spent. Raises WeightsError."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        step, elapsed = int(metadata["step"]), float(metadata["elapsed"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not a training state to resume from ({error}); start without --resume") from error
    load_into(model, _under(tensors, "model."), path)
    average.load_state_dict(_under(tensors, "average."))
    for i, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(tensors, f"optimiser.{i}.").items():
            slot, name = key.split(".", 1)
            state.setdefault(int(slot), {})[name] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return step, elapsed


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
