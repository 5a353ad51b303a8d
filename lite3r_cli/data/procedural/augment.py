"""Photometric augmentation: exposure, white balance, tone, vignette, blur, noise, borders and JPEG artefacts.

Most parameters are drawn once per scene (one camera, one light) and vary a little from view to view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

from lite3r_cli.errors import UsageError

Tensor = torch.Tensor

# Annex K of the JPEG standard.
LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92,
    95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99,
    99, 99, 99, 99,
) + (99,) * 32  # fmt: skip
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@dataclass(frozen=True)
class AugmentConfig:
    """Largest strength of each effect; `…_view` is the largest deviation of a view from its scene."""

    exposure: float = 0.5  # stops
    exposure_view: float = 0.15
    automatic: float = 0.25  # share of scenes whose views differ more, by up to `automatic_view` further stops
    automatic_view: float = 0.6
    dark: float = 0.2  # share of scenes that are under-exposed by up to `darkest` further stops
    darkest: float = 2.5
    white_balance: float = 0.1
    white_balance_view: float = 0.02
    lamplight: float = 0.2  # share of scenes with another white balance, up to `cast` in each channel
    cast: float = 0.3
    contrast: float = 0.3
    gamma: float = 0.25
    saturation: float = 0.5
    grey: float = 0.03  # share of scenes without colour
    vignette: float = 0.35
    blur: float = 1.0  # largest weight of a 5 × 5 blur
    moved: float = 0.1  # share of views with motion blur
    motion: float = 0.006  # largest motion to either side of the middle of the exposure, relative to the longer side
    sharpen: float = 0.8
    noise: float = 0.03
    noise_dark: float = 2.0  # factor on the noise of under-exposed scenes
    framed: float = 0.05  # share of scenes with a plain border of up to `border` of each side, as undistorting leaves
    border: float = 0.025
    jpeg: float = 0.7  # share of views with JPEG artefacts
    quality: tuple[int, int] = (35, 96)  # JPEG quality, lowest and highest

    def __post_init__(self) -> None:
        if self.darkest < 0:
            raise UsageError(f"the darkest exposure {self.darkest} must be given in stops below, not negative")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise UsageError(f"JPEG quality {self.quality} must be an increasing pair between 1 and 100")


@cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """DCT of a flattened 8 × 8 block (64, 64), quantisation tables (3, 64), colour matrices, blur kernel (5,)."""
    k = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * torch.pi / 16) * 0.5
    basis[0] *= 0.5**0.5
    tables = torch.tensor([LUMA, CHROMA, CHROMA], dtype=torch.float32)
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    parts = (torch.kron(basis, basis).float(), tables, torch.tensor(TO_YCC), torch.tensor(TO_RGB), kernel)
    return tuple(p.to(device) for p in parts)  # type: ignore[return-value]


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Artefacts of JPEG (ITU-T T.81): YCbCr, 4:2:0, 8 × 8 DCT and quantisation, without the entropy coder.

    `images` (N, 3, H, W) in [0, 1], `quality` (N,) in 1 … 100; returns (N, 3, H, W).
    """
    basis, tables, to_ycc, to_rgb, _ = _constants(images.device)
    _n, _, h, w = images.shape
    padded = F.pad(images, (0, -w % 16, 0, -h % 16), mode="replicate")
    ycc = torch.einsum("cd,ndhw->nchw", to_ycc, padded) * 255
    scale = torch.where(quality < 50, 50 / quality.clamp(min=1), 2 - quality / 50).clamp(min=0.01)
    table = (tables * scale[:, None, None]).clamp(1, 255)  # (N, 3, 64)
    luma = _quantise(ycc[:, :1] - 128, table[:, :1], basis) + 128
    chroma = _quantise(F.avg_pool2d(ycc[:, 1:], 2), table[:, 1:], basis)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("cd,ndhw->nchw", to_rgb, torch.cat([luma, chroma], 1))
    return (rgb / 255).clamp(0, 1)[..., :h, :w]


def _quantise(x: Tensor, table: Tensor, basis: Tensor) -> Tensor:
    """`x` (N, C, H, W) after DCT, rounding to multiples of `table` (N, C, 64), and inverse DCT."""
    # one product with a (64, 64) matrix each way: batched 8 × 8 products are much slower on a GPU
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(n, c, -1, 64)
    table = table[:, :, None]
    blocks = (torch.round(blocks @ basis.T / table) * table) @ basis
    return blocks.reshape(n, c, h // 8, w // 8, 8, 8).transpose(3, 4).reshape(n, c, h, w)


def _blurred(x: Tensor) -> Tensor:
    """Binomial 5 × 5 blur of (N, 3, H, W)."""
    k = _constants(x.device)[-1].to(x.dtype)
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n * c, 1, h, w), (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(x, k.reshape(1, 1, 1, 5)), k.reshape(1, 1, 5, 1)).reshape(n, c, h, w)


