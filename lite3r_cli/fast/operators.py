"""The fused operators of a device: Triton kernels on a GPU, their twins in plain torch elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from lite3r_cli.fast import twins

ROW_OPERATORS = ("norm_quant", "add_norm_quant", "add_scaled", "gelu_quant", "quant", "split_heads", "merge_heads")
BLOCK_OPERATORS = ("block_moments", "linear_sums", "select_blocks", "sparse_attention")


def operators(device: torch.device, kernels: bool | None = None) -> SimpleNamespace:
    """Every name of ROW_OPERATORS and BLOCK_OPERATORS; `kernels` None: where there is a GPU."""
    if not (device.type == "cuda" if kernels is None else kernels):
        return SimpleNamespace(**{name: getattr(twins, name) for name in ROW_OPERATORS + BLOCK_OPERATORS})
    from lite3r_cli.fast import block_kernels, row_kernels

    rows = {name: getattr(row_kernels, name) for name in ROW_OPERATORS}
    return SimpleNamespace(**rows, **{name: getattr(block_kernels, name) for name in BLOCK_OPERATORS})
