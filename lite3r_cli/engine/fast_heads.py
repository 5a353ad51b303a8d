"""The heads of the fast path. Tapped tokens are normalised and projected right after their layer, a few frames at a
time, so that full token maps are not kept. Convolutions run with channels last.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.engine.layers import Engine, Norm, Settings
from lite3r_cli.engine.operators import Operators, biased, operators
from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products, trunk_precision
from lite3r_cli.layers.heads.dpt import DPTHead, FusionBlock, ResidualConvUnit, uv_embedding

H = TypeVar("H", bound=nn.Module)


class _Unit:
    """A residual convolution unit without its skip connection, which is fused with the next operation."""

    def __init__(self, unit: ResidualConvUnit):
        (self.weight1, bias1), (self.weight2, bias2) = biased(unit.conv1), biased(unit.conv2)
        self.bias1, self.bias2 = bias1.float(), bias2.float()

    def __call__(self, active: Tensor, ops: Operators) -> Tensor:
        """ReLU(x) (B, F, h, w) → the second convolution's output without `bias2`."""
        x = ops.bias_relu(F.conv2d(active, self.weight1, padding=1), self.bias1)
        return F.conv2d(x, self.weight2, padding=1)


class Fusion:
    """A fusion block whose last convolution (1×1) runs before the resizing. The two commute, and
    before it is cheaper.
    """

    def __init__(self, block: FusionBlock):
        self.lateral = _Unit(block.resConfUnit1) if hasattr(block, "resConfUnit1") else None
        self.unit, self.relu_skip = _Unit(block.resConfUnit2), block.resConfUnit2.relu_skip
        weight, bias = biased(block.out_conv)
        self.weight = weight.flatten(1)
        # fold the unit's second bias into the bias of the 1×1 convolution
        self.bias = (self.weight.float() @ self.unit.bias2 + bias.float()).to(self.weight.dtype)

    def __call__(self, top: Tensor | None, level: Tensor, ops: Operators) -> Tensor:
        """The coarser block's output `top` and a level (B, F, h, w), which is overwritten → (B, F,
        h, w), not resized.
        """
        active = F.relu_(level) if self.relu_skip else F.relu(level)
        kept = active if self.relu_skip else level
        if top is not None and self.lateral is not None:  # both are missing at the coarsest level
            total, active = ops.resize_add(top, self.lateral(active, ops), self.lateral.bias2, kept, not self.relu_skip)
            kept = active if total is None else total
        refined = self.unit(active, ops).add_(kept).permute(0, 2, 3, 1)
        out = F.linear(refined.flatten(0, 2), self.weight, self.bias)  # as 2-D rows the product includes the bias
        return out.view(refined.shape).permute(0, 3, 1, 2)


