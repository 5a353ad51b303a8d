"""Sparse-linear attention with Triton kernels, forward and backward: the GPU twin of `torch_backend.attend`.

The kernels (`triton_kernels.py`) take tiles and block tables; torch sums over blocks between them. Nothing here
synchronises with the GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from lite3r_cli.attention import triton_kernels as kernels
from lite3r_cli.attention.block_map import BlockMap
from lite3r_cli.attention.features import FEATURES, widened
from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.attention.tiling import TokenTiling
from lite3r_cli.attention.torch_summary import summaries_of
from lite3r_cli.attention.triton_kernels import INTERPRETED

__all__ = ["INTERPRETED", "attend"]

# Input precision of products with float32 operands, by the dtype of the tiles. TF32 rounds as coarsely as float16, and
# where gradients cancel the error is visible in float16; tf32x3 avoids that.
WIDE = {torch.float32: "ieee", torch.float16: "tf32x3"}
KEYS = 64  # keys in one product, from one or more tiles
SORTED = 2**24  # elements of a mask that are sorted at a time: the indices are int64 while they are sorted
LOG2_E = 1.4426950408889634  # the kernels' exponentials are powers of two
PHI = {name: i for i, name in enumerate(FEATURES)}  # the numbers used in the kernels
HEAD_DIMS = (16, 32, 64)  # at 128 the backward kernels need more shared memory than a Hopper GPU has


def _meeting(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mask (B, H, blocks, others) → block table int32 of the same shape, whose first entries in each row are the
    indices of the True elements, and their number (B, H, blocks) int32.
    """
    heads = mask.flatten(0, 1)
    table = torch.empty(heads.shape, device=mask.device, dtype=torch.int32)
    step = max(1, SORTED // max(heads[:1].numel(), 1))
    for some, out in zip(heads.split(step), table.split(step), strict=True):
        out.copy_(some.to(torch.uint8).argsort(dim=-1, descending=True, stable=True))
    return table.view(mask.shape), mask.sum(-1, dtype=torch.int32).contiguous()


def _sums(
    k: Tensor, v: Tensor, blocks: BlockMap, layout: TokenTiling, feature: str, over: str
) -> tuple[Tensor, Tensor]:
    """Σ φ(k)ᵀ v (B, H, groups, D, D) and Σ φ(k) (B, H, groups, D): one group for "all", else one per query block."""
    keys = FEATURES[feature](widened(k)) * layout.keys.valid[:, :, None]
    totals, norms = keys.transpose(-1, -2) @ widened(v), keys.sum(3)  # of each key block
    if over == "all":
        return totals.sum(2, keepdim=True), norms.sum(2, keepdim=True)
    weights = blocks.linear.to(totals.dtype)
    return (weights @ totals.flatten(3)).unflatten(3, totals.shape[3:]), weights @ norms


def _power_of_two(width: int) -> int:
    """`width` rounded up to a power of two and to 16, the smallest side of a product in the matrix units."""
    result: int = max(16, triton.next_power_of_2(width))
    return result


def _sizes(q: Tensor, k: Tensor) -> dict[str, dict[str, object]]:
    """Compile-time sizes of the kernels, by what they read. With float32 tiles loads are not pipelined, because the
    tiles are large.
    """
    wide, side = q.dtype == torch.float32, triton.next_power_of_2(k.shape[3])
    common = {
        "D": q.shape[4], "WIDE": WIDE.get(q.dtype, "tf32"),
        "num_warps": 4, "num_stages": 1 if wide else 2,
    }  # fmt: skip
    queries = {"T": q.shape[3], "TILE": _power_of_two(q.shape[3])}
    width, keys = {"WIDTH": max(KEYS, side)}, {"K": k.shape[3]}
    return {
        "queries": common | queries | keys | width | {"SIDE": side},  # WIDTH / SIDE key tiles in one product
        "keys": common | queries | keys | {"SIDE": _power_of_two(k.shape[3])},
        "summaries": common | queries | {"WIDTH": KEYS if q.shape[3] <= 64 else KEYS // 2, "num_stages": 1},
    }  # fmt: skip


def _far(summaries: tuple[Tensor | None, ...], blocks: BlockMap, q: Tensor) -> tuple[Tensor, ...]:
    """The arguments of the kernels for summaries: three tensors, and the mask of which query block reads which summary.
    Without summaries these are placeholders that no kernel reads.
    """
    keys, spread, values = summaries
    if keys is None or spread is None or values is None:
        return (q,) * 4
    return *(t.contiguous() for t in (keys, spread, values)), blocks.linear.to(torch.uint8)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, far_k: Tensor | None, far_s: Tensor | None, far_v: Tensor | None,
        blocks: BlockMap, layout: TokenTiling, feature: str, over: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        q, k, v = (t.contiguous() for t in (q, k, v))
        root, sizes = q.shape[4] ** -0.5, _sizes(q, k)
        far = _far((far_k, far_s, far_v), blocks, q)
        totals, norms = _sums(k, v, blocks, layout, feature, over)
        sparse, linear = torch.empty_like(q), torch.empty_like(q)
        lse = torch.empty(q.shape[:4], device=q.device, dtype=torch.float32)
        kernels.forward[(q[..., 0, 0].numel(),)](
            q, k, v, totals.contiguous(), norms.contiguous(), *_meeting(blocks.critical), layout.keys.lengths, *far,
            sparse, linear, lse,
            q.shape[2], k.shape[2], totals.shape[2], root * LOG2_E, root**2 / 2 * LOG2_E, EPSILON,
            **sizes["queries"], PHI=PHI[feature], SUMMARIES=far_k is not None,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, far_k, far_s, far_v, sparse, lse)
        ctx.settings = (blocks, layout, feature, over)
        return sparse, linear

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_sparse: Tensor, d_linear: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *summaries, sparse, lse = ctx.saved_tensors
        blocks, layout, feature, over = ctx.settings
        dim, root, counts, lengths = q.shape[4], q.shape[4] ** -0.5, (q.shape[2], k.shape[2]), layout.keys.lengths
        sizes, far = _sizes(q, k), _far(summaries, blocks, q)
        factors = (root * LOG2_E, root**2 / 2 * LOG2_E, root)
        d_sparse, d_linear = d_sparse.contiguous(), d_linear.contiguous()
        delta = (widened(d_sparse) * widened(sparse)).sum(-1)
        totals, norms = _sums(k, v, blocks, layout, feature, over)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        d_totals = torch.empty(*q.shape[:3], dim, dim, device=q.device, dtype=torch.float32)
        d_norms = torch.empty(*q.shape[:3], dim, device=q.device, dtype=torch.float32)
        kernels.queries_backward[(q[..., 0, 0].numel(),)](
            q, k, v, totals.contiguous(), norms.contiguous(), *_meeting(blocks.critical), lengths, *far,
            lse, delta, d_sparse, d_linear, dq, d_totals, d_norms,
            *counts, totals.shape[2], *factors, EPSILON,
            **sizes["queries"], PHI=PHI[feature], SUMMARIES=summaries[0] is not None,
        )  # fmt: skip
        if over == "all":
            d_totals, d_norms = d_totals.sum(2, keepdim=True), d_norms.sum(2, keepdim=True)
        else:
            weights = blocks.linear.transpose(2, 3).to(d_totals.dtype)
            d_totals, d_norms = (weights @ d_totals.flatten(3)).unflatten(3, (dim, dim)), weights @ d_norms
        kernels.keys_backward[(k[..., 0, 0].numel(),)](
            q, k, v, *_meeting(blocks.critical.transpose(2, 3)), lengths, lse, delta,
            d_sparse, d_totals.contiguous(), d_norms.contiguous(), dk, dv,
            *counts, d_totals.shape[2], root * LOG2_E, root, **sizes["keys"], PHI=PHI[feature],
        )  # fmt: skip
        changes: list[Tensor | None] = [None] * 3
        if summaries[0] is not None:
            changes = [torch.empty_like(t) for t in summaries]
            grid = (triton.cdiv(k.shape[2], sizes["summaries"]["WIDTH"]), len(summaries[0]))
            kernels.summaries_backward[grid](
                q, lengths, *far, lse, delta, d_sparse, *changes, *counts, *factors, **sizes["summaries"]
            )
        return dq, dk, dv, *changes, None, None, None, None


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: BlockMap,
    layout: TokenTiling,
    feature: str = "elu",
    linear_over: str = "all",
    summaries: bool = False,
) -> tuple[Tensor, Tensor]:
    """`torch_backend.attend` for tiles (B, H, blocks, T, D) on a GPU, with T ≤ 128 and D in HEAD_DIMS."""
    found = summaries_of(k, v, layout.keys) if summaries else (None, None, None)
    result: tuple[Tensor, Tensor] = _Attend.apply(  # type: ignore[no-untyped-call]
        q, k, v, *found, blocks, layout, feature, linear_over
    )
    return result
