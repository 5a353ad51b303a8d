"""Dense prediction from four levels of tokens (DPT, Ranftl et al., arXiv 2103.13413), in the form of VGGT and
Depth-Anything-3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.vit import ModulesOf


@dataclass(frozen=True)
class DPTConfig:
    """The sizes of a DPT head."""

    in_channels: int  # of the tokens
    features: int  # channels of the fused maps
    stage_channels: tuple[int, int, int, int]  # of the four levels before fusion
    out_channels: int = 2
    relu_skip: bool = False  # VGGT's residual units add relu(x) on the skip connection, the others x
    double_position: bool = False  # VGGT evaluates the position embedding in float64


def uv_embedding(
    channels: int, height: int, width: int, aspect: float, like: Tensor, precision: torch.dtype = torch.float32
) -> Tensor:
    """Sine-cosine embedding (1, channels, height, width) of the position in an image with the given width / height
    ratio; channels last in memory.
    """
    make = _uv_tables if torch.compiler.is_compiling() else _kept_uv_tables
    across, down = make(channels, height, width, aspect, like.device, like.dtype, precision)
    table = torch.cat([across.expand(height, -1, -1), down[:, None].expand(-1, width, -1)], dim=-1)
    return table.permute(2, 0, 1)[None]


def _uv_tables(
    channels: int, height: int, width: int, aspect: float, device: torch.device, dtype: torch.dtype,
    precision: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The parts of `uv_embedding` that depend on the column (width, C/2) and on the row (height, C/2)."""
    diagonal = (aspect**2 + 1) ** 0.5
    span_x, span_y = aspect / diagonal, 1 / diagonal
    end_u, end_v = span_x * (width - 1) / width, span_y * (height - 1) / height
    u = torch.linspace(-end_u, end_u, width, device=device, dtype=torch.float32)
    v = torch.linspace(-end_v, end_v, height, device=device, dtype=torch.float32)
    quarter = channels // 4
    omega = 1.0 / 100.0 ** (torch.arange(quarter, device=device, dtype=precision) / quarter)
    ux, vy = u[:, None] * omega, v[:, None] * omega  # (W, C/4), (H, C/4)
    return torch.cat([ux.sin(), ux.cos()], 1).to(dtype), torch.cat([vy.sin(), vy.cos()], 1).to(dtype)


@lru_cache(maxsize=128)
def _kept_uv_tables(*arguments: Any) -> tuple[Tensor, Tensor]:
    """`_uv_tables`, kept: in a profile of a batch on a GPU they took a fifth of the time of the network's calls."""
    with torch.inference_mode(False), torch.no_grad():  # also for training
        return _uv_tables(*arguments)


def add_position(x: Tensor, aspect: float, precision: torch.dtype = torch.float32) -> Tensor:
    """x (B, C, h, w) plus a tenth of `uv_embedding`."""
    return torch.add(x, uv_embedding(x.shape[1], x.shape[2], x.shape[3], aspect, x, precision), alpha=0.1)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """Two 3×3 convolutions with a skip connection, x (B, C, h, w) → (B, C, h, w)."""

    def __init__(self, features: int, relu_skip: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.relu_skip = relu_skip

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(x)
        return self.conv2(F.relu(self.conv1(active))) + (active if self.relu_skip else x)


class FusionBlock(nn.Module):
    """Adds the lateral map of this level to the coarser map, refines it, and resizes it for the next level."""

    def __init__(self, features: int, relu_skip: bool, lateral: bool = True):
        super().__init__()
        if lateral:
            self.resConfUnit1 = ResidualConvUnit(features, relu_skip)
        self.resConfUnit2 = ResidualConvUnit(features, relu_skip)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, top: Tensor, lateral: Tensor | None, size: Sequence[int]) -> Tensor:
        if lateral is not None:
            top = top + self.resConfUnit1(lateral)
        return self.out_conv(_resize(self.resConfUnit2(top), size))


class Scratch(nn.Module):
    """The layers of a head that work on feature maps. Checkpoints use this name."""

    output_conv1: nn.Conv2d
    output_conv2: nn.Sequential
    output_conv1_aux: nn.ModuleList  # of DualDPTHead
    output_conv2_aux: nn.ModuleList


