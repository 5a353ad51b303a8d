"""The fused operators of a device: Triton kernels on a GPU, their twins in plain torch elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from lite3r_cli.attention import packed
from lite3r_cli.engine import twins

ROW_OPERATORS = ("norm_quant", "add_norm_quant", "add_scaled", "gelu_quant", "quant", "split_heads", "merge_heads")
BLOCK_OPERATORS = ("block_moments", "linear_sums", "select_blocks", "sparse_attention")
PACKED_OPERATORS = ("ask", "summarise_blocks", "block_shares", "list_blocks", "gathered_attention")
MAP_OPERATORS = ("resize_map", "resize_add", "bias_relu", "depth_values", "patch_rows")


def operators(device: torch.device, kernels: bool | None = None) -> SimpleNamespace:
    """Every name of ROW_, BLOCK_, PACKED_ and MAP_OPERATORS; `kernels` None: where there is a GPU."""
    if not (device.type == "cuda" if kernels is None else kernels):
        families = ((twins, ROW_OPERATORS + BLOCK_OPERATORS + MAP_OPERATORS), (packed, PACKED_OPERATORS))
    else:
        from lite3r_cli.engine import block_kernels, map_kernels, packed_kernels, row_kernels

        families = (
            (row_kernels, ROW_OPERATORS), (block_kernels, BLOCK_OPERATORS),
            (map_kernels, MAP_OPERATORS), (packed_kernels, PACKED_OPERATORS),
        )  # fmt: skip
    return SimpleNamespace(**{name: getattr(family, name) for family, names in families for name in names})
