"""Any network of this program with sparse-linear attention across views: one call, one number to choose.

config = sparsify(model, keep_ratio=0.25)      # in place; trained projections are kept
prediction = model.predict(images)
skipped_share(model)                           # 1 − computed / all key blocks, over all layers across views
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
    """Put sparse-linear attention into `model` (mini, VGGT, DA3), in place, and return its settings, which a checkpoint
    stores. The new projections start at zero effect; those of a network that has some already are kept.

    `keep_ratio` is the share of all pairs of blocks to compute over all layers across views: the mean of a schedule
    (`attention/keep_schedule.py`), or the same for each of `layers` (names) if given; the others stay dense. `settings`
    are those of SparseConfig: `mix`, `feature`, `drop_ratio`, `protect`, `block`, `keep_ratios`, …; those that are not
    given are the preset's, see `attention/sparse_config.py`. `backend` and `crossover` are as in `choose_backend`; with
    a crossover of 0 attention is sparse at any length. Raises UsageError for settings that cannot be, and for a network
    without attention across views.
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
    """Give `model` exactly these settings, in place. Raises UsageError for a module that it has not, or another mix."""
    found = attention_modules(model)
    unknown = sorted(set(config.layers) - found.keys())
    if unknown:
        raise UsageError(f"no attention module is called {unknown[0]}, but for example {next(iter(found), 'none')}")
    attach(model, config)
    run_with(model, backend, crossover)


def run_with(model: nn.Module, backend: str = "auto", crossover: int = 0) -> None:
    """Choose the back end of all sparse-linear attention in `model`, see `choose_backend`."""
    for module in sparse_modules(model).values():
        module.backend, module.crossover = backend, crossover


def sparse_modules(model: nn.Module) -> dict[str, SparseLinearAttention]:
    """Name → sparse-linear attention module, in the network's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLinearAttention)}


def attention_backends(model: nn.Module) -> list[Choice]:
    """The back ends that the sparse-linear modules took in the last forward pass, each once."""
    return list(dict.fromkeys(m.choice for m in sparse_modules(model).values() if m.choice is not None))


@torch.no_grad()
def skipped_share(model: nn.Module) -> float:
    """1 − computed key blocks / all key blocks over all layers across views, dense ones too, in the last forward pass;
    protected blocks count as computed. 0 for a dense network, and for one that has not run.
    """
    modules = [model.get_submodule(name) for name in global_layers_of(model)]
    shares = [m.skipped.float() for m in modules if isinstance(m, SparseLinearAttention) and m.skipped is not None]
    return float(torch.stack(shares).sum() / len(modules)) if shares else 0.0
