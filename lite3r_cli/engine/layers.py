"""Transformer blocks of the fast path: weights are held in low precision; biases, norms and scales are applied by the
fused operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.attention.packed import PackedPlan
from lite3r_cli.engine.operators import Operators
from lite3r_cli.engine.packing import Bucket, Packing, Shape
from lite3r_cli.engine.sparse_layers import Plans, SparseLayer, SparsePlan
from lite3r_cli.engine.twins import Operand
from lite3r_cli.layers.dense import dense
from lite3r_cli.layers.view_shards import (
    across_views,
    current,
    first_view,
    is_divided,
    own_heads,
    ranks_across,
    rows_of_heads,
    rows_of_tokens,
)
from lite3r_cli.layers.view_shards import whole as gather
from lite3r_cli.layers.vit import Block, LayerScale, RopeTable, SwiGlu
from lite3r_cli.quant.fp8 import quantize_rows
from lite3r_cli.quant.linear import FP8Linear, bias_of

MLP_TOKENS = 36864  # tokens per pass of the MLP, whose hidden layer is the largest tensor of a block


@dataclass(frozen=True)
class Settings:
    """How the fast path computes."""

    dtype: torch.dtype = torch.bfloat16  # of tokens, and of weights that are not FP8
    fp8: bool = False  # linear layers of the blocks in E4M3
    sparse: bool = True  # sparse-linear attention where the network has it
    crossover: int = 0  # below this many tokens attention is dense, see `pipelines/engine_choice.py`
    query_tiles: int = 2  # query tiles that share one list of key tiles
    head_frames: int = 8  # frames that the dense head processes at a time
    graphs: bool = True  # on a GPU: one CUDA graph per input shape
    kernels: bool | None = None  # Triton kernels; None: only on a GPU


@dataclass
class Engine:
    """What every part of a forward pass needs: settings, operators, and `stage`, a context for timing a named part."""

    settings: Settings
    operators: Operators
    stage: Callable[[str], AbstractContextManager] = lambda name: nullcontext()


@dataclass(frozen=True)
class Prepared:
    """What depends only on the image sizes, on the device."""

    packing: Packing
    whole: Packing  # of the views of all processes; equals `packing` if the prediction is not divided
    plans: Plans
    numbers: Tensor  # (T,) int32, 0 to T − 1: the slots of attention without tiles
    order: list[Tensor]  # per bucket: the indices of its views among all views
    own_places: Tensor  # (S_own,) position of each view of this process in its packed sequence
    places: Tensor  # (S,) position of each view in the packed sequence of all views
    sizes: Tensor  # (S, 2) height and width of all views in pixels, float32

    @classmethod
    def of(
        cls, shape: Shape, patch_size: int, specials: int, settings: Settings, device: torch.device,
        reference: bool = True,
    ) -> Prepared:  # fmt: skip
        """For images of these sizes with `specials` special tokens per view. `reference`: there is a reference view."""
        packing, shards = Packing.of(shape, patch_size, specials), current()
        sizes = shape.sizes if shards is None else shards.sizes
        whole = packing if shards is None else Packing.of(Shape(sizes), patch_size, specials)
        return cls(
            packing,
            whole,
            Plans(whole, settings.query_tiles, settings.crossover, device, reference),
            torch.arange(whole.tokens, device=device, dtype=torch.int32),
            [torch.tensor(bucket.views, device=device) + first_view() for bucket in packing.buckets],
            torch.tensor(packing.places, device=device),
            torch.tensor(whole.places, device=device),
            torch.tensor(sizes, device=device).float(),
        )

    def by_view(self, parts: Sequence[Tensor]) -> Tensor:
        """Values (S_b, …) per bucket → (S, …) of all views, in the order of the views."""
        own = parts[0] if len(parts) == 1 else torch.cat(list(parts))[self.own_places]
        return gather(own[None])[0]


@dataclass
class Tokens:
    """The tokens of one pass and what the blocks need to know about them. By default there is no RoPE and no reference
    view.
    """

    x: Tensor  # (T, C), changed in place
    prepared: Prepared
    ropes: Sequence[RopeTable | None] = ()  # for attention within views: one view per bucket
    ropes_across: Sequence[RopeTable | None] = ()  # for attention across views: one view per bucket of all processes
    reference: Tensor | None = None  # position of the reference view in the packed sequence, a scalar tensor

    @property
    def packing(self) -> Packing:
        """The packed layout of the tokens."""
        return self.prepared.packing

    def frames(self) -> list[Tensor]:
        """The tokens of each bucket as a view of x, (S_b, P, C)."""
        return [bucket.frames(self.x) for bucket in self.packing.buckets]


@dataclass(frozen=True)
class Together:
    """Buckets that go through attention together, as `runs` equal runs of tokens; attention stays inside a run."""

    buckets: tuple[Bucket, ...]
    runs: int
    plan: SparsePlan | PackedPlan | None  # None: dense attention


class Product:
    """x Wᵀ of operands (T, C) → (T, R) in `dtype`, without the bias. FP8 weights have one scale per row. With `exact`
    the weight is never FP8.
    """

    def __init__(self, layer: nn.Linear | FP8Linear, settings: Settings, exact: bool = False):
        self.dtype, self.fp8 = settings.dtype, settings.fp8 and not exact
        weight, bias = layer.weight.detach(), bias_of(layer)
        self.bias = (torch.zeros(len(weight), device=weight.device) if bias is None else bias.detach()).float()
        self.weight: Tensor
        if not self.fp8:
            self.weight = weight.to(self.dtype)
            return
        if isinstance(layer, FP8Linear):  # the network has run layer by layer before
            self.weight, scale = layer.weight_fp8, layer.weight_scale
        else:
            self.weight, scale = quantize_rows(weight)
        self.scale = scale[None].contiguous()

    def in_order(self, rows: Tensor) -> Product:
        """The product with its output channels in the order `rows` (R,). Changes this product."""
        self.bias = self.bias[rows]
        kind = self.weight.dtype
        # bytes, because not every torch can index FP8
        self.weight = self.weight.view(torch.uint8)[rows].view(kind) if self.fp8 else self.weight[rows]
        if self.fp8:
            self.scale = self.scale[:, rows].contiguous()
        return self

    def __call__(self, operand: Operand) -> Tensor:
        values, tokens = operand
        if not self.fp8 or tokens is None:
            return F.linear(values, self.weight)
        if values.device.type == "cuda":
            return torch._scaled_mm(
                values, self.weight.T, scale_a=tokens, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        return ((values.float() @ self.weight.float().T) * tokens * self.scale).to(self.dtype)


@dataclass(frozen=True)
class Norm:
    """The parameters of a LayerNorm, float32."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> Norm:
        """The parameters of `norm`."""
        return cls(norm.weight.detach().float(), norm.bias.detach().float(), norm.eps)


