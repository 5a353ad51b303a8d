"""The variants of one network that `lite3r bench` compares.

dense-eager   layer by layer: float32 weights, half precision by autocast, torch's fused attention, no CUDA graph
dense         the fastest way on this device without approximations other than rounding
lite          the same with sparse-linear attention, and FP8 linear layers if the device supports FP8

The dense variants are dense for every checkpoint: linear branches and trained keep ratios are not used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.bench.measure import Timer, allocated
from lite3r_cli.bench.stages import watched
from lite3r_cli.bench.subjects import CHECKPOINT, network
from lite3r_cli.config import LiteConfig
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.errors import BackendError
from lite3r_cli.layers import fa4_backend
from lite3r_cli.layers.dense import fused_only
from lite3r_cli.layers.vit import Block
from lite3r_cli.networks.arithmetic import set_arithmetic, set_precision
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.networks.family import require_family, trunk_of
from lite3r_cli.networks.fast_form import fast_runner
from lite3r_cli.networks.sparsify import skipped_share
from lite3r_cli.pipelines.engine_choice import FAST, Asked, Machine, resolve
from lite3r_cli.pipelines.planned import fast_settings, set_attention

EXACT = Asked(attention="dense", fp8_backend="off")
Answer = tuple[Tensor, Tensor, Tensor]  # depth, confidence (S, H, W) and poses (S, 3, 4), float32


@dataclass
class Variant:
    """A network that is ready to run in one variant."""

    name: str
    description: str
    run: Callable[[Tensor], Answer]  # images (S, 3, H, W) on the device
    staged: Callable[[Tensor, Timer], object]  # a run that records the time of each stage
    skipped: Callable[[Shape], float]  # share of skipped key blocks across views, after a run of that shape
    weight_bytes: int
    fp8: bool = False
    fast: bool = False
    forget: Callable[[], None] = lambda: None  # frees what is cached for the shapes so far
    held: int = 0  # bytes on the device
    sparse: bool = False  # whether attention is sparse from `crossover` tokens on
    crossover: int = 0
    choices: dict[str, str] = field(default_factory=dict)  # attention, FP8 and engine → what was chosen, and why


@dataclass(frozen=True)
class Request:
    """What to measure, on which device."""

    model: str
    device: torch.device
    dtype: torch.dtype
    seed: int
    lite: LiteConfig
    stored: NetworkFacts | None = None  # facts of the checkpoint; None: random weights

    @property
    def machine(self) -> Machine:
        """The machine, for `engine_choice.resolve`."""
        return Machine.of(self.device, self.dtype)

    def facts(self, model: Network) -> NetworkFacts:
        """The facts of the checkpoint, or of `model` if it has random weights."""
        return NetworkFacts.of_model(model) if self.stored is None else self.stored


def build(name: str, request: Request) -> tuple[Variant, Network, str]:
    """Build the variant `name`. Also returns its network (on the meta device if it is fast), for sizes, and the origin
    of the weights. Raises WeightsError or BackendError.
    """
    fa4_backend.load_at_once()  # many forward passes follow
    before = allocated(request.device)
    model, origin = network(request.model, request.device, request.seed)
    if origin == CHECKPOINT:
        with open_checkpoint(request.model) as checkpoint:
            request = replace(request, stored=checkpoint.facts)
    maker = {"dense-eager": _eager, "dense": _dense, "lite": _lite}[name]
    variant = maker(model, request)
    shape_only = model if not variant.fast else model.to("meta")
    if request.device.type == "cuda":
        torch.cuda.empty_cache()
    variant.held = allocated(request.device) - before
    return variant, shape_only, origin


def _bytes(model: nn.Module) -> int:
    parameters = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in parameters)


def _eager(model: Network, request: Request) -> Variant:
    set_attention(model, resolve(EXACT, request.facts(model), request.machine))
    model.compute_dtype = request.dtype
    words = f"dense attention, float32 weights, {_word(request.dtype)} by autocast, torch's fused attention"
    return _ordinary("dense-eager", words, model, request, fused_only)


def _dense(model: Network, request: Request) -> Variant:
    return _planned("dense", model, request, replace(EXACT, engine=_engine(model, request)))


def _lite(model: Network, request: Request) -> Variant:
    return _planned("lite", model, request, Asked.of_lite(request.lite, prefer_lite=True))


def _engine(model: Network, request: Request) -> str:
    """The engine for dense attention: the fast one if it can run, else "auto"."""
    try:
        return resolve(replace(EXACT, engine=FAST), request.facts(model), request.machine).engine.chosen
    except BackendError:
        return "auto"


def _planned(name: str, model: Network, request: Request, asked: Asked) -> Variant:
    plan = resolve(asked, request.facts(model), request.machine)
    set_attention(model, plan)
    attention = "dense attention" if plan.sparse is None else f"sparse attention ({_form(plan.sparse)})"
    kind = f"FP8 ({plan.fp8.chosen})" if plan.is_fp8 else _word(request.dtype)
    if plan.engine.chosen == FAST:
        words = f"{attention}, {kind} weights, fused kernels, one graph"
        variant = _fast(name, words, model, fast_settings(plan), request)
    else:
        if plan.is_fp8:
            set_arithmetic(model, plan.fp8.chosen, request.dtype)
        else:
            set_precision(model, request.dtype)
        variant = _ordinary(name, f"{attention}, {kind} weights, layer by layer", model, request)
        variant.fp8 = plan.fp8.chosen in ("scaled-mm", "te")
    variant.sparse, variant.crossover = plan.sparse is not None, plan.crossover
    variant.choices = {
        what: f"{choice.chosen}: {choice.reason}"
        for what, choice in (("attention", plan.attention), ("fp8", plan.fp8), ("engine", plan.engine))
    }
    return variant


def _form(sparse: SparseConfig) -> str:
    if sparse.packed:
        views = "" if sparse.keep_views is None else f", of {sparse.keep_views} views' keys at most"
        parts = f", {sparse.parts:g} parted blocks for each kept one" if sparse.parts else ""
        return f"{100 * sparse.mean_ratio:.0f} % of packed tokens, lists of {sparse.group} queries, means{parts}{views}"
    keys = sparse.key_block or sparse.block
    more = ", summaries" if sparse.summaries else ""
    return f"{100 * sparse.mean_ratio:.0f} % of blocks of {sparse.block} × {keys} kept by {sparse.scores} scores{more}"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fast(name: str, words: str, model: Network, settings: Settings, request: Request) -> Variant:
    runner = fast_runner(model, settings, request.device)

    def run(images: Tensor) -> Answer:
        out = runner(list(images))
        return out.depth[0], out.confidence[0], out.cam_from_world

    heads = tuple(f"{name}." for name in require_family(model).heads)
    blocks = trunk_of(model) or nn.ModuleList(
        part for name, part in model.named_modules() if isinstance(part, Block) and not name.startswith(heads)
    )
    trunk = sum(p.numel() for p in blocks.parameters())
    others = sum(p.numel() for p in model.parameters()) - trunk
    size = trunk * (1 if settings.fp8 else 2) + 2 * others
    staged = lambda images, timer: runner.eager(list(images), timer.span)  # noqa: E731
    return Variant(name, words, run, staged, runner.skipped, size, settings.fp8, True, runner.forget)


def _ordinary(
    name: str,
    words: str,
    model: Network,
    request: Request,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Variant:
    answer = require_family(model).answer

    @torch.inference_mode()
    def run(images: Tensor) -> Answer:
        with around():
            if request.device.type == "cpu":  # as in `reconstruct`; on a GPU the output must stay on the device
                found = model.predict(list(images))
                return torch.stack(found.depth), torch.stack(found.confidence), found.cam_from_world
            out = answer(model, images[None], torch.arange(len(images), device=images.device))
            world_from_cam = torch.cat([out.rotation, out.centre[..., None]], dim=-1)[0]
            return out.log_depth[0].float().exp(), out.confidence[0].float(), world_from_cam.float()

    def staged(images: Tensor, timer: Timer) -> object:
        with watched(model, timer):
            return run(images)

    return Variant(name, words, run, staged, lambda shape: skipped_share(model), _bytes(model))
