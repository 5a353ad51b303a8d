"""Runs a loaded network as planned by `engine_choice.py`, and records what each prediction used."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.dense import accounted
from ..attention.module import SparseLinearAttention
from ..engine.layers import Settings
from ..engine.packing import Shape
from ..errors import BackendError, UsageError
from ..layers.view_shards import current
from ..networks.arithmetic import set_arithmetic
from ..networks.base import Backbone, Network, Prediction
from ..networks.fast_form import TwoForms
from ..networks.fast_form import predict as fast_predict
from ..networks.layer_steps import Told, told_of_layers
from ..networks.sparsify import apply_sparse, attention_backends, run_with, skipped_share
from ..runtime import Choice
from ..runtime import current as on_device
from . import streams
from .engine_choice import FAST, ORDINARY, Plan

LEFT_OUT = "left out"


@dataclass(frozen=True)
class Ran:
    """What one prediction used."""

    skipped: float  # share of the key blocks across views
    backends: tuple[Choice, ...] = ()  # of sparse-linear attention in the ordinary engine
    engine: Choice | None = None  # None: as planned
    masked: Choice | None = None  # whether pixels that show no scene were left out; None: there were none
    dense: Choice | None = None  # the kernel of most of the dense attention; None: there was none

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Ran:
        """The inverse of `asdict`. Raises KeyError, TypeError, ValueError."""
        choices = {
            name: None if document[name] is None else Choice(**document[name]) for name in ("engine", "masked", "dense")
        }
        return cls(float(document["skipped"]), tuple(Choice(**each) for each in document["backends"]), **choices)


def set_attention(model: nn.Module, plan: Plan) -> None:
    """Set the planned attention of a loaded network, in place. Raises UsageError if it lacks it."""
    if plan.sparse is None:
        run_with(model, "dense")
    else:
        apply_sparse(model, plan.sparse, "auto", plan.crossover)


def fast_settings(plan: Plan, **more: Any) -> Settings:
    """Settings of the fast engine for a plan."""
    return Settings(
        dtype=getattr(torch, plan.dtype),
        fp8=plan.fp8.chosen == "scaled-mm",
        sparse=plan.sparse is not None,
        crossover=plan.crossover,
        query_tiles=plan.query_tiles,
        **more,
    )


class PlannedNetwork:
    """`backbone` was loaded in `plan.loaded_dtype` on `device`; `ran` has one entry per prediction.

    The fast engine makes its own form of the network in `prepare`, or at the first prediction.
    """

    def __init__(self, backbone: Backbone, plan: Plan, device: torch.device) -> None:
        self.backbone, self.plan, self.device = backbone, plan, device
        self.ran: list[Ran] = []
        self.exact: dict[str, str] = {}  # linear layers that are not in FP8 → reason
        self.engine = plan.engine
        self._module = cast(Network, backbone) if isinstance(backbone, nn.Module) else None
        if self._module is None:
            if plan.sparse is not None:
                raise UsageError(f"--attention sla: {backbone.name} has no attention across views")
            return
        set_attention(self._module, plan)
        self._forms = TwoForms(self._module, fast_settings(plan, graphs=False), device)
        if plan.engine.chosen == ORDINARY:
            self._set_arithmetic()

    def _set_arithmetic(self) -> None:
        if self.plan.is_fp8 and self._module is not None:
            self.exact = set_arithmetic(self._module, self.plan.fp8.chosen, getattr(torch, self.plan.dtype))

    def prepare(self) -> None:
        """Make the form for the fast engine before the first prediction, if it is planned."""
        if self._module is not None and self.engine.chosen == FAST:
            with on_device(self.device):
                self._forms.fast()

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        unseen: Sequence[Tensor | None] | None = None,
        tell: Told = lambda where: None,
        **cameras: Any,
    ) -> Prediction:
        """The prediction for S images (3, H, W) on the device. Patches that consist of `unseen` pixels, (H, W) bool of
        each image, are no keys of attention. `tell` reports the layers of the ordinary engine.

        Raises BackendError for unseen pixels if the fast engine was requested by name.
        """
        with on_device(self.device):
            return self._predict(images, unseen, tell, cameras)

    def answer(
        self,
        pictures: Sequence[np.ndarray],
        unseen: Sequence[np.ndarray | None],
        tell: Told = lambda where: None,
        **cameras: Any,
    ) -> Prediction:
        """`predict` for pictures (h, w, 3) uint8 and unseen pixels (h, w) bool. Results are float32: maps on the
        device, cameras on the CPU.
        """
        tensors = streams.inputs(self.backbone, pictures, self.device)
        masks = [None if pixels is None else torch.from_numpy(pixels) for pixels in unseen]
        found = self.predict(tensors, masks, tell, **cameras)
        depth, confidence = ([each.float() for each in part] for part in (found.depth, found.confidence))
        return Prediction(depth, confidence, found.cam_from_world.float().cpu(), found.K.float().cpu())

    def _predict(
        self, images: Sequence[Tensor], unseen: Sequence[Tensor | None] | None, tell: Told, cameras: dict[str, Any]
    ) -> Prediction:
        shards = current()
        masked = self._masked(unseen if shards is None else shards.masks)
        if masked is not None and masked.chosen == LEFT_OUT:
            cameras["unseen"] = unseen
        with accounted() as account:
            prediction, ran = self._run(images, tell, cameras)
        dense = max(account, key=account.__getitem__, default=None)
        self.ran.append(replace(ran, masked=masked, dense=dense))
        return prediction

    def _run(self, images: Sequence[Tensor], tell: Told, more: Mapping[str, Any]) -> tuple[Prediction, Ran]:
        model = self._module
        if model is None:
            return self.backbone.predict(images, **more), Ran(0.0)
        if self.engine.chosen == FAST:
            runner = self._forms.fast()
            return fast_predict(runner, images, **more), Ran(runner.skipped(Shape.of(images)))
        with told_of_layers(model, len(images), tell):
            prediction = self.backbone.predict(images, **more)
        return prediction, Ran(skipped_share(model), tuple(attention_backends(model)), self.engine)

    def _masked(self, unseen: Sequence[Tensor | None] | None) -> Choice | None:
        """Handle pixels that show no scene. Switches from the fast engine, which cannot leave out keys, to the ordinary
        one.
        """
        if unseen is None or all(mask is None for mask in unseen):
            return None
        if "unseen" not in inspect.signature(self.backbone.predict).parameters:
            return Choice(
                "auto", "plain", f"{self.backbone.name} cannot leave pixels out: it sees a plain colour there"
            )
        if self.engine.chosen == FAST:
            reason = "the fast path cannot leave masked pixels out of attention"
            if self.engine.asked == FAST:
                raise BackendError(f"--engine fast: {reason}; use --engine auto, or no masks")
            self.engine = Choice(self.engine.asked, ORDINARY, reason)
            self._forms.ordinary()
            self._set_arithmetic()
        return Choice("auto", LEFT_OUT, "patches without any scene are no keys of attention")

    # -- reports -----------------------------------------------------------------------------------------------------

    def choices(self, ran: Sequence[Ran] | None = None) -> dict[str, dict[str, Any]]:
        """Attention, FP8, engine and kernel of dense attention: request, choice, reason, and what was measured in `ran`
        (None: in all predictions).
        """
        ran = self.ran if ran is None else ran
        attention, fp8 = asdict(self.plan.attention), asdict(self.plan.fp8)
        if self.plan.sparse is not None and ran:
            attention["skipped"] = statistics.mean(each.skipped for each in ran)
            attention["backends"] = [asdict(choice) for choice in ran[-1].backends]
        if self.exact:
            fp8["exact_layers"] = len(self.exact)
        engine = next((each.engine for each in reversed(ran) if each.engine is not None), self.plan.engine)
        told = {"attention": attention, "fp8": fp8, "engine": asdict(engine)}
        dense = next((each.dense for each in reversed(ran) if each.dense is not None), None)
        masked = next((each.masked for each in ran if each.masked is not None), None)
        more = {"dense_attention": dense, "masked": masked}
        return told | {what: asdict(choice) for what, choice in more.items() if choice is not None}

    def attention_info(self, ran: Sequence[Ran]) -> Mapping[str, Any]:
        """The entry of run.json: the skipped share, the settings, and the keep ratio of each sparse-linear layer."""
        modules = dict(self._module.named_modules()) if self._module is not None else {}
        sparse = self.plan.sparse
        kept = {
            name: m.formula.keep_ratio
            for name, m in modules.items()
            if sparse is not None and isinstance(m, SparseLinearAttention)
        }
        skipped = statistics.mean([each.skipped for each in ran] or [0.0])
        settings = {k: v for k, v in vars(sparse).items() if k not in ("layers", "keep_ratios")} if sparse else None
        return {
            "skipped_share": skipped,
            "keep_ratios": kept,
            "settings": settings,
            "dense_below_tokens": self.plan.crossover,
        }
