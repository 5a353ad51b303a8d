"""Transformer Engine as a back end of FP8 linear layers, with its own kernels and one scale per tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lite3r_cli.errors import BackendError
from lite3r_cli.quant.linear import bias_of


def reason_against() -> str | None:
    """Why Transformer Engine cannot run here; None if it can. A broken one may raise more than ImportError."""
    try:
        import transformer_engine.pytorch as te
    except ImportError as error:
        return f"Transformer Engine is not installed ({error}): pip install 'lite3r[te]'"
    except (RuntimeError, OSError) as error:
        return f"Transformer Engine is installed but broken ({str(error).splitlines()[0]})"
    available, reason = _availability(te)
    return None if available else f"Transformer Engine: {reason or 'no FP8 on this GPU'}"


def _availability(te: Any) -> tuple[bool, str]:
    if hasattr(te, "is_fp8_available"):
        available, reason = te.is_fp8_available(return_reason=True)
    else:
        from transformer_engine.pytorch.fp8 import FP8GlobalStateManager

        available, reason = FP8GlobalStateManager.is_fp8_available()
    return bool(available), str(reason)


class TELinear(nn.Module):
    """A Linear computed by Transformer Engine, with one scale per tensor from its current values. No gradients.

    The number of tokens is padded to a multiple of 16, which the kernels need. Raises BackendError if it cannot run.
    """

    def __init__(self, dense: nn.Linear):
        super().__init__()
        if (reason := reason_against()) is not None:
            raise BackendError(f"FP8 back end te: {reason}; use emulate")
        import transformer_engine.pytorch as te
        from transformer_engine.common.recipe import Float8CurrentScaling, Format

        self._te, self._recipe = te, Float8CurrentScaling(fp8_format=Format.E4M3)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        sizes = (dense.in_features, dense.out_features, dense.bias is not None)
        self.inner = te.Linear(*sizes, params_dtype=torch.bfloat16, device=dense.weight.device)
        with torch.no_grad():
            self.inner.weight.copy_(dense.weight)
            if dense.bias is not None:
                self.inner.bias.copy_(bias_of(dense))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2).bfloat16()
        padded = nn.functional.pad(flat, (0, 0, 0, -len(flat) % 16))
        with self._te.fp8_autocast(enabled=True, fp8_recipe=self._recipe):
            out = self.inner(padded)
        result: Tensor = out[: len(flat)].to(x.dtype).unflatten(0, x.shape[:-1])
        return result

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, Transformer Engine, e4m3 by tensor"
