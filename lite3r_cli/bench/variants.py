"""The ways to run one network that `lite3r bench` compares, each ready to be called with images on the device.

dense-eager   layer by layer: float32 weights, half precision by autocast, torch's fused attention, no graph
dense         the fastest way that this program has here without approximating anything but by rounding
lite          the same with sparse-linear attention, and FP8 linear layers where the device multiplies FP8
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lite3r_cli.attention.dense import fused_only
from lite3r_cli.bench.measure import Timer, allocated
from lite3r_cli.bench.stages import watched
from lite3r_cli.bench.subjects import network
from lite3r_cli.config import LiteConfig
from lite3r_cli.engine.layers import CROSSOVER, Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.errors import BackendError
from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products
from lite3r_cli.layers.vit import Block
from lite3r_cli.networks.family import require_family, trunk_of
from lite3r_cli.networks.fast_form import fast_runner, reason_against
from lite3r_cli.networks.lite_form import set_arithmetic, set_attention
from lite3r_cli.networks.sparsify import skipped_share
from lite3r_cli.quant.swap import choose_fp8_backend

Answer = tuple[Tensor, Tensor, Tensor]  # depth, confidence (S, H, W) and poses (S, 3, 4), float32


@dataclass
class Variant:
    name: str
    description: str
    run: Callable[[Tensor], Answer]  # images (S, 3, H, W) on the device
    staged: Callable[[Tensor, Timer], object]  # a run whose time is accounted for
    skipped: Callable[[Shape], float]  # share of the key blocks across views, after a run of that shape
    weight_bytes: int
    fp8: bool = False
    fast: bool = False
    forget: Callable[[], None] = lambda: None  # what was kept for the shapes so far
    held: int = 0  # bytes on the device
    choices: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    model: str
    device: torch.device
    dtype: torch.dtype
    seed: int
    lite: LiteConfig


def build(name: str, request: Request) -> tuple[Variant, nn.Module, str]:
    """A variant, the network that it was made of (on the meta device, for its sizes), and where the values are from."""
    before = allocated(request.device)
    model, origin = network(request.model, request.device, request.seed)
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


def _eager(model: nn.Module, request: Request) -> Variant:
    model.compute_dtype = request.dtype
    words = f"float32 weights, {_word(request.dtype)} by autocast, torch's fused attention"
    return _ordinary("dense-eager", words, model, request, fused_only)


def _dense(model: nn.Module, request: Request) -> Variant:
    settings = Settings(dtype=request.dtype, sparse=False)
    if _goes_fast(model, settings, request):
        return _fast("dense", f"{_word(request.dtype)} weights, fused kernels, one graph", model, settings, request)
    _cast(model, request.dtype)
    return _ordinary("dense", f"{_word(request.dtype)} weights", model, request)


def _lite(model: nn.Module, request: Request) -> Variant:
    fp8 = choose_fp8_backend(request.lite.fp8_backend, request.device)
    config = request.lite
    if config.attention == "auto" and config.keep_ratio is None:
        config = LiteConfig("sla", LiteConfig.default_keep_ratio, config.fp8_backend)
    attention = set_attention(model, config)
    settings = Settings(dtype=request.dtype, fp8=fp8.chosen == "scaled-mm", crossover=CROSSOVER)
    choices = {"attention": f"{attention.chosen}: {attention.reason}", "fp8": f"{fp8.chosen}: {fp8.reason}"}
    if _goes_fast(model, settings, request):
        if fp8.chosen not in ("scaled-mm", "off"):
            raise BackendError(f"--fp8-backend {fp8.chosen}: the fast path multiplies FP8 by scaled-mm, or off")
        words = f"{'FP8' if settings.fp8 else _word(request.dtype)} weights, sparse attention, fused kernels, one graph"
        variant = _fast("lite", words, model, settings, request)
    else:
        kind = _word(request.dtype)
        if fp8.chosen == "off":
            _cast(model, request.dtype)
        else:
            set_arithmetic(model, fp8.chosen, request.dtype)
            kind = f"FP8 ({fp8.chosen})"
        choices["path"] = (
            f"layer by layer: {reason_against(model, settings, request.device) or 'the fast path is for GPUs'}"
        )
        variant = _ordinary("lite", f"{kind} weights, sparse attention", model, request)
        variant.fp8 = fp8.chosen in ("scaled-mm", "te")
    variant.choices = choices
    return variant


def _goes_fast(model: nn.Module, settings: Settings, request: Request) -> bool:
    return request.device.type == "cuda" and reason_against(model, settings, request.device) is None


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    model.compute_dtype = dtype
    trunk = trunk_of(model)
    if dtype in HALF_PRECISION and trunk is not None:
        cast_products(trunk, dtype)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fast(name: str, words: str, model: nn.Module, settings: Settings, request: Request) -> Variant:
    runner = fast_runner(model, settings, request.device)

    def run(images: Tensor) -> Answer:
        out = runner(images)
        return out.depth[0], out.confidence[0], out.cam_from_world

    blocks = trunk_of(model) or nn.ModuleList(part for part in model.modules() if isinstance(part, Block))
    trunk = sum(p.numel() for p in blocks.parameters())
    heads = sum(p.numel() for p in model.parameters()) - trunk
    size = trunk * (1 if settings.fp8 else 2) + 2 * heads
    staged = lambda images, timer: runner.eager(images, timer.span)  # noqa: E731
    return Variant(name, words, run, staged, runner.skipped, size, settings.fp8, True, runner.forget)


def _ordinary(
    name: str,
    words: str,
    model: nn.Module,
    request: Request,
    around: Callable[[], AbstractContextManager] = nullcontext,
) -> Variant:
    answer = require_family(model).answer

    @torch.inference_mode()
    def run(images: Tensor) -> Answer:
        with around():
            if request.device.type == "cpu":  # what `reconstruct` runs; a GPU's answers must not leave it
                found = model.predict(list(images))
                return torch.stack(found.depth), torch.stack(found.confidence), found.cam_from_world
            out = answer(model, images[None], torch.arange(len(images), device=images.device))
            world_from_cam = torch.cat([out.rotation, out.centre[..., None]], dim=-1)[0]
            return out.log_depth[0].float().exp(), out.confidence[0].float(), world_from_cam.float()

    def staged(images: Tensor, timer: Timer) -> object:
        with watched(model, timer):
            return run(images)

    return Variant(name, words, run, staged, lambda shape: skipped_share(model), _bytes(model))