class FastDepthHead:
    """A DPT head in two calls: `project` for each tap as soon as it exists, then `decode`."""

    def __init__(self, head: DPTHead, settings: Settings):
        self.settings, self.norm = settings, Norm.of(head.norm)
        self.operators = operators(head.norm.weight.device, settings.kernels)
        self.projections = [
            (weight.flatten(1).to(settings.dtype), bias.to(settings.dtype))
            for weight, bias in map(biased, head.projects)
        ]
        self.precision, self.patch_size, self.finest = head.position_precision, head.patch_size, head.FINEST
        self._keep_end(head)
        self.head = convolutions(_shallow(head, ("resize_layers", "scratch")), settings.dtype)
        self.fusions = [Fusion(getattr(self.head.scratch, f"refinenet{i}")) for i in (4, 3, 2, 1)]
        self._positions: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}

    def _keep_end(self, head: DPTHead) -> None:
        """Keep what `_end` needs, in float32, since depth is an exponential."""
        hidden, _relu, last = head.scratch.output_conv2
        self.middle_bias, self.hidden_bias = (biased(c)[1].float() for c in (head.scratch.output_conv1, hidden))
        weight, bias = biased(last)
        self.last = weight.float().flatten(1).contiguous(), bias.float()

    def project(self, i: int, near: Tensor, far: Tensor, specials: int, engine: Engine) -> Tensor:
        """Norm and projection of the i-th tap: its two halves `near` and `far` (S, P, C) → (S, N, C_i), without the
        special tokens.
        """
        weight, bias = self.projections[i]
        views, tokens, _channels = near.shape
        out = near.new_empty(views, tokens - specials, len(weight))
        for first in range(0, views, self.settings.head_frames):
            part = slice(first, first + self.settings.head_frames)
            x = torch.cat([near[part, specials:], far[part, specials:]], dim=-1)
            norm = self.norm
            x, _ = engine.operators.norm_quant(x.flatten(0, 1), norm.weight, norm.bias, norm.eps, False)
            torch.addmm(bias, x, weight.T, out=out[part].view(-1, len(weight)))
        return out

    def decode(self, maps: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Four projected maps (S, N, C_i) → depth and confidence (S, H, W) float32."""
        views = len(maps[0])
        depth, confidence = (
            torch.empty(views, self.patch_size * rows, self.patch_size * columns, device=maps[0].device)
            for _ in range(2)
        )
        *positions, last = self._tables(rows, columns)
        for first in range(0, views, self.settings.head_frames):
            part = slice(first, first + self.settings.head_frames)
            levels = [self._level(i, m[part], (rows, columns), positions[i]) for i, m in enumerate(maps)]
            self._end(self._top(levels, rows, columns), last, depth[part], confidence[part])
        return depth, confidence

    def _level(self, i: int, tokens: Tensor, grid: tuple[int, int], position: tuple[Tensor, Tensor]) -> Tensor:
        x = tokens.unflatten(1, grid).permute(0, 3, 1, 2)  # channels last in memory already
        x = self.head.resize_layers[i](self.operators.resize_map(x, grid, position))
        return getattr(self.head.scratch, f"layer{i + 1}_rn")(x)

    def _top(self, levels: list[Tensor], rows: int, columns: int) -> Tensor:
        """Four levels, which are overwritten → their fusion, not resized."""
        first, *others = self.fusions
        top = first(None, levels.pop(), self.operators)
        for fusion in others:
            top = fusion(top, levels.pop(), self.operators)
        return top

    def _end(self, top: Tensor, position: tuple[Tensor, Tensor], depth: Tensor, confidence: Tensor) -> None:
        """The output of `_top` (B, F, h, w) and the last of `_tables` → depth and confidence (B, H, W)."""
        ops, scratch, size = self.operators, self.head.scratch, (depth.shape[1], depth.shape[2])
        top = ops.resize_map(top, (self.finest * size[0] // self.patch_size, self.finest * size[1] // self.patch_size))
        top = ops.resize_map(F.conv2d(top, scratch.output_conv1.weight, padding=1), size, position)
        x = F.conv2d(top, biased(scratch.output_conv2[0])[0], padding=1)
        ops.depth_values(x, self.hidden_bias, *self.last, depth, confidence)

    def _tables(self, rows: int, columns: int) -> list[tuple[Tensor, Tensor]]:
        """Position embeddings of the four levels, and the one that `_end` needs. Cached: they are small, and must exist
        before a graph is captured.
        """
        if (rows, columns) not in self._positions:
            found = [self._position(len(weight), rows, columns, columns / rows) for weight, _ in self.projections]
            self._positions[rows, columns] = [*found, self._last_position(rows, columns)]
        return self._positions[rows, columns]

    def _last_position(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """At full size. Includes the bias of `output_conv1`, because resizing does not change a constant."""
        full = self.patch_size * rows, self.patch_size * columns
        across, down = self._position(len(self.middle_bias), *full, columns / rows)
        by_column, by_row = self.middle_bias.tensor_split(2)
        return across + by_column, down + by_row

    def _position(self, channels: int, height: int, width: int, aspect: float) -> tuple[Tensor, Tensor]:
        """The two parts of the embedding: by column (W, C/2) and by row (H, C/2)."""
        across = uv_embedding(channels, 1, width, aspect, self.norm.weight, self.precision)[0, : channels // 2, 0]
        down = uv_embedding(channels, height, 1, aspect, self.norm.weight, self.precision)[0, channels // 2 :, :, 0]
        return 0.1 * across.T.contiguous(), 0.1 * down.T.contiguous()


def convolutions(part: H, dtype: torch.dtype) -> H:
    """The layers `part` in `dtype`, with channels last in memory."""
    return part.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def _shallow(head: DPTHead, kept: tuple[str, ...]) -> DPTHead:
    """A copy of a head with only the parts `kept`, without the second fusion chain for rays."""
    twin = copy.copy(head)
    twin._modules = {name: copy.deepcopy(part) for name, part in head._modules.items() if name in kept}
    for name in [n for n in twin.scratch._modules if n.endswith("_aux")]:
        del twin.scratch._modules[name]
    return twin.eval()


class _Half(nn.Module):
    """A block whose matrix products run in half precision; its residual stream keeps its dtype."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.block, self.dtype = block, dtype
        cast_products(block, dtype)

    def forward(self, x: Tensor) -> Tensor:
        with trunk_precision(x.device, self.dtype):
            return self.block(x)


def fast_camera_head(head: H, settings: Settings, trunk: str = "trunk") -> H:
    """A copy of a camera head whose blocks `trunk` run in half precision; the pose layers stay in float32. Raises
    TypeError if the head has no such list of blocks.
    """
    twin = copy.deepcopy(head).float().eval()
    if settings.dtype in HALF_PRECISION:
        blocks = getattr(twin, trunk, None)
        if not isinstance(blocks, nn.Sequential | nn.ModuleList):
            raise TypeError(f"a camera head for the fast path has a list of blocks `{trunk}`")
        setattr(twin, trunk, nn.ModuleList(_Half(block, settings.dtype) for block in blocks))
    return twin
