"""Runs a loaded network as planned by `engine_choice.py`, and records what each prediction used."""

from __future__ import annotations

import inspect
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.module import SparseLinearAttention
from ..engine.layers import Settings
from ..engine.packing import Shape
from ..errors import BackendError
from ..layers.dense import accounted
from ..layers.view_shards import current
from ..networks.arithmetic import set_arithmetic
from ..networks.base import Network, Prediction, require_form
from ..networks.fast_form import TwoForms
from ..networks.fast_form import predict as fast_predict
from ..networks.layer_steps import Told, told_of_layers
from ..networks.recorded import Recorder
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
    engine: Choice | None = None  # that ran; None: as planned, in an older record
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


def _counted(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Each of the things chosen, with the reason given first, in the order of their first choice. If there are several,
    `times` says how often each was: predictions of one command may differ.
    """
    times = Counter(choice.chosen for choice in choices)
    first = {choice.chosen: choice for choice in reversed(choices)}
    return [asdict(first[what]) | ({"times": count} if len(times) > 1 else {}) for what, count in times.items()]


def _for_masks(engine: Choice) -> Choice:
    """The engine for images with pixels to leave out. Raises BackendError where the fast one was asked for by name."""
    if engine.chosen != FAST:
        return engine
    reason = "the fast path cannot leave masked pixels out of attention"
    if engine.asked == FAST:
        raise BackendError(f"--engine fast: {reason}; use --engine auto, or no masks")
    return Choice(engine.asked, ORDINARY, reason)


class PlannedNetwork:
    """`backbone` was loaded in `plan.loaded_dtype` on `device`; `ran` has one entry per prediction.

    The fast engine makes its own form of the network in `prepare`, or at the first prediction. A GPU records
    predictions of up to `repeats` pixels if their shapes repeat (`networks/recorded.py`).
    """

    def __init__(self, backbone: Network, plan: Plan, device: torch.device, repeats: int = 0) -> None:
        self.backbone, self.plan, self.device = backbone, plan, device
        self.ran: list[Ran] = []
        self.exact: dict[str, str] = {}  # linear layers that are not in FP8 → reason
        backbone.maps_stay = True  # fusion and the conversion to views go on there
        set_attention(backbone, plan)
        self._forms = TwoForms(backbone, fast_settings(plan, graphs=False), device)
        self._in_fp8 = False  # whether the products of the ordinary form are what is planned
        # with another form the weights may move, and sparse attention waits for its lists
        plain = plan.engine.chosen == ORDINARY and plan.sparse is None and not plan.is_fp8
        self._recorder = Recorder[Ran](backbone, device, repeats) if repeats and plain else None
        if plan.engine.chosen == ORDINARY:
            self._ordinary()

    def _ordinary(self) -> None:
        """The network is the ordinary form, on the device, and computes as planned."""
        self._forms.ordinary()
        if self.plan.is_fp8 and not self._in_fp8:
            self.exact = set_arithmetic(self.backbone, self.plan.fp8.chosen, getattr(torch, self.plan.dtype))
            self._in_fp8 = True

    def prepare(self) -> None:
        """Make the form for the fast engine before the first prediction, if it is planned."""
        if self.plan.engine.chosen == FAST:
            with on_device(self.device):
                self._forms.fast()

    def forget_recorded(self) -> None:
        """Free the memory of recorded predictions."""
        if self._recorder is not None:
            self._recorder.forget()

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
        alone = masked is None and not cameras and shards is None
        recorder = self._recorder if alone else None
        recorded = None if recorder is None else recorder.predict(images)
        if recorded is not None:
            prediction, ran = recorded
            self.ran.append(ran)
            return prediction
        engine = self.plan.engine
        if masked is not None and masked.chosen == LEFT_OUT:
            cameras["unseen"] = unseen
            engine = _for_masks(engine)
        with accounted() as account:
            run = self._run_fast if engine.chosen == FAST else self._run_ordinary
            prediction, ran = run(images, tell, cameras)
        dense = max(account, key=account.__getitem__, default=None)
        self.ran.append(replace(ran, masked=masked, dense=dense, engine=engine))
        if recorder is not None:
            recorder.note(images, self.ran[-1])
        return prediction

    def _run_fast(self, images: Sequence[Tensor], tell: Told, more: Mapping[str, Any]) -> tuple[Prediction, Ran]:
        runner = self._forms.fast()
        return fast_predict(runner, images, **more), Ran(runner.skipped(Shape.of(images)))

    def _run_ordinary(self, images: Sequence[Tensor], tell: Told, more: Mapping[str, Any]) -> tuple[Prediction, Ran]:
        self._ordinary()
        model = self.backbone
        with told_of_layers(model, len(images), tell):
            prediction = model.predict(images, **more)
        if current() is None:  # a share of the views has fewer maps
            require_form(prediction, model.name, [image.shape[-2:] for image in images])
        return prediction, Ran(skipped_share(model), tuple(attention_backends(model)))

    def _masked(self, unseen: Sequence[Tensor | None] | None) -> Choice | None:
        """What becomes of pixels that show no scene; None where there are none."""
        if unseen is None or all(mask is None for mask in unseen):
            return None
        if "unseen" not in inspect.signature(self.backbone.predict).parameters:
            return Choice(
                "auto", "plain", f"{self.backbone.name} cannot leave pixels out: it sees a plain colour there"
            )
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
            attention["backends"] = _counted([choice for each in ran for choice in each.backends])
        if self.exact:
            fp8["exact_layers"] = len(self.exact)
        engines = [each.engine or self.plan.engine for each in ran] or [self.plan.engine]
        exceptions_first = sorted(engines, key=lambda engine: engine == self.plan.engine)
        engine, *others = _counted(exceptions_first)
        told = {"attention": attention, "fp8": fp8, "engine": engine | ({"others": others} if others else {})}
        dense = next((each.dense for each in reversed(ran) if each.dense is not None), None)
        masked = next((each.masked for each in ran if each.masked is not None), None)
        more = {"dense_attention": dense, "masked": masked}
        return told | {what: asdict(choice) for what, choice in more.items() if choice is not None}

    def attention_info(self, ran: Sequence[Ran]) -> Mapping[str, Any]:
        """The entry of run.json: the skipped share, the settings, and the keep ratio of each sparse-linear layer."""
        sparse = self.plan.sparse
        kept = {
            name: m.formula.keep_ratio
            for name, m in self.backbone.named_modules()
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