def augment(images: Tensor, generator: torch.Generator, config: AugmentConfig = AugmentConfig()) -> Tensor:
    """`images` (B, S, 3, H, W) in [0, 1] with all effects applied, same shape.

    `generator` must be on the device of `images`.
    """
    b, s, _, h, w = images.shape
    device = images.device

    def scene(*shape: int) -> Tensor:  # uniform in [-1, 1], one draw per scene
        return (
            (2 * torch.rand((b, 1, *shape), generator=generator, device=device) - 1)
            .expand(b, s, *shape)
            .reshape(b * s, *shape)
        )

    def view(*shape: int) -> Tensor:
        return 2 * torch.rand((b * s, *shape), generator=generator, device=device) - 1

    x = images.reshape(b * s, 3, h, w)
    dark = scene(1, 1, 1) < 2 * config.dark - 1
    x = _tone(x, scene, view, dark, config)
    y, z = torch.meshgrid(
        torch.linspace(-1, 1, h, device=device), torch.linspace(-1, 1, w, device=device), indexing="ij"
    )
    fall = 0.5 * (y * y + z * z)
    x = x * (1 - config.vignette * scene(1, 1, 1).clamp(min=0) * fall)
    x = x + (_moved(x, generator, math.ceil(config.motion * max(h, w))) - x) * (view(1, 1, 1) < 2 * config.moved - 1)
    soft = _blurred(x)
    amount = view(1, 1, 1)  # below -0.33: sharpened; above 0.33: blurred; a third of the views: unchanged
    blur = (amount - 0.33).clamp(min=0) / 0.67 * config.blur
    sharp = (-amount - 0.33).clamp(min=0) / 0.67 * config.sharpen
    x = x + (soft - x) * (blur - sharp)
    sigma = config.noise * (0.25 * view(1, 1, 1) + 0.75 * scene(1, 1, 1)).clamp(min=0)
    sigma = sigma * torch.where(dark, config.noise_dark, 1.0)
    grain = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype)
    x = (x + grain * sigma * (0.4 + x.clamp(0, 1).sqrt())).clamp(0, 1)
    edge = 1 - config.border * (1 + view(1, 1, 1))
    outside = (torch.maximum(y.abs(), z.abs()) > edge) & (scene(1, 1, 1) < 2 * config.framed - 1)
    x = torch.where(outside, (scene(1, 1, 1) > 0).to(x.dtype), x)
    low, high = config.quality
    quality = low + (high - low) * (0.5 + 0.4 * scene() + 0.1 * view())
    chosen = scene(1, 1, 1) < 2 * config.jpeg - 1
    return torch.where(chosen, jpeg(x, quality), x).reshape(b, s, 3, h, w)


def _moved(x: Tensor, generator: torch.Generator, most: int) -> Tensor:
    """Motion blur of (N, 3, H, W): the mean of five copies along a line; all images move in one direction."""
    offsets = torch.randint(-most, most + 1, (2,), generator=torch.Generator().manual_seed(generator.initial_seed()))
    down, right = offsets.tolist()  # drawn on the CPU: reading back from a GPU would wait for it
    h, w = x.shape[-2:]
    padded = F.pad(x, (most, most, most, most), mode="replicate")
    total = torch.zeros_like(x)
    for k in (-1.0, -0.5, 0.0, 0.5, 1.0):
        top, left = most + round(k * down), most + round(k * right)
        total += padded[..., top : top + h, left : left + w]
    return total / 5


def _tone(x: Tensor, scene, view, dark: Tensor, config: AugmentConfig) -> Tensor:
    """Exposure, white balance, gamma, contrast, saturation; `dark` (N, 1, 1, 1) are under-exposed."""
    apart = torch.where(scene(1, 1, 1) < 2 * config.automatic - 1, config.automatic_view, 0.0)
    gain = torch.exp2(config.exposure * scene(1, 1, 1) + (config.exposure_view + apart) * view(1, 1, 1))
    dim = torch.exp2(-config.darkest * scene(1, 1, 1).abs())
    gain = gain * torch.where(dark, dim, 1.0)
    cast = torch.where(scene(1, 1, 1) < 2 * config.lamplight - 1, config.cast, config.white_balance)
    balance = 1 + cast * scene(3, 1, 1) + config.white_balance_view * view(3, 1, 1)
    linear = x.square() * gain * balance
    x = (linear / (1 + linear.square().square()).sqrt().sqrt()).clamp(min=1e-6)  # soft shoulder instead of a hard clip
    x = torch.pow(x, 0.5 * torch.exp(config.gamma * scene(1, 1, 1)))
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * torch.exp(config.contrast * scene(1, 1, 1))
    grey = x.mean(1, keepdim=True)
    saturation = torch.where(scene(1, 1, 1) < 2 * config.grey - 1, 0.0, 1 + config.saturation * scene(1, 1, 1))
    return (grey + (x - grey) * saturation).clamp(0, 1)
