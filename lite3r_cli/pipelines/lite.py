"""What a run asks of attention and FP8 arithmetic, from the command line to the report of what was skipped."""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace

import torch
from torch import nn

from ..attention.module import SparseLinearAttention
from ..config import LiteConfig
from ..errors import UsageError
from ..networks.base import Backbone
from ..networks.lite_form import attention_backends, choose_fp8, set_arithmetic, set_attention
from ..networks.sparsify import skipped_share
from ..runtime import Choice, Runtime


class LiteRun:
    """The choices for one network: FP8 before it is loaded, attention after that, what was skipped after it ran.

    Raises UsageError, BackendError for what this machine or network cannot do.
    """

    def __init__(self, config: LiteConfig, runtime: Runtime, trained_for_fp8: bool) -> None:
        self.config, self.dtype = config, runtime.torch_dtype
        self.fp8 = choose_fp8(config, runtime.torch_device, trained_for_fp8)
        self.attention = Choice(config.attention, "dense", "")
        self.shares: list[float] = []  # skipped in each prediction
        self.backends: list[Choice] = []  # of sparse-linear attention, in the last prediction
        self.stay: dict[str, str] = {}  # linear layers that are not in FP8 → why
        self.rounded = False  # whether the linear layers are those of the FP8 back end

    @property
    def loaded_dtype(self) -> torch.dtype:
        """In which the network is to be loaded: FP8 weights are made from float32, in which stored ones are exact."""
        return self.dtype if self.fp8.chosen == "off" else torch.float32

    def apply(self, backbone: Backbone) -> None:
        if not isinstance(backbone, nn.Module):
            if self.config.attention == "sla" or self.config.keep_ratio is not None:
                raise UsageError(f"--attention sla: {backbone.name} has no attention across views")
            self.attention = replace(self.attention, reason=f"{backbone.name} has no attention")
            return
        self.attention = set_attention(backbone, self.config)

    def round(self, backbone: Backbone) -> None:
        """Replace the linear layers by those of the FP8 back end, once; the fast path makes its own."""
        if isinstance(backbone, nn.Module) and self.fp8.chosen != "off" and not self.rounded:
            self.stay, self.rounded = set_arithmetic(backbone, self.fp8.chosen, self.dtype), True

    @property
    def notes(self) -> list[str]:
        chosen = {"attention": self.attention, "FP8": self.fp8}
        return [f"{what}: {c.chosen} ({c.reason})" for what, c in chosen.items() if c.asked != "auto"]

    def ran(self, backbone: Backbone) -> None:
        """Account for a prediction that was just made."""
        if isinstance(backbone, nn.Module):
            self.account(skipped_share(backbone), attention_backends(backbone))

    def account(self, skipped: float, backends: list[Choice]) -> None:
        self.shares.append(skipped)
        self.backends = backends

    def as_dict(self) -> dict[str, dict[str, str]]:
        attention = asdict(self.attention)
        if self.attention.chosen == "sla" and self.shares:
            skipped = f"{100 * statistics.mean(self.shares):.1f} % of the key blocks skipped"
            by = [f"back end {choice.chosen}: {choice.reason}" for choice in self.backends]
            attention["reason"] = "; ".join([attention["reason"], skipped, *by])
        fp8 = asdict(self.fp8)
        if self.stay:
            fp8["reason"] += f"; {len(self.stay)} linear layers stay exact"
        return {"attention": attention, "fp8": fp8}

    def attention_info(self, backbone: Backbone) -> dict[str, object]:
        """For run.json: the share skipped, and what each sparse-linear layer was asked to keep."""
        modules = dict(backbone.named_modules()) if isinstance(backbone, nn.Module) else {}
        kept = {name: m.formula.keep_ratio for name, m in modules.items() if isinstance(m, SparseLinearAttention)}
        return {"skipped_share": statistics.mean(self.shares or [0.0]), "keep_ratios": kept}
