"""Every fused operator of the fast path in plain torch, with the same names and arguments as the kernels in
`row_kernels.py`, `block_kernels.py`, `attend_kernels.py` and `map_kernels.py`. These docstrings are the specification
of both.

Tokens are rows (T, C). An operand is a pair (values, scale): E4M3 values (T, C) with a float32 scale per row (T, 1), or
unquantised values in the dtype of the stream with None.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.quant.linear import quantize_tokens

Operand = tuple[Tensor, Tensor | None]
PACK = 256  # an entry of a list of key tiles is tile · PACK + tokens in the tile, so that a kernel loads both at once


@dataclass(frozen=True, eq=False)
class Tiles:
    """Tiles of `width` slots, a power of two. Tokens occupy the first slots of a tile."""

    width: int
    group: int  # query tiles that share a list of key tiles
    lengths: Tensor  # (blocks,) int32, tokens in each tile
    full_rows: Tensor  # (groups,) bool: these groups attend to every key tile
    leading_full_rows: int  # full rows before the first other one; kernels start them first, since they take longest
    packed_ids: Tensor  # (blocks,) int32, tile · PACK + tokens in the tile
    log2_lengths: Tensor  # (blocks,) float32

    @classmethod
    def of(cls, width: int, group: int, lengths: Tensor, exact: Tensor) -> Tiles:
        """Tiles of `width` slots with `lengths` (blocks,) tokens; `exact` (groups,) bool are the full rows."""
        numbers = torch.arange(len(lengths), device=lengths.device, dtype=torch.int32)
        first = int(exact.int().cumprod(0).sum())
        return cls(width, group, lengths, exact, first, numbers * PACK + lengths, lengths.float().log2())


@dataclass(frozen=True, eq=False)
class LinearBranch:
    """The linear branch of one layer: its sums over all tokens, and how it is mixed with the sparse branch."""

    square: Tensor  # (H, D, D) Σ φ(k)ᵀ v
    norm: Tensor  # (H, D) Σ φ(k)
    rest: bool  # whether the sums are over the tiles that a group does not list, instead of over all tiles
    weight: Tensor | None  # (D, D) float32, the sum mix
    alpha: Tensor | None  # (H,) float32, the convex mix


@dataclass(frozen=True, eq=False)
class Summaries:
    """Each key tile as one token (H, blocks, D): mean key, variance of the keys, mean value."""

    keys: Tensor
    spread: Tensor
    values: Tensor


def _operand(wide: Tensor, like: Tensor, fp8: bool) -> Operand:
    return quantize_tokens(wide) if fp8 else (wide.to(like.dtype), None)


def norm_quant(x: Tensor, weight: Tensor, bias: Tensor, eps: float, fp8: bool) -> Operand:
    """LayerNorm of the rows of x (T, C) in float32, as an operand; quantised if `fp8`."""
    return _operand(F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps), x, fp8)


def add_norm_quant(
    x: Tensor, y: Tensor, y_bias: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: float, fp8: bool,
    into: Operand | None = None,
) -> Operand:  # fmt: skip
    """x ← x + γ ⊙ (y + b), in place, then `norm_quant` of x, written into `into` if given."""
    wide = x.float() + gamma.float() * (y.float() + y_bias.float())
    x.copy_(wide)
    found = _operand(F.layer_norm(wide, x.shape[-1:], weight.float(), bias.float(), eps), x, fp8)
    if into is None:
        return found
    for target, value in zip(into, found):
        if target is not None and value is not None:
            target.copy_(value)
    return into


def quant(x: Tensor, fp8: bool) -> Operand:
    """The rows of x (T, C) as an operand; quantised if `fp8`."""
    return quantize_tokens(x) if fp8 else (x, None)


def add_scaled(x: Tensor, y: Tensor, y_bias: Tensor, gamma: Tensor) -> None:
    """x ← x + γ ⊙ (y + b), in place; x, y (T, C), γ, b (C,)."""
    x.copy_(x.float() + gamma.float() * (y.float() + y_bias.float()))


def gelu_quant(x: Tensor, bias: Tensor, fp8: bool) -> Operand:
    """GELU(x + b) with the exact (erf) GELU, as an operand; x (T, C), b (C,)."""
    return _operand(F.gelu(x.float() + bias.float()), x, fp8)


def swiglu_quant(x: Tensor, bias: Tensor, fp8: bool) -> Operand:
    """SiLU(a) ⊙ b with a, b the halves of x + bias, as an operand (T, C); x (T, 2C), bias (2C,)."""
    a, b = (x.float() + bias.float()).chunk(2, dim=-1)
    return _operand(F.silu(a) * b, x, fp8)


def _normed(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weight.float(), bias.float(), eps)


def split_heads(
    qkv: Tensor, bias: Tensor, norms: tuple[Tensor, Tensor, Tensor, Tensor] | None, eps: float,
    rope: tuple[Tensor, Tensor] | None, place: Tensor | None, empty: Tensor | None, out: Tensor,
) -> None:  # fmt: skip
    """qkv (T, 3·H·D) without bias → q, k, v, written into `out` (3, H, slots, D).

    Adds the bias; applies the QK-norm over D with the affine parameters `norms` (q weight, q bias, k weight, k bias)
    and RoPE with the tables cos and sin (period, D), repeated over the tokens; writes token i to slot `place`[i], or
    slot i if it is None; and zeroes the slots `empty`.
    """
    tokens, heads, dim = len(qkv), out.shape[1], out.shape[-1]
    q, k, v = (qkv.float() + bias.float()).view(tokens, 3, heads, dim).permute(1, 2, 0, 3)
    if norms is not None:
        q_weight, q_bias, k_weight, k_bias = norms
        q, k = _normed(q, q_weight, q_bias, eps), _normed(k, k_weight, k_bias, eps)
    if rope is not None:
        cos, sin = (t.float().repeat(tokens // len(t), 1) for t in rope)
        q, k = (_rotated(t, cos, sin) for t in (q, k))
    slots = torch.arange(tokens, device=qkv.device) if place is None else place.long()
    out[:, :, slots] = torch.stack([q, k, v]).to(out.dtype)
    if empty is not None:
        out[:, :, empty.long()] = 0


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b, c, d = x.chunk(4, dim=-1)
    return x * cos + torch.cat([-b, a, -d, c], dim=-1) * sin


def merge_heads(tiles: Tensor, place: Tensor | None, tokens: int, fp8: bool) -> Operand:
    """Attention's output (H, slots, D) → rows (T, H·D), each token from its slot `place` (T,)."""
    rows = tiles[:, :tokens] if place is None else tiles[:, place.long()]
    return _operand(rows.transpose(0, 1).flatten(1).float(), tiles, fp8)


