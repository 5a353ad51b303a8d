"""FP8 E4M3 storage of weights with one float32 scale per output row.

A row w is stored as round_e4m3(w / s) with s = max|w| / 448, so that w ≈ s · stored; 448 is the largest E4M3 value.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
E4M3_MAX = 448.0


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (R, …) → E4M3 values (R, …) and scales (R,) float32; a row of zeros gets scale 1."""
    rows = weight.detach().float().flatten(1)
    scale = rows.abs().amax(1) / E4M3_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / scale[:, None]).to(FP8).view(weight.shape), scale


def dequantize_rows(values: Tensor, scale: Tensor) -> Tensor:
    """E4M3 values (R, …) and scales (R,) → weight (R, …) float32."""
    return (values.float().flatten(1) * scale[:, None]).view(values.shape)


def round_to_fp8(weight: Tensor) -> Tensor:
    """The weight (R, …) after a round trip through FP8, in its own dtype."""
    return dequantize_rows(*quantize_rows(weight)).to(weight.dtype)
