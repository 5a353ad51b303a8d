"""The heads of the fast path: tapped tokens are normalised and projected as soon as they exist, a few frames at a time,
so that no full token map outlives its layer; convolutions run with channels last.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.backbones.buckets import HALF_PRECISION, cast_products, trunk_precision
from lite3r_cli.backbones.heads.camera_vggt import CameraHead
from lite3r_cli.backbones.heads.dpt import DPTHead, _add_position, _resize
from lite3r_cli.fast.layers import Engine, Norm, Settings


class FastDepthHead:
    """A DPT head whose first step, norm and projection of a tap (S, P, 2C), is a call of its own."""

    def __init__(self, head: DPTHead, settings: Settings):
        self.settings, self.norm = settings, Norm.of(head.norm)
        self.projections = [
            (p.weight.detach().flatten(1).to(settings.dtype), p.bias.detach().to(settings.dtype)) for p in head.projects
        ]
        self.precision, self.patch_size = head.position_precision, head.patch_size
        self.head = _shallow(head, ("resize_layers", "scratch")).to(settings.dtype, memory_format=torch.channels_last)
        self.last = copy.deepcopy(head.scratch.output_conv2[2]).float()  # depth is its exponential: kept exact

    def project(self, i: int, near: Tensor, far: Tensor, specials: int, engine: Engine) -> Tensor:
        """The i-th tap's halves (S, P, C), each → (S, N, C_i), special tokens left out."""
        weight, bias = self.projections[i]
        views, tokens, channels = near.shape
        out = near.new_empty(views, tokens - specials, len(weight))
        for first in range(0, views, self.settings.head_frames):
            part = slice(first, first + self.settings.head_frames)
            x = torch.cat([near[part, specials:], far[part, specials:]], dim=-1)
            norm = self.norm
            x, _ = engine.operators.norm_quant(x.flatten(0, 1), norm.weight, norm.bias, norm.eps, False)
            out[part] = F.linear(x, weight, bias).unflatten(0, (-1, tokens - specials))
        return out

    def decode(self, maps: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Four projected maps (S, N, C_i) → depth and confidence (S, H, W) float32."""
        views, aspect = len(maps[0]), columns / rows
        depth, confidence = (
            torch.empty(views, self.patch_size * rows, self.patch_size * columns, device=maps[0].device) for _ in range(2)
        )
        for first in range(0, views, self.settings.head_frames):
            part = slice(first, first + self.settings.head_frames)
            levels = [self._level(i, m[part], rows, columns, aspect) for i, m in enumerate(maps)]
            raw = self._values(levels, rows, columns)
            depth[part], confidence[part] = raw[:, 0].exp(), raw[:, 1].exp() + 1
        return depth, confidence

    def _level(self, i: int, tokens: Tensor, rows: int, columns: int, aspect: float) -> Tensor:
        x = tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)  # channels last in memory already
        x = self.head.resize_layers[i](_add_position(x, aspect, self.precision))
        return getattr(self.head.scratch, f"layer{i + 1}_rn")(x)

    def _values(self, levels: list[Tensor], rows: int, columns: int) -> Tensor:
        scratch = self.head.scratch
        top = scratch.output_conv1(self.head.fuse(levels, rows, columns))
        top = _resize(top, (self.patch_size * rows, self.patch_size * columns))
        top = _add_position(top, columns / rows, self.precision)
        return self.last(F.relu(scratch.output_conv2[0](top)).float())


def _shallow(head: DPTHead, kept: tuple[str, ...]) -> DPTHead:
    """A copy of a head with some of its parts only; the second fusion chain of rays is left out."""
    twin = copy.copy(head)
    twin._modules = {name: copy.deepcopy(part) for name, part in head._modules.items() if name in kept}
    for name in [n for n in twin.scratch._modules if n.endswith("_aux")]:
        del twin.scratch._modules[name]
    return twin.eval()


class _Half(nn.Module):
    """A block whose matrix products run in half precision; its residual stream stays as it is."""

    def __init__(self, block: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.block, self.dtype = block, dtype
        cast_products(block, dtype)

    def forward(self, x: Tensor) -> Tensor:
        with trunk_precision(x.device, self.dtype):
            return self.block(x)


def fast_camera_head(head: CameraHead, settings: Settings) -> CameraHead:
    """A copy whose transformer has weights in half precision; poses and what makes them stay in float32."""
    twin = copy.deepcopy(head).float().eval()
    if settings.dtype in HALF_PRECISION:
        twin.trunk = nn.ModuleList(_Half(block, settings.dtype) for block in twin.trunk)
    return twin
