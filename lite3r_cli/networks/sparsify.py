"""Any network of this program with sparse-linear attention across views: one call, one number to choose.

config = sparsify(model, keep_ratio=0.25)      # in place; trained projections are kept
prediction = model.predict(images)
skipped_share(model)                           # 1 − computed / all key blocks, over all layers across views
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lite3r_cli.attention.module import SparseConfig, SparseLinearAttention, attach, attention_modules
from lite3r_cli.attention.schedule import SHALLOW, keep_ratios
from lite3r_cli.errors import UsageError
from lite3r_cli.networks.family import global_layers_of

DEFAULTS: dict[str, object] = {"tiles": True, "walk": True, "summaries": True, "linear_over": "all"}
# of shallow networks, measured on mini
FINE: dict[str, object] = {"walk": False, "key_block": 16, "scores": "mass", "linear_over": "rest"}


def sparsify(
    model: nn.Module,
    keep_ratio: float,
    *,
    layers: Sequence[str] | None = None,
    backend: str = "auto",
    crossover: int | None = 0,
    **settings: object,
) -> SparseConfig:
    """Put sparse-linear attention into `model` (mini, VGGT, DA3), in place, and return its settings, which a checkpoint
    stores. The new projections start at zero effect; those of a network that has some already are kept.

    `keep_ratio` is the share of all pairs of blocks to compute over all layers across views: the mean of a schedule
    (`attention/schedule.py`), or the same for each of `layers` (names) if given, the others staying dense. `settings`
    are those of SparseConfig: `mix`, `feature`, `drop_ratio`, `protect`, `block`, `keep_ratios`, …; where it is not
    told, what lost least on `mini` (docs/method.md): blocks are rectangles, and those not kept have summaries. In
    shallow networks the linear branch sees those alone, and keys are cut finer than queries, unless a `block` is given
    for both, and kept by their mass; in deep ones it sees all, which loses nothing measurable and is much less work for
    a GPU, and blocks are cut so that a GPU's tiles are full (`walk`). `backend` and `crossover` as in `choose_backend`;
    0: sparse at any length. Raises UsageError for settings that cannot be, and for a network without attention across
    views.
    """
    across = global_layers_of(model)
    if not across:
        raise UsageError(
            f"{getattr(model, 'name', type(model).__name__)} has no attention across views to be sparse in"
        )
    if layers is None and "keep_ratios" not in settings:
        layers, settings["keep_ratios"] = across, keep_ratios(len(across), keep_ratio)
    if len(across) <= SHALLOW:
        settings = {**FINE, "key_block": settings.get("block", FINE["key_block"])} | settings
    settings = DEFAULTS | settings
    config = SparseConfig(tuple(across if layers is None else layers), keep_ratio, **settings)
    unknown = sorted(set(config.layers) - attention_modules(model).keys())
    if unknown:
        raise UsageError(f"no attention module is called {unknown[0]}, but for example {across[0]}")
    attach(model, config)
    run_with(model, backend, crossover)
    return config


def run_with(model: nn.Module, backend: str = "auto", crossover: int | None = 0) -> None:
    """Choose the back end of all sparse-linear attention in `model`, see `choose_backend`."""
    for module in sparse_modules(model):
        module.backend, module.crossover = backend, crossover


def sparse_modules(model: nn.Module) -> list[SparseLinearAttention]:
    return [module for module in model.modules() if isinstance(module, SparseLinearAttention)]


@torch.no_grad()
def skipped_share(model: nn.Module) -> float:
    """1 − computed key blocks / all key blocks over all layers across views, dense ones too, in the last forward pass;
    protected blocks count as computed. 0 for a dense network, and for one that has not run.
    """
    modules = [model.get_submodule(name) for name in global_layers_of(model)]
    shares = [m.skipped.float() for m in modules if isinstance(m, SparseLinearAttention) and m.skipped is not None]
    return float(torch.stack(shares).sum() / len(modules)) if shares else 0.0
