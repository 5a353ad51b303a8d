"""Decides in which form a network runs: attention, FP8 products and engine. No other place decides this.

`resolve(asked, network, machine)` is a function of three records without tensors: the options, the facts of the
checkpoint (`networks/checkpoint_facts.py`), and the capabilities of the machine. It returns a `Plan`, which
`planned.py` applies. `reconstruct`, `eval` and `bench` use it; `convert` and `distill` share the settings
(`attention/sparse_config.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..attention.dispatch import triton_reason
from ..attention.sparse_config import SparseConfig, settle
from ..config import LiteConfig, PredictConfig
from ..config.prediction import FP8_BACKENDS
from ..engine.layers import Settings
from ..engine.sparse_layers import reason_against_settings
from ..errors import BackendError, UsageError
from ..layers.dense import has_amx
from ..networks.checkpoint_facts import NetworkFacts
from ..networks.fast_form import form_reason
from ..quant import te
from ..quant.swap import scaled_mm_reason
from ..runtime import Choice

DENSE, SPARSE = "dense", "sla"
FAST, ORDINARY = "fast", "ordinary"
HALF = ("bfloat16", "float16")
MEASURED = "measured up to 14,816 tokens"


@dataclass(frozen=True)
class Crossover:
    """Number of tokens from which on sparse attention with at most this keep ratio, and at most so many parted blocks
    for each kept one, is faster than dense attention.
    """

    keep_ratio: float
    tokens: int | None  # None: at no measured length
    words: str
    parts: float = math.inf

    @property
    def reason(self) -> str:
        if self.tokens is None:
            return f"dense attention is the faster one here: {self.words}"
        return f"dense attention below {self.tokens:,} tokens, where it is faster: {self.words}"


# Device and arithmetic → measurements (benchmarks/attention_cpu.py, docs/performance.md). The first row whose keep
# ratio and parted blocks are at least the requested ones applies.
CROSSOVERS = {
    "cuda": (Crossover(1.0, 4096, "lists of tiles cost more than they save"),),
    "cpu float32": (
        Crossover(0.1, 7408, "a tenth of the keys, 1.3 to 1.6 times as fast from there on", 0.0),
        Crossover(0.1, None, f"a tenth of the keys and parted blocks take as long as all; {MEASURED}"),
        Crossover(1.0, None, f"a quarter of the keys takes 1.5 times as long as all; {MEASURED}"),
    ),
    "cpu bfloat16 with AMX": (
        Crossover(0.1, 14816, "a tenth of the keys, 1.3 to 1.6 times as fast from there on", 0.0),
        Crossover(0.1, None, f"a tenth of the keys and parted blocks take longer than all; {MEASURED}"),
        Crossover(1.0, None, f"a quarter of the keys takes 1.1 times as long as all, or more; {MEASURED}"),
    ),
    "cpu bfloat16": (Crossover(1.0, None, "sparse attention was not measured in bfloat16 without AMX"),),
}


@dataclass(frozen=True)
class Asked:
    """The requested form. `prefer_lite`: "auto" means the lite form where it is faster (the lite
    variant of `bench`).
    """

    attention: str = "auto"  # one of config.ATTENTION
    keep_ratio: float | None = None
    fp8_backend: str = "auto"  # one of config.FP8_BACKENDS
    engine: str = "auto"  # one of config.ENGINES
    ray_poses: bool = False
    prefer_lite: bool = False
    keep_views: int | None = None

    @classmethod
    def of(cls, config: PredictConfig) -> Asked:
        return cls.of_lite(config.lite, engine=config.engine, ray_poses=config.poses == "rays")

    @classmethod
    def of_lite(cls, lite: LiteConfig, **more: Any) -> Asked:
        return cls(lite.attention, lite.keep_ratio, lite.fp8_backend, keep_views=lite.keep_views, **more)

    @property
    def wish(self) -> str:
        """Requested attention: dense, sla, auto or lite."""
        if self.attention == "auto" and self.keep_ratio is None and self.keep_views is None:
            return "lite" if self.prefer_lite else "auto"
        return SPARSE if self.attention == "auto" else self.attention

    @property
    def words(self) -> str:
        if self.attention == SPARSE:
            return "asked for"
        return (
            f"--keep-views {self.keep_views} was given"
            if self.keep_ratio is None
            else (f"--keep-ratio {self.keep_ratio:g} was given")
        )


Obstacle = str | Callable[[], str | None] | None


def _told(obstacle: Obstacle) -> str | None:
    return obstacle() if callable(obstacle) else obstacle


@dataclass(frozen=True)
class Machine:
    """Capabilities of a device. An obstacle is None if there is none. Looking for some takes a long import: these are
    looked for on demand.
    """

    device: str = "cpu"  # cpu or cuda
    dtype: str = "float32"  # of the computation
    amx: bool = False
    triton: Obstacle = None  # why Triton's kernels cannot run
    scaled_mm: str | None = None  # why torch._scaled_mm cannot run
    te: Obstacle = None  # why Transformer Engine cannot run

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> Machine:
        on_gpu = device.type == "cuda"
        return cls(
            device.type,
            str(dtype).removeprefix("torch."),
            amx=not on_gpu and has_amx(),
            triton=triton_reason if on_gpu else "Triton's kernels are for GPUs",
            scaled_mm=scaled_mm_reason(device),
            te=lambda: te.reason_against() or (None if on_gpu else "Transformer Engine needs a GPU"),
        )

    def crossover(self, sparse: SparseConfig) -> Crossover:
        """The measurement for these settings, this device and arithmetic."""
        kind = self.device
        if kind == "cpu":
            amx = " with AMX" if self.amx and self.dtype in HALF else ""
            kind = f"cpu {'bfloat16' if self.dtype in HALF else 'float32'}{amx}"
        rows = CROSSOVERS[kind]
        return next(row for row in rows if sparse.keep_ratio <= row.keep_ratio and sparse.parts <= row.parts)


@dataclass(frozen=True)
class Plan:
    """The form in which a network runs: each decision with the request and the reason."""

    attention: Choice  # chosen: dense or sla
    sparse: SparseConfig | None  # the settings of sparse-linear attention; None: dense
    crossover: int  # below this number of tokens attention is dense nevertheless; 0: never
    fp8: Choice  # chosen: off, or the back end
    engine: Choice  # chosen: fast or ordinary, for all images
    dtype: str
    query_tiles: int = 1  # query blocks that share one selection of key blocks in the fast engine

    @property
    def is_fp8(self) -> bool:
        return self.fp8.chosen != "off"

    @property
    def loaded_dtype(self) -> torch.dtype:
        """The dtype in which the network is loaded. FP8 weights are made from float32, which represents stored ones
        exactly.
        """
        return torch.float32 if self.is_fp8 else getattr(torch, self.dtype)

    @property
    def notes(self) -> list[str]:
        """Lines on the choices that were requested by name."""
        chosen = {"attention": self.attention, "FP8": self.fp8}
        return [f"{what}: {c.chosen} ({c.reason})" for what, c in chosen.items() if c.asked != "auto"]


def resolve(asked: Asked, network: NetworkFacts, machine: Machine) -> Plan:
    """The form in which a network runs. Raises UsageError or BackendError for impossible requests."""
    attention, sparse, crossover = choose_attention(asked, network, machine)
    fp8 = choose_fp8(asked, network, machine)
    engine = _choose_engine(asked, network, machine, sparse, fp8)
    tiles = Settings.query_tiles if network.training == "none" else 1  # trained: exactly the form of its training
    return Plan(attention, sparse, crossover, fp8, engine, machine.dtype, tiles)


# -- attention ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    form: str  # DENSE or SPARSE
    reason: str  # the reason for sparse attention, with {asked}
    may_cross: bool = False  # dense attention may replace it where that is faster


_UNTRAINED = "{asked}; the checkpoint is not trained for it, see lite3r distill"

# (request, content of the checkpoint) → form. `dense`: no sparse attention, or settings without effect; `sparse`:
# settings, but untrained; `branch`, `weights`: see networks.checkpoint_facts.TRAININGS. Dense attention may replace
# sparse attention only if sparse attention approximates it: a trained linear branch, or weights trained with sparse
# attention, would give other results.
ATTENTION_TABLE: dict[tuple[str, str], _Row] = {
    ("dense", "dense"): _Row(DENSE, "asked for"),
    ("dense", "sparse"): _Row(DENSE, "asked for"),
    ("dense", "branch"): _Row(DENSE, "asked for; the checkpoint's linear branches are left out"),
    ("dense", "weights"): _Row(DENSE, "asked for; but the checkpoint's weights were trained with sparse attention"),
    ("sla", "dense"): _Row(SPARSE, _UNTRAINED),
    ("sla", "sparse"): _Row(SPARSE, _UNTRAINED),
    ("sla", "branch"): _Row(SPARSE, "{asked}"),
    ("sla", "weights"): _Row(SPARSE, "{asked}"),
    ("auto", "dense"): _Row(DENSE, "the checkpoint's attention is dense"),
    ("auto", "sparse"): _Row(SPARSE, "the checkpoint says so", may_cross=True),
    ("auto", "branch"): _Row(SPARSE, "the checkpoint was distilled for it"),
    ("auto", "weights"): _Row(SPARSE, "the checkpoint's weights were trained with it"),
    ("lite", "dense"): _Row(SPARSE, "the lite form", may_cross=True),
    ("lite", "sparse"): _Row(SPARSE, "the lite form, by the checkpoint's settings", may_cross=True),
    ("lite", "branch"): _Row(SPARSE, "the lite form, which the checkpoint was distilled for"),
    ("lite", "weights"): _Row(SPARSE, "the lite form, which the checkpoint's weights were trained with"),
}


def held(network: NetworkFacts) -> str:
    """The content of a checkpoint, as in ATTENTION_TABLE."""
    if network.sparse is None or (network.training == "none" and network.sparse.mean_ratio >= 1):
        return "dense"
    return "sparse" if network.training == "none" else network.training


def choose_attention(asked: Asked, network: NetworkFacts, machine: Machine) -> tuple[Choice, SparseConfig | None, int]:
    """Dense or sparse with the reason; the settings; the number of tokens below which it is dense nevertheless. Raises
    UsageError.
    """
    holds = held(network)
    row = ATTENTION_TABLE[asked.wish, holds]
    if not network.across and row.form == SPARSE and network.sparse is None:
        if asked.wish == "lite":
            return Choice(asked.attention, DENSE, f"{network.name} has no attention across views"), None, 0
        raise UsageError(f"--attention sla: {network.name} has no attention across views")
    reason = row.reason.format(asked=asked.words if asked.wish == SPARSE else "")
    if row.form == DENSE:
        return Choice(asked.attention, DENSE, reason), None, 0
    ratio = asked.keep_ratio
    if ratio is None and holds == "dense":
        ratio = LiteConfig.default_keep_ratio
    views: dict[str, Any] = {} if asked.keep_views is None else {"keep_views": asked.keep_views}
    if views and network.sparse is not None and not (network.sparse.unset or network.sparse.packed):
        raise UsageError("--keep-views: the checkpoint's sparse attention has no packed tokens, and so no such limit")
    sparse = settle(network.across, network.sparse, ratio, **views)
    crossover = 0
    if row.may_cross:
        measured = machine.crossover(sparse)
        if measured.tokens is None and asked.wish == "auto":
            return Choice(asked.attention, DENSE, measured.reason), None, 0
        crossover, reason = measured.tokens or 0, f"{reason}; {measured.reason}"
    if sparse.keep_views is not None:
        reason = f"{reason}; a query sees the keys of {sparse.keep_views} views at most"
    return Choice(asked.attention, SPARSE, reason), sparse, crossover


# -- FP8 ---------------------------------------------------------------------------------------------------------------


def choose_fp8(asked: Asked, network: NetworkFacts, machine: Machine) -> Choice:
    """The back end of FP8 products. "auto": `scaled-mm` if the checkpoint was trained for FP8 (or the lite form is
    preferred) and the device supports FP8, else off, because emulation is slow. Raises UsageError, BackendError.
    """
    backend = asked.fp8_backend
    if backend not in FP8_BACKENDS:
        raise UsageError(f"the FP8 back end must be one of {', '.join(FP8_BACKENDS)}, not {backend!r}")
    if backend in ("off", "emulate"):
        return Choice(backend, backend, "asked for")
    if backend == "auto":
        if not (network.fp8_trained or asked.prefer_lite):
            return Choice(backend, "off", "the checkpoint was not trained for FP8 arithmetic")
        found = machine.scaled_mm
        return Choice(backend, "scaled-mm", "the GPU has it") if found is None else Choice(backend, "off", found)
    reason = _told(machine.te if backend == "te" else machine.scaled_mm)
    if reason is not None:
        raise BackendError(f"FP8 back end {backend}: {reason}; use emulate")
    return Choice(backend, backend, "asked for")


# -- engine ------------------------------------------------------------------------------------------------------------

_EXACT = "nothing approximate was asked for; --engine fast is faster and rounds tokens to half precision"


def _choose_engine(
    asked: Asked, network: NetworkFacts, machine: Machine, sparse: SparseConfig | None, fp8: Choice
) -> Choice:
    """The fast engine, if attention or products are approximate anyway and it gives the same result. Raises
    BackendError.
    """
    if asked.engine == ORDINARY:
        return Choice(ORDINARY, ORDINARY, "asked for")
    exact = asked.engine != FAST and sparse is None and fp8.chosen == "off"
    against: tuple[Callable[[], str | None], ...] = (
        lambda: form_reason(network, network.name),
        lambda: None if machine.device == "cuda" else "the fast path is for GPUs",
        lambda: None if exact else _told(machine.triton),
        lambda: None if machine.dtype in HALF else "the fast path computes in half precision",
        lambda: (
            None
            if fp8.chosen in ("off", "scaled-mm")
            else f"the fast path multiplies FP8 by scaled-mm, not by {fp8.chosen}"
        ),
        lambda: "the fast path has no cameras from rays" if asked.ray_poses else None,
        lambda: None if sparse is None else reason_against_settings(sparse),
    )
    reason = next(filter(None, (check() for check in against)), None)
    if reason is not None:
        return _refused(asked.engine, reason)
    if asked.engine == FAST:
        return Choice(FAST, FAST, "asked for")
    if exact:
        return Choice("auto", ORDINARY, _EXACT)
    return Choice("auto", FAST, "attention or products are approximate already")


def _refused(asked: str, reason: str) -> Choice:
    if asked == FAST:
        raise BackendError(f"--engine fast: {reason}; use --engine auto")
    return Choice(asked, ORDINARY, reason)