def block_moments(tiles: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over the tokens of each tile: tiles (N, slots, D) of `width` slots with
    `lengths` (blocks,) tokens → both (N, blocks, D) float32.
    """
    known = (torch.arange(width, device=tiles.device) < lengths[:, None])[:, :, None]
    x, count = tiles.float().unflatten(1, (-1, width)), lengths[:, None]
    means = x.masked_fill(~known, 0).sum(2) / count
    return means, (x - means[:, :, None]).masked_fill(~known, 0).square().sum(2) / count


def linear_sums(k: Tensor, v: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Σ φ(k)ᵀ v (H, D, D) and Σ φ(k) (H, D) over all tokens of tiles k, v (H, slots, D), φ = ELU + 1; float32."""
    known = (torch.arange(width, device=k.device) < lengths[:, None]).flatten()[:, None]
    fk = (F.elu(k.float()) + 1).masked_fill(~known, 0)
    return fk.transpose(-1, -2) @ v.float().masked_fill(~known, 0), fk.sum(1)


def select_blocks(scores: Tensor, protected: Tensor, tiles: Tiles, count: int) -> tuple[Tensor, Tensor]:
    """Select `count` blocks per row by scores (H, rows, blocks) float32: protected blocks (blocks,) bool, then those
    with the highest scores; of equal scores, the first.

    Returns their entries (see PACK) in ascending order (H, rows, count) int32, and a uint8 mask of the other blocks.
    """
    ranked = scores.masked_fill(protected, torch.inf).sort(dim=-1, descending=True, stable=True).indices
    chosen = ranked[..., :count].sort(-1).values
    return tiles.packed_ids[chosen], torch.ones_like(scores, dtype=torch.uint8).scatter_(-1, chosen, 0)


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, listed: Tensor, left: Tensor, tiles: Tiles, branch: LinearBranch,
    summaries: Summaries | None,
) -> Tensor:  # fmt: skip
    """The mix of both branches for tiles q, k, v (H, slots, D), with zeros in empty slots → (H, slots, D).

    `tiles.group` query tiles share a list of key tiles: `listed` (H, groups, count) are its entries (see PACK), `left`
    (H, groups, blocks) is the mask of the other tiles. Groups in `tiles.full_rows` attend to every tile.

        O_s = softmax over the tokens of the listed tiles, and with `summaries` over one summary per tile left
        O_l = φ(q) S / (φ(q) · n + ε), with S, n summed over all tokens, or only over the tiles left (`branch.rest`)
        O   = O_s + O_l Wᵀ,   or   α · O_s + (1 − α) · O_l,  with α = 1 for rows that attend to every tile
    """
    _heads, slots, dim = q.shape
    blocks, width = slots // tiles.width, tiles.width
    every = tiles.full_rows | (listed.shape[2] >= blocks)  # (groups,)
    left = (left != 0) & ~every[:, None]

    def of_rows(mask: Tensor) -> Tensor:  # (H, groups, …) → (H, slots, …)
        return mask.repeat_interleave(tiles.group * width, 1)[:, :slots]

    known = (torch.arange(width, device=q.device) < tiles.lengths[:, None]).flatten()
    x, keys, values = q.float(), k.float(), v.float().masked_fill(~known[:, None], 0)
    beyond = of_rows(left)
    logits = x @ keys.transpose(1, 2) * dim**-0.5
    logits = logits.masked_fill(beyond.repeat_interleave(width, 2) | ~known, -torch.inf)
    if summaries is not None:
        more = x @ summaries.keys.float().transpose(1, 2) * dim**-0.5
        more = more + x.square() @ summaries.spread.float().transpose(1, 2) / (2 * dim)
        more = (more + tiles.lengths.log()).masked_fill(~beyond, -torch.inf)
        logits, values = torch.cat([logits, more], dim=-1), torch.cat([values, summaries.values.float()], dim=1)
    exact = logits.softmax(-1) @ values
    fq = F.elu(x) + 1
    if branch.rest:
        seen = beyond.repeat_interleave(width, 2) & known
        features = F.elu(keys.masked_fill(~known[:, None], 0)) + 1
        weights = (fq @ features.transpose(1, 2)) * seen
        linear = weights @ values[:, :slots] / (weights.sum(-1, keepdim=True) + EPSILON)
    else:
        linear = (fq @ branch.square) / (fq @ branch.norm[..., None] + EPSILON)
    if branch.weight is not None:
        return (exact + linear @ branch.weight.T).to(q.dtype)
    assert branch.alpha is not None, "a branch has a weight or an alpha"
    share = torch.where(of_rows(every[None, :, None]), 1, branch.alpha[:, None, None])
    return (share * exact + (1 - share) * linear).to(q.dtype)