def _scale(layer: nn.Module, like: Tensor) -> Tensor:
    """The factors (C,) of a LayerScale, ones without it, as many as `like` has."""
    return layer.gamma.detach().float() if isinstance(layer, LayerScale) else torch.ones_like(like)


class FastBlock:
    """One pre-norm block over rows of tokens (S·P, C). It takes the output of its first norm and returns that of the
    next block's first norm, because norms are fused with the residual addition before them.

    `order` (D,) puts the channels of each head's queries and keys in another order, which changes no attention: the
    kernels know only the RoPE of `rope_table`, so others need their channels where it expects them.
    """

    def __init__(
        self, block: Block, settings: Settings, exact_projection: bool = False, order: Tensor | None = None
    ):  # fmt: skip
        attention = block.attn
        self.heads, self.norm1, self.norm2 = attention.heads, Norm.of(block.norm1), Norm.of(block.norm2)
        mlp = block.mlp
        self.gated = isinstance(mlp, SwiGlu)
        first, second = (mlp.w12, mlp.w3) if isinstance(mlp, SwiGlu) else (mlp.fc1, mlp.fc2)
        self.qkv, self.fc1, self.fc2 = (Product(layer, settings) for layer in (attention.qkv, first, second))
        self.proj = Product(attention.proj, settings, exact_projection)  # see `networks.family.exact_products`
        self.scale1, self.scale2 = (_scale(layer, self.norm1.weight) for layer in (block.ls1, block.ls2))
        self.head_norms: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self.head_eps = 0.0
        if isinstance(attention.q_norm, nn.LayerNorm) and isinstance(attention.k_norm, nn.LayerNorm):
            q, k = Norm.of(attention.q_norm), Norm.of(attention.k_norm)
            self.head_norms, self.head_eps = (q.weight, q.bias, k.weight, k.bias), q.eps
        if order is not None:
            self._reorder(order.to(self.norm1.weight.device))
        self.sparse = SparseLayer.of(attention) if settings.sparse else None

    def _reorder(self, order: Tensor) -> None:
        rows = torch.arange(len(self.qkv.bias), device=order.device).view(3, self.heads, -1)
        self.qkv.in_order(torch.cat([rows[:2, :, order], rows[2:]]).flatten())
        if self.head_norms is not None:
            q_weight, q_bias, k_weight, k_bias = (each[order] for each in self.head_norms)
            self.head_norms = q_weight, q_bias, k_weight, k_bias

    def start(self, x: Tensor, engine: Engine) -> Operand:
        """The output of the first norm of x (T, C), for the first block of a network."""
        norm = self.norm1
        return engine.operators.norm_quant(x, norm.weight, norm.bias, norm.eps, engine.settings.fp8)

    def within(self, tokens: Tokens, operand: Operand, engine: Engine, after: Norm | None) -> Operand:
        """Attention within each view, then the MLP; see `_run`."""
        groups = [
            Together((bucket,), len(bucket.views), tokens.prepared.plans.within(self.sparse, bucket))
            for bucket in tokens.packing.buckets
        ]
        return self._run(tokens, operand, engine, after, groups, tokens.ropes, "frame attention")

    def across(self, tokens: Tokens, operand: Operand, engine: Engine, after: Norm | None) -> Operand:
        """Attention across all views, then the MLP; see `_run`."""
        groups = [Together(tokens.prepared.whole.buckets, 1, self._plan_across(tokens))]
        with across_views():
            return self._run(tokens, operand, engine, after, groups, tokens.ropes_across, "global attention")

    def _plan_across(self, tokens: Tokens) -> SparsePlan | PackedPlan | None:
        """The plan of attention across views; None if it is dense."""
        return tokens.prepared.plans.across(self.sparse)

    def _run(
        self, tokens: Tokens, operand: Operand, engine: Engine, after: Norm | None,
        groups: Sequence[Together], ropes: Sequence[RopeTable | None], kind: str,
    ) -> Operand:  # fmt: skip
        """Updates tokens.x in place. Returns the output of the norm `after`; without one the result is meaningless."""
        ops, fp8, x = engine.operators, engine.settings.fp8, tokens.x
        with engine.stage("linear layers"):
            rows = [self.qkv(operand)]
        del operand
        qkv = rows_of_heads(rows, 3, self.heads)
        with engine.stage(kind):
            heads = [self._split(qkv, group, ropes, tokens, ops) for group in groups]
            del qkv
            parts = []
            for group in groups:
                parts.append(self._attend(heads.pop(0), group, tokens.reference, ops))
            operand = _joined(parts)
        if is_divided():  # quantise only now: the scale of a row is over all heads
            operand = ops.quant(rows_of_tokens(operand[0], self.heads, len(x)), self.proj.fp8)
        with engine.stage("linear layers"):
            y = self.proj(operand)
            operand = ops.add_norm_quant(
                x, y, self.proj.bias, self.scale1, self.norm2.weight, self.norm2.bias, self.norm2.eps, fp8
            )
            del y
            return self._mlp(x, operand, engine, after)

    def _split(
        self, qkv: Tensor, group: Together, ropes: Sequence[RopeTable | None], tokens: Tokens, ops: Operators
    ) -> Tensor:
        """The group's rows of qkv (T, 3·C) → q, k, v (3, H, slots, D), each token in its slot."""
        plan, first, last = group.plan, group.buckets[0].rows.start, group.buckets[-1].rows.stop
        slots = self._rows(last - first) if plan is None else plan.slots
        shape = 3, self.own_heads, slots, qkv.shape[1] // 3 // self.own_heads
        heads = torch.empty(shape, device=qkv.device, dtype=tokens.x.dtype)
        place = tokens.prepared.numbers if plan is None else plan.place
        buckets = tokens.prepared.whole.buckets if is_divided() else tokens.packing.buckets
        bias = own_heads(self.qkv.bias.view(3, self.heads, -1).transpose(0, 1)).transpose(0, 1).flatten()
        for bucket, rope in zip(buckets, ropes or [None] * len(buckets)):
            if bucket not in group.buckets:
                continue
            within = slice(bucket.rows.start - first, bucket.rows.stop - first)
            own = None if plan is None and len(group.buckets) == 1 else place[within]
            empty = plan.empty if plan is not None and bucket is group.buckets[0] else None
            norms = self.head_norms
            ops.split_heads(qkv[bucket.rows], bias, norms, self.head_eps, rope, own, empty, heads)
        return heads

    def _rows(self, tokens: int) -> int:
        """The number of slots of q, k and v for this many tokens of dense attention."""
        return tokens

    @property
    def own_heads(self) -> int:
        """The number of heads of this process in the current attention."""
        return self.heads // ranks_across()

    def _attend(self, heads: Tensor, group: Together, reference: Tensor | None, ops: Operators) -> Operand:
        fp8 = self.proj.fp8 and not is_divided()
        if group.plan is None or self.sparse is None:
            return _dense(heads, group.runs, ops, fp8)
        out = self.sparse.attend(heads, group.plan, ops, reference)
        return ops.merge_heads(out, group.plan.place, len(group.plan.place), fp8)

    def _mlp(self, x: Tensor, operand: Operand, engine: Engine, after: Norm | None) -> Operand:
        ops, fp8 = engine.operators, engine.settings.fp8
        pieces = max(1, -(-len(x) // MLP_TOKENS))
        step = -(-len(x) // pieces // 16) * 16  # FP8 products are faster with multiples of 16 rows
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            values, scales = operand[0][part], None if operand[1] is None else operand[1][part]
            activate = ops.swiglu_quant if self.gated else ops.gelu_quant
            y = self.fc2(activate(self.fc1((values, scales)), self.fc1.bias, fp8))
            if after is None:
                ops.add_scaled(x[part], y, self.fc2.bias, self.scale2)
            else:  # this part of the operand is no longer needed: overwrite it
                ops.add_norm_quant(
                    x[part], y, self.fc2.bias, self.scale2, after.weight, after.bias, after.eps, fp8, (values, scales)
                )
        return operand


def normed(x: Tensor, norm: Norm, engine: Engine) -> Tensor:
    """The norm of the rows of x (T, C), in the dtype of x."""
    found, _ = engine.operators.norm_quant(x, norm.weight, norm.bias, norm.eps, False)
    return found


def encode(blocks: Sequence[FastBlock], norm: Norm | None, tokens: Tokens, engine: Engine) -> None:
    """Run the blocks of an image encoder, each within views, and then its last norm. Changes `tokens.x`."""
    operand = blocks[0].start(tokens.x, engine)
    for block, after in zip(blocks, [*blocks[1:], None]):
        operand = block.within(tokens, operand, engine, None if after is None else after.norm1)
    if norm is not None:
        tokens.x = normed(tokens.x, norm, engine)


def _joined(parts: Sequence[Operand]) -> Operand:
    """Operands of consecutive rows → one operand."""
    if len(parts) == 1:
        return parts[0]
    values, scales = zip(*parts)
    return torch.cat(values), None if scales[0] is None else torch.cat(scales)


def _dense(heads: Tensor, views: int, ops: Operators, fp8: bool) -> Operand:
    """q, k, v (3, H, views · P, D) → dense attention within each of `views` runs of tokens, rows (views · P, H·D)."""
    if heads.shape[2] == views:  # a token alone attends to itself; cuDNN has no sequences of one token
        return ops.merge_heads(heads[2], None, views, fp8)
    q, k, v = heads.unflatten(2, (views, -1)).transpose(1, 2)  # (V, H, P, D) each
    out = dense(q, k, v, cudnn=heads.is_cuda)
    rows = out.transpose(1, 2)  # (V, P, H, D), contiguous for some kernels
    if rows.is_contiguous():
        return ops.quant(rows.flatten(2).flatten(0, 1), fp8)
    tiles = out.transpose(0, 1).flatten(1, 2).contiguous()  # (H, V · P, D)
    return ops.merge_heads(tiles, None, tiles.shape[1], fp8)
