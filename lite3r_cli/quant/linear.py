"""FP8 linear layers: y = x Wᵀ + b with both operands rounded to E4M3, one scale per token and one per output row.

    x ≈ sₓ · X,  W ≈ s_w · W₈:      y[t, r] = sₓ[t] · s_w[r] · Σ X[t, c] · W₈[r, c] + b[r]      (sums in float32)

Back ends: `emulate` on any device; `scaled-mm` (torch._scaled_mm with row-wise scales) on GPUs with FP8; `te`
(Transformer Engine, `te.py`) with one scale per tensor. For training, `fake_quant` rounds in the forward pass with a
straight-through gradient (Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.quant.fp8 import E4M3_MAX, dequantize_rows, quantize_rows


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations (…, C) → E4M3 values (…, C) and scales (…, 1) float32, one per token; zeros get scale 1."""
    wide = x.detach().float()
    scale = wide.abs().amax(-1, keepdim=True) / E4M3_MAX
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (wide / scale).to(torch.float8_e4m3fn), scale


class _FakeQuant(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        values, scale = quantize_tokens(x)
        return (values.float() * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def fake_quant(x: Tensor) -> Tensor:
    """x (…, C) rounded to E4M3 with one scale per row, in its own dtype; the gradient is that of the identity."""
    result: Tensor = _FakeQuant.apply(x)  # type: ignore[no-untyped-call]
    return result


def emulated(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (T, C), weight (R, C) E4M3, scale (R,), bias (R,) → (T, R) in the dtype of x, computed in float32."""
    values, tokens = quantize_tokens(x)
    out = (values.float() @ weight.float().T) * tokens * scale
    return (out if bias is None else out + bias.float()).to(x.dtype)


def scaled_mm(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """`emulated` in the tensor cores, with a bfloat16 result. Both sides of the weight must be multiples of 16."""
    values, tokens = quantize_tokens(x)
    half = None if bias is None else bias.bfloat16()
    out = torch._scaled_mm(
        values, weight.T, scale_a=tokens, scale_b=scale[None], bias=half, out_dtype=torch.bfloat16
    )  # fmt: skip
    return out.to(x.dtype)


PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "emulate": emulated,
    "scaled-mm": scaled_mm,
}


def bias_of(dense: nn.Linear | FP8Linear) -> Tensor | None:
    """The bias (R,) that a layer adds, multiplied by its `bias_mask` if it has one; None without bias."""
    mask = getattr(dense, "bias_mask", None)
    return dense.bias if mask is None or dense.bias is None else dense.bias * mask


class FP8Linear(nn.Module):
    """A Linear for inference: the weight is stored in E4M3, activations are rounded token by token. No gradients."""

    weight_fp8: Tensor  # (R, C) float8_e4m3fn
    weight_scale: Tensor  # (R,) float32
    bias: Tensor | None

    def __init__(self, dense: nn.Linear, backend: str):
        super().__init__()
        self.in_features, self.out_features, self.backend = dense.in_features, dense.out_features, backend
        values, scale = quantize_rows(dense.weight)
        self.register_buffer("weight_fp8", values)
        self.register_buffer("weight_scale", scale)
        bias = bias_of(dense)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """The dequantised weight (R, C) float32."""
        return dequantize_rows(self.weight_fp8, self.weight_scale)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        flat = x.to(dtype).flatten(0, -2)
        out = PRODUCTS[self.backend](flat, self.weight_fp8, self.weight_scale, self.bias)
        result: Tensor = out.unflatten(0, x.shape[:-1])
        return result

    def extra_repr(self) -> str:
        bias = self.bias is not None
        kinds = "weight=e4m3 by row, activation=e4m3 by token"
        return f"{self.in_features}, {self.out_features}, bias={bias}, {kinds}, {self.backend}"


class FakeQuantLinear(nn.Linear):
    """A Linear for FP8-aware training: weights keep their precision, the forward pass rounds both operands."""

    @classmethod
    def of(cls, dense: nn.Linear) -> FakeQuantLinear:
        """A layer that shares the parameters of `dense`."""
        out = cls.__new__(cls)
        nn.Module.__init__(out)
        out.in_features, out.out_features = dense.in_features, dense.out_features
        out.weight, out.bias = dense.weight, dense.bias
        mask = getattr(dense, "bias_mask", None)
        if mask is not None:
            out.register_buffer("bias_mask", mask)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(fake_quant(x), fake_quant(self.weight), bias_of(self))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rounded to e4m3 with straight-through gradients"
