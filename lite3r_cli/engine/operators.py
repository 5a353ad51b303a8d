"""The fused operators of a device: Triton kernels on a GPU, their twins in plain torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor, nn

from lite3r_cli.attention import packed
from lite3r_cli.attention.packed import Lists, PackedPlan
from lite3r_cli.engine import twins
from lite3r_cli.engine.twins import LinearBranch, Operand, Summaries, Tiles


class AddNormQuant(Protocol):
    """The type of `add_norm_quant`."""

    def __call__(
        self, x: Tensor, y: Tensor, y_bias: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: float, fp8: bool,
        into: Operand | None = None,
    ) -> Operand: ...  # fmt: skip


class SplitHeads(Protocol):
    """The type of `split_heads`."""

    def __call__(
        self, qkv: Tensor, bias: Tensor, norms: tuple[Tensor, Tensor, Tensor, Tensor] | None, eps: float,
        rope: tuple[Tensor, Tensor] | None, place: Tensor | None, empty: Tensor | None, out: Tensor,
    ) -> None: ...  # fmt: skip


class ResizeMap(Protocol):
    """The type of `resize_map`."""

    def __call__(self, x: Tensor, size: tuple[int, int], position: tuple[Tensor, Tensor] | None = None) -> Tensor: ...


class GrowingAttention(Protocol):
    """The type of `growing_attention`."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, before: tuple[Tensor, Tensor] | None = None
    ) -> Tensor: ...


class GatheredAttention(Protocol):
    """The type of `gathered_attention`."""

    def __call__(
        self, q: Tensor, keys: Tensor, values: Tensor, lists: Lists | None, plan: PackedPlan, out: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Operators:
    """One function per operator. The twin of the same name documents formula and shapes: in `engine/twins.py`, or in
    `attention/packed.py` for the last five.
    """

    # rows of tokens (T, C)
    norm_quant: Callable[[Tensor, Tensor, Tensor, float, bool], Operand]
    add_norm_quant: AddNormQuant
    add_scaled: Callable[[Tensor, Tensor, Tensor, Tensor], None]
    gelu_quant: Callable[[Tensor, Tensor, bool], Operand]
    swiglu_quant: Callable[[Tensor, Tensor, bool], Operand]
    quant: Callable[[Tensor, bool], Operand]
    split_heads: SplitHeads
    merge_heads: Callable[[Tensor, Tensor | None, int, bool], Operand]
    # tiles of tokens (H, slots, D)
    block_moments: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    linear_sums: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
    select_blocks: Callable[[Tensor, Tensor, Tiles, int], tuple[Tensor, Tensor]]
    sparse_attention: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tiles, LinearBranch, Summaries | None], Tensor]
    growing_attention: GrowingAttention
    store_tokens: Callable[[Tensor, Tensor, Tensor, int], None]
    # feature maps (B, C, H, W)
    resize_map: ResizeMap
    resize_add: Callable[[Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor | None, Tensor]]
    bias_relu: Callable[[Tensor, Tensor], Tensor]
    depth_values: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    add_sums: Callable[[Tensor, Tensor | None, Tensor], Tensor]
    group_affine: Callable[[Tensor, tuple[Tensor, Tensor, float], Tensor, int, int], tuple[Tensor, Tensor]]
    norm_relu_pad: Callable[[Tensor, tuple[Tensor, Tensor]], Tensor]
    double_pad: Callable[[Tensor, Tensor, tuple[float, float]], Tensor]
    enlarge_pad: Callable[[Tensor, tuple[int, int]], Tensor]
    pixel_values: Callable[[Tensor, tuple[Tensor, Tensor], Tensor, Tensor], Tensor]
    patch_rows: Callable[[Tensor, Tensor, Tensor, int, int, torch.dtype], Tensor]
    # packed tokens (H, queries, D)
    ask: Callable[[Tensor, PackedPlan], tuple[Tensor, Tensor]]
    summarise_blocks: Callable[[Tensor, Tensor, Tensor, PackedPlan], Tensor]
    block_shares: Callable[[Tensor, Tensor, Tensor, PackedPlan], Tensor]
    list_blocks: Callable[[Tensor, PackedPlan, int], Lists]
    gathered_attention: GatheredAttention


def biased(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution or a linear layer, without gradients. Raises TypeError for anything else."""
    if not isinstance(layer, nn.Conv2d | nn.Linear) or layer.bias is None:
        raise TypeError(f"the fast path needs a layer with weight and bias here, not {layer}")
    return layer.weight.detach(), layer.bias.detach()


def operators(device: torch.device, kernels: bool | None = None) -> Operators:
    """The operators of a device. `kernels` True: Triton; False: the twins; None: Triton on a CUDA device."""
    families = [twins, packed]
    if device.type == "cuda" if kernels is None else kernels:
        from lite3r_cli.engine import (
            attend_kernels,
            block_kernels,
            growing_kernels,
            map_kernels,
            packed_kernels,
            row_kernels,
            stage_kernels,
        )

        families = [
            row_kernels, block_kernels, attend_kernels, growing_kernels, map_kernels, stage_kernels, packed_kernels
        ]  # fmt: skip
    names = [field.name for field in fields(Operators)]
    home = {name: family for family in families for name in names if hasattr(family, name)}
    return Operators(**{name: getattr(home[name], name) for name in names})
