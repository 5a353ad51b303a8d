"""FP8 products in the place of a loaded network's linear layers."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import exact_products, trunk_of
from lite3r_cli.quant.swap import swap_linears


def set_arithmetic(model: Network, backend: str, dtype: torch.dtype) -> dict[str, str]:
    """Run the linear layers of `model`, loaded in float32, by an FP8 back end, in place; what stays runs in `dtype`.

    Returns the layers that stay exact → why: `exact_products`.
    """
    spared = exact_products(model)
    stay = swap_linears(model, backend, lambda name, _: any(fnmatchcase(f"{name}.weight", p) for p in spared))
    set_precision(model, dtype)
    return stay


def set_precision(model: Network, dtype: torch.dtype) -> None:
    """Run the matrix products of the transformer, loaded in float32, in `dtype`, in place."""
    trunk = trunk_of(model)
    if dtype in HALF_PRECISION and trunk is not None:
        cast_products(trunk, dtype)
    model.compute_dtype = dtype
