"""Optimisers, learning-rate schedule and exponential moving average (EMA) of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lite3r_cli.errors import BackendError, Lite3RError
from lite3r_cli.networks.mini.network import Mini


class DivergedError(Lite3RError):
    """A loss or gradient is not finite. The state must not be saved."""


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Factor of the learning rate: linear warm-up over `warmup_steps`, times a cosine that decays to 2 %. `progress` is
    the used share of the training budget.
    """
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / warmup_steps) * cosine


def build_optimisers(model: Mini, lr: float, encoder_factor: float, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest.

    The pretrained parts before attention across views (`patch_embed`, first blocks) have `encoder_factor` times the
    learning rate. Every group stores its peak rate in `peak_lr`. Raises BackendError if torch has no Muon.
    """
    matrices: dict[bool, list[Tensor]] = {True: [], False: []}
    others: dict[bool, list[Tensor]] = {True: [], False: []}
    first = model.config.alternate_from
    early = ("patch_embed.", "pos_embed", "cls_token", *(f"blocks.{i}." for i in range(first)))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = name.startswith("blocks.") and parameter.ndim == 2
        (matrices if is_matrix else others)[name.startswith(early)].append(parameter)
    adam = [_group(p, lr * (encoder_factor if slow else 1), 0.0) for slow, p in others.items()]
    matrix = [_group(p, lr * (encoder_factor if slow else 1), 0.05) for slow, p in matrices.items()]
    fused = torch.cuda.is_available()
    if not muon:
        return [torch.optim.AdamW(adam + matrix, betas=(0.9, 0.98), fused=fused)]
    if not hasattr(torch.optim, "Muon"):
        raise BackendError(
            f"--optimiser muon needs torch 2.9 or newer, this is {torch.__version__}; use --optimiser adamw"
        )
    from lite3r_cli.training.muon import StackedMuon  # an older torch has no Muon class to inherit from

    return [
        torch.optim.AdamW(adam, betas=(0.9, 0.98), fused=fused),
        StackedMuon(matrix, adjust_lr_fn="match_rms_adamw"),
    ]


def _group(parameters: list[Tensor], lr: float, weight_decay: float) -> dict:
    return {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay}


def set_learning_rate(optimisers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Set the learning rate of every group to `factor` times its peak rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * factor


class WeightAverage:
    """EMA of a model's parameters. The decay is lower at first, so that early steps are forgotten."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.source = [p for _, p in model.named_parameters()]
        self.values = [p.detach().clone() for p in self.source]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the parameters after step `step`."""
        decay = min(self.decay, (1 + step) / (20 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.source], 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameter name → EMA value."""
        return dict(zip(self.names, self.values))

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the values of `state_dict`."""
        for name, value in zip(self.names, self.values):
            value.copy_(state[name])
