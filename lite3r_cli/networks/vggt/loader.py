"""Image preparation of VGGT's authors (`crop` mode): the width is fixed, and too tall images are cropped."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from lite3r_cli.networks.pictures import NetworkInput


def fixed_width(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """RGB (H, W, 3) uint8 → input of width `resolution` and proportional height; if it is taller than wide, only the
    central square remains.
    """
    height, width = rgb.shape[:2]
    side = resolution // multiple * multiple
    tall = max(1, round(height * (side / width) / multiple)) * multiple
    resized = _bicubic(rgb, tall, side)
    whole = NetworkInput(resized, (tall, side))
    return whole.crop(side, side) if tall > side else whole


def _bicubic(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bicubic resizing with Pillow's kernel."""
    planes = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
