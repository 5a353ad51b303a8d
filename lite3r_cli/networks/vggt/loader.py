"""How VGGT's authors load a picture (`crop` mode): the width is fixed, and what is then too tall is cropped."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from lite3r_cli.networks.pictures import NetworkInput


def fixed_width(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """(H, W, 3) uint8 → width `resolution`, height in proportion; of a taller picture the middle rows remain."""
    height, width = rgb.shape[:2]
    side = resolution // multiple * multiple
    tall = max(1, round(height * (side / width) / multiple)) * multiple
    resized = _bicubic(rgb, tall, side)
    whole = NetworkInput(resized, (tall, side))
    return whole.crop(side, side) if tall > side else whole


def _bicubic(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bicubic with Pillow's kernel."""
    planes = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