def growing_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, before: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """softmax(q kᵀ / √D) v over the first `keys` (1,) int32 tokens of a cache, q (H, N, D), k and v (H, M, D) →
    (H, N, D).

    `before` is the result (H, N, D) over other keys with the logarithm of its softmax's denominator (H, N) float32; the
    result is then over those keys, too.
    """
    count = int(keys)
    logits = q.float() @ k[:, :count].float().transpose(1, 2) * q.shape[2] ** -0.5
    lse, values = logits.logsumexp(-1), logits.softmax(-1) @ v[:, :count].float()
    if before is not None:
        earlier, other = before
        share = (lse - other).sigmoid()[..., None]  # of these keys; NaN without any, as is their result
        values = torch.where(share > 0, share * values.nan_to_num() + (1 - share) * earlier.float(), earlier.float())
    return values.to(q.dtype)


def store_tokens(tokens: Tensor, cache: Tensor, slots: Tensor, moved: int) -> None:
    """Write keys and values of tokens (2, H, P, D) into a cache (2, H, M, D) from slot `slots`[0] on, `slots` (2,)
    int64. Before that, the first `moved` of those that were there are copied to the slots from `slots`[1] on.
    """
    start, target = slots.tolist()
    cache[:, :, target : target + moved] = cache[:, :, start : start + moved].clone()
    cache[:, :, start : start + tokens.shape[2]] = tokens


