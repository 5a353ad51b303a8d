"""Set the arithmetic of a loaded network: FP8 linear layers and half precision."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import exact_products, trunk_of
from lite3r_cli.quant.swap import swap_linears


def set_arithmetic(model: Network, backend: str, dtype: torch.dtype) -> dict[str, str]:
    """Replace the linear layers of `model`, loaded in float32, by those of an FP8 back end, in place. The other
    products of the trunk run in `dtype`.

    Returns name → reason for the layers that are not FP8; see `exact_products`. Raises UsageError for an unknown back
    end.
    """
    exact = exact_products(model)
    kept = swap_linears(model, backend, lambda name, _: any(fnmatchcase(f"{name}.weight", p) for p in exact))
    set_precision(model, dtype)
    return kept


def set_precision(model: Network, dtype: torch.dtype) -> None:
    """Run the matrix products of the trunk of `model`, loaded in float32, in `dtype`, in place."""
    trunk = trunk_of(model)
    if dtype in HALF_PRECISION and trunk is not None:
        cast_products(trunk, dtype)
    model.compute_dtype = dtype