class DPTHead(nn.Module):
    """Four token maps (B, N, Cin) of an h×w patch grid → raw values (B, out_channels, p·h, p·w), p = patch size."""

    FINEST = 8  # size of the last fused map relative to the patch grid

    def __init__(self, config: DPTConfig, patch_size: int = 14):
        super().__init__()
        self.patch_size = patch_size
        self.position_precision = torch.float64 if config.double_position else torch.float32
        features, stages, skip = config.features, config.stage_channels, config.relu_skip
        self.norm = nn.LayerNorm(config.in_channels, eps=1e-5)
        self.projects: ModulesOf[nn.Conv2d] = ModulesOf(nn.Conv2d(config.in_channels, c, 1) for c in stages)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(stages[0], stages[0], 4, 4),
                nn.ConvTranspose2d(stages[1], stages[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(stages[3], stages[3], 3, 2, 1),
            ]
        )
        self.scratch = Scratch()
        for i, channels in enumerate(stages, 1):
            setattr(self.scratch, f"layer{i}_rn", nn.Conv2d(channels, features, 3, padding=1, bias=False))
            setattr(self.scratch, f"refinenet{i}", FusionBlock(features, skip, lateral=i < 4))
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, config.out_channels, 1)
        )

    def forward(self, tokens: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """See the class; the grid has `rows` × `columns` patches."""
        return self.decode(self.levels(tokens, rows, columns), rows, columns)

    def levels(self, tokens: Sequence[Tensor], rows: int, columns: int) -> list[Tensor]:
        """Four token maps (B, N, Cin) → feature maps of 4, 2, 1 and ½ times the size of the patch grid."""
        return [self._level(i, t, rows, columns, columns / rows) for i, t in enumerate(tokens)]

    def fuse(self, levels: Sequence[Tensor], rows: int, columns: int, suffix: str = "") -> Tensor:
        """Fuse the levels from coarse to fine → (B, features, FINEST·rows, FINEST·columns)."""
        top, lateral = levels[3], None
        for i in (4, 3, 2, 1):
            size = levels[i - 2].shape[-2:] if i > 1 else (self.FINEST * rows, self.FINEST * columns)
            top = getattr(self.scratch, f"refinenet{i}{suffix}")(top, lateral, size)
            lateral = levels[i - 2] if i > 1 else None
        return top

    def decode(self, levels: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """The output of `forward` from the feature maps of `levels`."""
        top = self.scratch.output_conv1(self.fuse(levels, rows, columns))
        top = _resize(top, (self.patch_size * rows, self.patch_size * columns))
        return self.scratch.output_conv2(add_position(top, columns / rows, self.position_precision))

    def _level(self, i: int, tokens: Tensor, rows: int, columns: int, aspect: float) -> Tensor:
        x = self.norm(tokens).transpose(1, 2).unflatten(2, (rows, columns))
        x = add_position(self.projects[i](x), aspect, self.position_precision)
        x = self.resize_layers[i](x.contiguous(memory_format=torch.channels_last))
        return getattr(self.scratch, f"layer{i + 1}_rn")(x.contiguous(memory_format=torch.channels_last))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DualDPTHead(DPTHead):
    """A DPT head with a second fusion chain for rays (Depth-Anything-3): 7 channels at 8 times the patch grid's size.

    Checkpoints also hold ray outputs for three coarser levels. Only training used them; they are never computed here.
    """

    RAY_CHANNELS = 7  # direction (3), origin (3), confidence

    def __init__(self, config: DPTConfig, patch_size: int = 14):
        super().__init__(config, patch_size)
        features, half = config.features, config.features // 2
        for i in range(1, 5):
            setattr(self.scratch, f"refinenet{i}_aux", FusionBlock(features, config.relu_skip, lateral=i < 4))
        widths = (features, half, features, half, features, half)
        norm = ChannelNorm(32, eps=1e-5)  # one module, which checkpoints hold under four names
        self.scratch.output_conv1_aux = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))) for _ in range(4)
        )
        self.scratch.output_conv2_aux = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(half, 32, 3, padding=1), nn.Identity(), norm, nn.Identity(), nn.ReLU(),
                nn.Conv2d(32, self.RAY_CHANNELS, 1),
            )
            for _ in range(4)
        )  # fmt: skip

    def decode_rays(self, levels: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """Feature maps of `levels` → raw ray values (B, 7, 8·rows, 8·columns), see RAY_CHANNELS."""
        top = self.scratch.output_conv1_aux[3](self.fuse(levels, rows, columns, "_aux"))
        return self.scratch.output_conv2_aux[3](add_position(top, columns / rows))
