"""Whether a run takes the fused form of its network (`lite3r_cli/engine`), why, and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec

from torch import Tensor, nn

from ..engine.layers import CROSSOVER, Settings
from ..engine.packing import Shape
from ..errors import BackendError
from ..layers.buckets import HALF_PRECISION
from ..networks.base import Backbone, Prediction
from ..networks.fast_form import TwoForms, predict, reason_against
from ..runtime import Choice, Runtime
from .lite import LiteRun

FAST, ORDINARY = "fast", "ordinary"
APPROXIMATE = "attention or products are approximate already"
EXACT = "nothing approximate was asked for; --engine fast is faster and rounds tokens to half precision"


class FastPath:
    """Made for a loaded network, before its linear layers are replaced. "auto" takes the fast path where attention is
    sparse or products are FP8. Raises BackendError where it was asked for and cannot be.
    """

    def __init__(self, asked: str, backbone: Backbone, lite: LiteRun, runtime: Runtime) -> None:
        self.backbone, self.device = backbone, runtime.torch_device
        sparse, fp8 = lite.attention.chosen == "sla", lite.fp8.chosen == "scaled-mm"
        self.settings = Settings(dtype=runtime.torch_dtype, fp8=fp8, sparse=sparse, crossover=CROSSOVER, graphs=False)
        self.forms = TwoForms(backbone, self.settings, self.device)
        if asked == ORDINARY:
            self.choice = Choice(asked, ORDINARY, "asked for")
            return
        self.choice = Choice(asked, FAST, "asked for" if asked == FAST else APPROXIMATE)
        if (reason := self._reason_against(lite)) is not None:
            self._refuse(reason)
        elif asked != FAST and not (sparse or fp8):
            self.choice = replace(self.choice, chosen=ORDINARY, reason=EXACT)

    def _reason_against(self, lite: LiteRun) -> str | None:
        """Of the network and the machine."""
        if not isinstance(self.backbone, nn.Module):
            return f"there is no fast path for {self.backbone.name}"
        if self.device.type != "cuda":
            return "the fast path is for GPUs"
        if find_spec("triton") is None:
            return "the fast path needs Triton, which is not installed"
        if self.settings.dtype not in HALF_PRECISION:
            return "the fast path computes in half precision"
        if lite.fp8.chosen not in ("off", "scaled-mm"):
            return f"the fast path multiplies FP8 by scaled-mm, not by {lite.fp8.chosen}"
        return reason_against(self.backbone, self.settings, self.device)

    def _refuse(self, reason: str) -> None:
        if self.choice.asked == FAST:
            raise BackendError(f"--engine fast: {reason}; use --engine auto")
        self.choice = replace(self.choice, chosen=ORDINARY, reason=reason)

    def predict(self, images: Sequence[Tensor], cameras: Mapping[str, object]) -> tuple[Prediction, float]:
        """The answer for S images (3, H, W) on the device, and the share of key blocks that was skipped."""
        runner = self.forms.fast()
        return predict(runner, images, **cameras), runner.skipped(Shape.of(images))
