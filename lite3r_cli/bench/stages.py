"""The time of each stage of an ordinary network, measured by wrapping its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from lite3r_cli.bench.measure import Timer
from lite3r_cli.layers.vit import Attention
from lite3r_cli.networks.family import global_layers_of, require_family

STAGES = ("encoder", "frame attention", "global attention", "linear layers", "heads", "input and output")
REST = "input and output"  # also everything not in another stage: norms, residual additions, RoPE


@contextmanager
def watched(model: nn.Module, timer: Timer) -> Iterator[None]:
    """Inside this context, every forward pass of `model` adds spans to the timer. Stages do not overlap."""
    undo: list[Callable[[], None]] = []
    family = require_family(model)
    whole = [model.get_submodule(family.encoder)]
    heads = [model.get_submodule(name) for name in family.heads]
    inside = {id(part) for module in whole + heads for part in module.modules()}
    across = set(global_layers_of(model))
    for module, stage in [(m, "encoder") for m in whole] + [(m, "heads") for m in heads]:
        undo.append(_watch(module, "forward", stage, timer))
        if stage == "heads" and hasattr(module, "decode_rays"):
            undo.append(_watch(module, "decode_rays", stage, timer))
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        if isinstance(module, Attention):
            undo.append(_watch(module, "mix", "global attention" if name in across else "frame attention", timer))
        elif "Linear" in type(module).__name__ and "Attention" not in type(module).__name__:
            undo.append(_watch(module, "forward", "linear layers", timer))
    try:
        yield
    finally:
        for restore in undo:
            restore()


def _watch(module: nn.Module, method: str, stage: str, timer: Timer) -> Callable[[], None]:
    original = getattr(module, method)

    def timed(*args, **kwargs):
        with timer.span(stage):
            return original(*args, **kwargs)

    setattr(module, method, timed)
    return lambda: delattr(module, method)


def with_rest(totals: dict[str, float], whole: float) -> dict[str, float]:
    """Stage → milliseconds for all STAGES; the part of `whole` that is in no stage is added to REST."""
    found = {stage: totals.get(stage, 0.0) for stage in STAGES}
    found[REST] += max(0.0, whole - sum(found.values()))
    return found
