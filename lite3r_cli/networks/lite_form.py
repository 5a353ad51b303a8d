"""Dense or sparse-linear attention and FP8 arithmetic for a loaded network: what was asked, what was chosen,
and why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from lite3r_cli.attention.module import SparseConfig, SparseLinearAttention
from lite3r_cli.attention.schedule import keep_ratios
from lite3r_cli.config import LiteConfig
from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products
from lite3r_cli.networks.family import exact_products, global_layers_of, trunk_of
from lite3r_cli.networks.sparsify import run_with, sparse_modules, sparsify
from lite3r_cli.quant.swap import choose_fp8_backend, swap_linears
from lite3r_cli.runtime import Choice

RECIPE_KEY = "distillation"  # of a checkpoint's metadata: how its student was trained


def trained_for_fp8(metadata: Mapping[str, str], sparse: SparseConfig | None) -> bool:
    """Whether a checkpoint's training saw the rounding of FP8 arithmetic."""
    recipe = json.loads(metadata.get(RECIPE_KEY, "{}"))
    return (sparse is not None and sparse.official) or recipe.get("fp8_from", 1) < 1


def choose_fp8(config: LiteConfig, device: torch.device, trained: bool) -> Choice:
    """ "auto" is FP8 arithmetic for checkpoints that were trained for it, where the hardware has it. Raises
    BackendError.
    """
    if config.fp8_backend == "auto" and not trained:
        return Choice("auto", "off", "the checkpoint was not trained for FP8 arithmetic")
    return choose_fp8_backend(config.fp8_backend, device)


def set_attention(model: nn.Module, config: LiteConfig) -> Choice:
    """Make `model` attend across views as asked, in place. Raises UsageError where it cannot."""
    modules = sparse_modules(model)
    stored = modules[0].config if modules else None
    if config.attention == "dense":
        run_with(model, "dense")
        return Choice("dense", "dense", "asked for")
    if config.attention == "auto" and config.keep_ratio is None:
        if stored is None or _mean(model) >= 1:
            return Choice("auto", "dense", "the checkpoint's attention is dense")
        run_with(model, crossover=None)
        return Choice("auto", "sla", "the checkpoint says so")
    why = "asked for" if config.attention == "sla" else f"--keep-ratio {config.keep_ratio:g} was given"
    if stored is None:
        sparsify(model, config.keep_ratio or config.default_keep_ratio)
        return Choice(config.attention, "sla", f"{why}; the checkpoint is not trained for it, see lite3r distill")
    ratio = config.keep_ratio or (config.default_keep_ratio if _mean(model) >= 1 else None)
    if ratio is not None:
        sparsify(model, ratio, layers=stored.layers, **_settings(stored, ratio, global_layers_of(model)))
    run_with(model)
    return Choice(config.attention, "sla", why)


def _mean(model: nn.Module) -> float:
    """The keep ratio over all sparse-linear modules."""
    ratios = [module.formula.keep_ratio for module in sparse_modules(model)]
    return sum(ratios) / len(ratios)


def _settings(stored: SparseConfig, ratio: float, across: list[str]) -> dict[str, object]:
    """A checkpoint's settings at another keep ratio: by schedule where it has exactly the layers across views."""
    scheduled = list(stored.layers) == across and not stored.official
    changed = replace(stored, keep_ratios=keep_ratios(len(across), ratio) if scheduled else ())
    return {name: value for name, value in vars(changed).items() if name not in ("layers", "keep_ratio")}


def set_arithmetic(model: nn.Module, backend: str, dtype: torch.dtype) -> dict[str, str]:
    """Run the linear layers of `model`, loaded in float32, by an FP8 back end, in place; what stays runs in `dtype`.

    Returns the layers that stay exact → why: `exact_products`.
    """
    spared = exact_products(model)
    stay = swap_linears(model, backend, lambda name, _: any(fnmatchcase(f"{name}.weight", p) for p in spared))
    trunk = trunk_of(model)
    if dtype in HALF_PRECISION and trunk is not None:
        cast_products(trunk, dtype)
    model.compute_dtype = dtype
    return stay


def attention_backends(model: nn.Module) -> list[Choice]:
    """The back ends that the sparse-linear modules took in the last forward pass, each once."""
    modules = [m for m in model.modules() if isinstance(m, SparseLinearAttention)]
    return list(dict.fromkeys(m.choice for m in modules if m.choice is not None))