def resize_map(x: Tensor, size: tuple[int, int], position: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """A map (B, C, h, w) → (B, C, *size), bilinear with corners aligned, plus `position`: a table (W, C/2) by column
    for the first half of the channels and a table (H, C/2) by row for the second half, float32.
    """
    x = F.interpolate(x, size, mode="bilinear", align_corners=True)
    if position is not None:
        across, down = position
        first, second = x.tensor_split([across.shape[1]], dim=1)
        first += across.T[:, None, :]
        second += down.T[:, :, None]
    return x


def resize_add(x: Tensor, y: Tensor, bias: Tensor, skip: Tensor, both: bool) -> tuple[Tensor | None, Tensor]:
    """resize(x) + y + b + skip → the sum (None unless `both`) and its ReLU, maps (B, C, H, W) of the size of y.
    Overwrites y.
    """
    height, width = y.shape[-2:]
    total = y.add_(bias[:, None, None]).add_(skip).add_(resize_map(x, (height, width)))
    return (total, F.relu(total)) if both else (None, total.relu_())


def bias_relu(x: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x + b) of a map (B, C, H, W), in place."""
    return x.add_(bias[:, None, None]).relu_()


def depth_values(x: Tensor, bias: Tensor, weight: Tensor, last_bias: Tensor, depth: Tensor, confidence: Tensor) -> None:
    """The end of a dense head: r = W ReLU(x + b) + b' with x (B, C, H, W) and W (2, C), in float32. Writes exp r₀ into
    `depth` and 1 + exp r₁ into `confidence`, both (B, H, W).
    """
    hidden = F.relu(x.float() + bias[:, None, None])
    raw = hidden.permute(0, 2, 3, 1) @ weight.T + last_bias  # a convolution would use TF32 on a GPU
    depth.copy_(raw[..., 0].exp())
    confidence.copy_(raw[..., 1].exp() + 1)


def add_sums(x: Tensor, y: Tensor | None, bias: Tensor) -> Tensor:
    """Adds y to a map x (B, C, H, W), channels last in memory, in place; returns sums over its pixels, (B, parts, 2, C)
    float32: of x + b, and of its square. The parts are to be added (`group_affine`).
    """
    if y is not None:
        x.add_(y)
    wide = x.float() + bias[:, None, None]
    return torch.stack([wide.sum((2, 3)), wide.square().sum((2, 3))], dim=1)[:, None]


def group_affine(
    sums: Tensor, norm: tuple[Tensor, Tensor, float], bias: Tensor, groups: int, pixels: int
) -> tuple[Tensor, Tensor]:
    """Group norm as scale and shift (B, C), float32, of a map x that lacks its bias b: from `add_sums` of x + b over so
    many pixels. `norm` is weight (C,), offset (C,) and ε.
    """
    weight, offset, eps = norm
    size = sums.shape[-1] // groups
    mean, square = (sums.sum(1).unflatten(-1, (groups, size)).sum(-1) / (pixels * size)).unbind(1)  # (B, groups)
    inverse = (square - mean.square() + eps).rsqrt()
    mean, inverse = (t.repeat_interleave(size, dim=1) for t in (mean, inverse))
    scale = inverse * weight
    return scale, offset + (bias - mean) * scale


def norm_relu_pad(x: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
    """ReLU(scale · x + shift) of a map (B, C, H, W), with scale and shift (B, C) float32, with its border repeated once
    on each side: (B, C, H + 2, W + 2).
    """
    scale, shift = (t[:, :, None, None] for t in affine)
    return _padded(F.relu(x.float() * scale + shift).to(x.dtype))


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="replicate").contiguous(memory_format=torch.channels_last)


def double_pad(cells: Tensor, table: Tensor, spans: tuple[float, float]) -> Tensor:
    """Cells (B, h, w, 4 C), each with its 2 × 2 pixels row by row, → a map (B, C, 2 h + 2, 2 w + 2) with its border
    repeated. To the four pixels of the cell (i, j) are added u · table[0] + v · table[1] + table[2], (4 C,) each, with
    u = span (2 j + 1 − w) / w across and v = span (2 i + 1 − h) / h down.
    """
    _views, height, width, _parts = cells.shape
    u, v = (span * (2 * torch.arange(n, device=cells.device) + 1 - n) / n for span, n in zip(spans, (width, height)))
    x = cells.float() + u[:, None] * table[0] + v[:, None, None] * table[1] + table[2]
    x = x.unflatten(3, (2, 2, -1)).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    return _padded(x.to(cells.dtype))


def enlarge_pad(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, C, h, w) → (B, C, H + 2, W + 2) for size (H, W): bilinear, corners not aligned, its border repeated."""
    return _padded(F.interpolate(x, size, mode="bilinear"))


def pixel_values(x: Tensor, position: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """W ReLU(x + p) + b of a map (B, C, H, W), in float32, where p is the sum of a table (W, C) by column and a table
    (H, C) by row; W is (n, C). Returns (B, n, H, W) float32.
    """
    across, down = position
    hidden = F.relu(x.float() + across.T[:, None, :] + down.T[:, :, None])
    return F.linear(hidden.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def patch_rows(images: Tensor, mean: Tensor, std: Tensor, side: int, width: int, dtype: torch.dtype) -> Tensor:
    """Images (S, 3, H, W) → normalised patches (S, N, width) of side `side`, flattened as (colour, row, column) and
    padded with zeros. `mean` and `std` are (3,).
    """
    pixels = ((images - mean[:, None, None]) / std[:, None, None]).to(dtype)
    pixels = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5)
    pixels = pixels.flatten(3).flatten(1, 2)
    return F.pad(pixels, (0, width - pixels.shape[-1]))
