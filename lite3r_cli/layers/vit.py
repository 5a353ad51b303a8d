"""Vision-transformer layers shared by all networks: attention with optional QK-norm and 2-D RoPE, blocks, patch and
position embeddings.

Parameter names follow the published checkpoints (`attn.qkv`, `ls1.gamma`, `mlp.fc1`, …), so that a state dict loads
without renaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.activated import gelu_after
from lite3r_cli.layers.dense import dense
from lite3r_cli.layers.view_shards import mix_heads

M = TypeVar("M", bound=nn.Module)
RopeTable = tuple[Tensor, Tensor]  # cos, sin: each (T, D) float32


class HalvesTable(tuple):
    """A RopeTable that pairs channel j of a head with channel j + D/2."""

    @staticmethod
    def axial_order(dim: int) -> Tensor:
        """The order of a head's channels (D,) in which `rope_table` pairs them as this table does."""
        first, second = torch.arange(dim).view(2, 2, -1)  # (2, D/4) each: halves of the first and second partners
        return torch.stack([first, second], dim=1).flatten()


class NeighboursTable(tuple):
    """A RopeTable that pairs channel 2j of a head with channel 2j + 1."""

    @staticmethod
    def axial_order(dim: int) -> Tensor:
        """The order of a head's channels (D,) in which `rope_table` pairs them as this table does."""
        return torch.arange(dim).view(2, -1, 2).transpose(1, 2).flatten()


def rope_table(positions: Tensor, head_dim: int, base: float = 100.0, published: bool = False) -> RopeTable:
    """cos and sin of the 2-D rotary embedding for integer positions (T, 2) as (y, x).

    The first half of a head's channels (d = D/2) is rotated by y, the second by x. Within a half, channel j is paired
    with channel j + d/2 (RoFormer, arXiv 2104.09864; axial form of CroCo v2, arXiv 2211.10408). `published` multiplies
    by reciprocal frequencies instead of dividing, which gives the same rounding as VGGT and Depth-Anything-3.
    """
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, device=positions.device, dtype=torch.float32) / half
    places = positions.float()[:, :, None]
    angle = places * (1 / base**exponent) if published else places / base**exponent  # (T, 2, d/2)
    angle = torch.cat([angle, angle], dim=-1).flatten(1)  # (T, D)
    return angle.cos(), angle.sin()


def patch_positions(rows: int, columns: int, specials: int, device: torch.device | None = None) -> Tensor:
    """Positions (specials + rows·columns, 2) as (y, x): special tokens at (0, 0), the patch in row r and column c at
    (r + 1, c + 1).
    """
    grid = torch.cartesian_prod(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    ).reshape(-1, 2)
    return torch.cat([grid.new_zeros(specials, 2), grid])


def apply_rope(x: Tensor, table: RopeTable) -> Tensor:
    """Rotate x (B, H, T, D) by a table over its T tokens, in float32 or float64; the result has the dtype of x."""
    cos, sin = table
    if isinstance(table, HalvesTable):
        a, b = x.chunk(2, dim=-1)
        return (x * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)
    if isinstance(table, NeighboursTable):
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return (x * cos + turned * sin).to(x.dtype)
    a, b, c, d = x.chunk(4, dim=-1)
    if x.device.type == "cpu" and not torch.is_grad_enabled():  # in place: fewer passes over memory
        turned = x * cos
        for place, (part, sign) in enumerate(((b, -1), (a, 1), (d, -1), (c, 1))):
            turned.chunk(4, dim=-1)[place].addcmul_(part, sin.chunk(4, dim=-1)[place], value=sign)
        return turned.to(x.dtype)
    return (x * cos + torch.cat([-b, a, -d, c], dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over x (B, T, C); QK-norm shares one affine pair between the heads."""

    def __init__(self, dim: int, heads: int, qk_norm: bool = False, qk_norm_eps: float = 1e-5):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm = nn.LayerNorm(dim // heads, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // heads, eps=qk_norm_eps) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: RopeTable | None = None, keys: Tensor | None = None) -> Tensor:
        """x (B, T, C) → (B, T, C). `keys` are the indices of the tokens used as keys; None: all."""
        return self.merge(mix_heads(self.mix, *self.project(x, rope), keys))

    def project(self, x: Tensor, rope: RopeTable | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, H, T, D) of tokens (B, T, C), with RoPE applied, all in the dtype of v."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        return q.to(v.dtype), k.to(v.dtype), v

    def merge(self, out: Tensor) -> Tensor:
        """Merge the heads and project: the output of `mix` or `meet` (B, H, T, D) → (B, T, C)."""
        return self.proj(out.transpose(1, 2).flatten(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
        """softmax(q kᵀ / √D) v over the tokens `keys`, all (B, H, T, D). Other kinds of attention override it."""
        return dense(q, *((k, v) if keys is None else (k[:, :, keys], v[:, :, keys])))

    def meet(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q (B, H, T, D) to all tokens of another sequence, k and v (B, H, M, D)."""
        return dense(q, k, v)


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))) with the exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int, out: int | None = None):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu_after(self.fc1, x))


class SwiGlu(nn.Module):
    """w3(SiLU(a) ⊙ b) with a, b the halves of w12(x) (Shazeer, arXiv 2002.05202). The width is 2/3 of `hidden`, rounded
    up to a multiple of 8.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        width = (hidden * 2 // 3 + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * width)
        self.w3 = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class LayerScale(nn.Module):
    """x (…, C) times a learned factor per channel (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int, init: float = 1e-5):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale: x + ls1·Attn(norm1(x)), then x + ls2·MLP(norm2(x)); x (B, T, C).

    `layer_scale` is its initial value; None: no LayerScale.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        qk_norm: bool = False,
        layer_scale: float | None = 1e-5,
        swiglu: bool = False,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, qk_norm)
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = (SwiGlu if swiglu else Mlp)(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, rope: RopeTable | None = None, keys: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope, keys))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ModulesOf(nn.ModuleList, Generic[M]):
    """A ModuleList with the type of its elements. Parameter names are those of a ModuleList."""

    def __init__(self, modules: Iterable[M] | None = None):
        super().__init__(modules)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[M]: ...

        def __getitem__(self, i: int) -> M: ...  # type: ignore[override]  # no slices


class PatchEmbed(nn.Module):
    """Non-overlapping patches: (B, channels, H, W) → (B, N, C), row-major."""

    def __init__(self, dim: int, patch_size: int = 14, channels: int = 3):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


def resize_position_embedding(
    embedding: Tensor, rows: int, columns: int, antialias: bool = False, offset: float = 0.0
) -> Tensor:
    """A square position embedding (1, G², C) resampled to (1, rows·columns, C), bicubic.

    With `offset` the source coordinate of row r is (r + ½)·G / (rows + offset) − ½, as DINOv2 and networks derived from
    it were trained.
    """
    side = int(embedding.shape[1] ** 0.5)
    if (rows, columns) == (side, side):
        return embedding
    grid = embedding.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    size, scale = (None, ((rows + offset) / side, (columns + offset) / side)) if offset else ((rows, columns), None)
    grid = F.interpolate(grid, size, scale, mode="bicubic", align_corners=False, antialias=antialias)
    return grid.flatten(2).transpose(1, 2)
