"""Give a network sparse-linear attention across views, with one call:

config = sparsify(model, keep_ratio=0.25)      # in place; trained projections are kept
prediction = model.predict(images)
skipped_share(model)                           # 1 − computed / all key blocks, over all cross-view layers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lite3r_cli.attention.module import SparseLinearAttention, attach, attention_modules
from lite3r_cli.attention.sparse_config import SparseConfig, settle
from lite3r_cli.errors import UsageError
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.runtime import Choice


def sparsify(
    model: nn.Module,
    keep_ratio: float,
    *,
    layers: Sequence[str] | None = None,
    backend: str = "auto",
    crossover: int = 0,
    **settings: object,
) -> SparseConfig:
    """Replace the cross-view attention of `model` by sparse-linear attention, in place. Returns the settings, which
    `convert` stores in a checkpoint. New linear branches have no effect at first; existing ones are kept.

    `keep_ratio` is the share of block pairs to compute, the mean of a schedule over all cross-view layers
    (`attention/keep_schedule.py`). With `layers` (names) only these become sparse, each with this ratio. `settings` are
    fields of SparseConfig: `mix`, `feature`, `drop_ratio`, `protect`, `block`, `keep_ratios`, …; the preset in
    `attention/sparse_config.py` provides the others. `backend` and `crossover` are as in `choose_backend`; with
    crossover 0 attention is sparse at any length. Raises UsageError for invalid settings, or for a network without
    attention across views.
    """
    across = global_layers_of(model)
    if not across:
        raise UsageError(
            f"{getattr(model, 'name', type(model).__name__)} has no attention across views to be sparse in"
        )
    if layers is not None:
        settings.setdefault("keep_ratios", ())
    config = settle(across, None, keep_ratio, layers, **settings)
    apply_sparse(model, config, backend, crossover)
    return config


def apply_sparse(model: nn.Module, config: SparseConfig, backend: str = "auto", crossover: int = 0) -> None:
    """Apply exactly these settings to `model`, in place. Raises UsageError for a missing module or another mix."""
    found = attention_modules(model)
    unknown = sorted(set(config.layers) - found.keys())
    if unknown:
        raise UsageError(
            f"there is no attention module {unknown[0]}; the first of the network is {next(iter(found), 'none')}"
        )
    attach(model, config)
    run_with(model, backend, crossover)


def run_with(model: nn.Module, backend: str = "auto", crossover: int = 0) -> None:
    """Set the back end of all sparse-linear attention in `model`, see `choose_backend`."""
    for module in sparse_modules(model).values():
        module.backend, module.crossover = backend, crossover


def sparse_modules(model: nn.Module) -> dict[str, SparseLinearAttention]:
    """Name → sparse-linear attention module, in the order of the network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLinearAttention)}


def attention_backends(model: nn.Module) -> list[Choice]:
    """The distinct back ends that the sparse-linear modules used in the last forward pass."""
    return list(dict.fromkeys(m.choice for m in sparse_modules(model).values() if m.choice is not None))


@torch.no_grad()
def skipped_share(model: nn.Module) -> float:
    """1 − computed key blocks / all key blocks in the last forward pass, the mean over all cross-view layers, including
    dense ones. Protected blocks count as computed. 0 for a dense network or before the first pass.
    """
    modules = [model.get_submodule(name) for name in global_layers_of(model)]
    shares = [m.skipped.float() for m in modules if isinstance(m, SparseLinearAttention) and m.skipped is not None]
    return float(torch.stack(shares).sum() / len(modules)) if shares else 0.0
