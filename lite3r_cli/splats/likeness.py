"""Image similarity: PSNR, and SSIM (Wang et al. 2004) with the window of the Gaussian-splatting papers."""

from __future__ import annotations

import functools
import math

import torch

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window, pixels
C1, C2 = 0.01**2, 0.03**2


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """PSNR in dB of two images in [0, 1]."""
    return -10 * math.log10(max(float(torch.mean((a - b) ** 2)), 1e-12))


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean SSIM of two images (3, H, W) in [0, 1], with zero padding as in the code of Kerbl et al. 2023; a scalar."""
    rows, columns = (_blur(size, a.device) for size in a.shape[1:])
    mean_a, mean_b, aa, bb, ab = (rows @ torch.cat([a, b, a * a, b * b, a * b]) @ columns).split(3)
    brightness = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * (ab - mean_a * mean_b) + C2) / (aa - mean_a**2 + bb - mean_b**2 + C2)
    return (brightness * structure).mean()


@functools.cache
def _blur(size: int, device: torch.device) -> torch.Tensor:
    """The window as a matrix (size, size); a matrix product is much faster than a convolution."""
    offsets = torch.arange(size)[:, None] - torch.arange(size)
    taps = torch.exp(-0.5 * (torch.arange(-RADIUS, RADIUS + 1) / SIGMA) ** 2).sum()
    weights = torch.where(offsets.abs() <= RADIUS, torch.exp(-0.5 * (offsets / SIGMA) ** 2), torch.zeros(()))
    return (weights / taps).to(device)
