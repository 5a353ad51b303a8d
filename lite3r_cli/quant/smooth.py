"""Scale migration before FP8 (SmoothQuant, arXiv 2211.10438): channels that stick out of an activation hand a part of
their scale to the weights that read them, so that both round well. The network computes the same as before.

    LayerNorm(x) = n ⊙ γ + β,  y = W (n ⊙ γ + β) + b:   γ, β divided by s, the columns of W multiplied by s,
    s_c = max |activation_c|^α / max |W_c|^(1 − α)

E4M3 is a floating-point format: a channel costs the others of its token precision only when it is thousands of times
larger (what falls below 2⁻⁶ / 448 of the largest is stored with fewer bits). Hence the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Block, Mlp

ALPHA = 0.5  # how much of an outlier the weights take over
OUTLIER = 256.0  # largest channel over the median channel from which migration pays: benchmarks in docs/method.md


@dataclass(frozen=True)
class Migration:
    """What was found and done at one pair of LayerNorm and linear layer."""

    outlier: float  # largest channel over the median one
    migrated: bool


def foldable(model: nn.Module) -> dict[str, tuple[nn.LayerNorm, nn.Linear]]:
    """Name of a linear layer → the LayerNorm that it alone reads, and itself: two in each transformer block."""
    pairs = {}
    for name, block in model.named_modules():
        if isinstance(block, Block):
            first = "fc1" if isinstance(block.mlp, Mlp) else "w12"
            pairs[f"{name}.attn.qkv".lstrip(".")] = (block.norm1, block.attn.qkv)
            pairs[f"{name}.mlp.{first}".lstrip(".")] = (block.norm2, getattr(block.mlp, first))
    return pairs


def observe(model: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """Largest magnitude of each channel (C,) that reaches the foldable layers while `run` makes predictions."""
    maxima: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = inputs[0].detach().float().abs().flatten(0, -2).amax(0)
            maxima[name] = torch.maximum(maxima[name], seen) if name in maxima else seen

        return look

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, (_, layer) in foldable(model).items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return maxima


@torch.no_grad()
def migrate(
    model: nn.Module, maxima: Mapping[str, Tensor], alpha: float = ALPHA, outlier: float = OUTLIER
) -> dict[str, Migration]:
    """Fold scales from LayerNorms into linear layers, in place, where the largest channel is `outlier` times the median
    one or more. Before `swap_linears`. Raises UsageError for an `alpha` outside 0…1.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"the share of an outlier that weights take over lies between 0 and 1, not {alpha}")
    found = {}
    for name, (norm, layer) in foldable(model).items():
        if name not in maxima:
            continue
        seen = maxima[name].to(layer.weight.device)
        ratio = float(seen.max() / seen.median().clamp(min=torch.finfo(torch.float32).tiny))
        found[name] = Migration(ratio, ratio >= outlier)
        if found[name].migrated:
            least = 1e-5
            columns = layer.weight.float().abs().amax(0).clamp(min=least)
            scale = seen.clamp(min=least) ** alpha / columns ** (1 - alpha)
            norm.weight.copy_(norm.weight / scale)
            norm.bias.copy_(norm.bias / scale)
            layer.weight.copy_(layer.weight * scale)
    return found
