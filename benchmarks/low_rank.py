"""Low-rank adapters on the transformer layers that a short probe selects, for `adapters.py`.

A linear layer gets W + B A in the place of W, where A (rank, in) and B (out, rank) train and W stays (LoRA, Hu et al.,
arXiv 2106.09685, with α = rank). The layers are those whose gradient is the largest on some batches (Aletheia, Saket,
arXiv 2604.15351). Matrices whose products stay exact have none: a checkpoint may store them in FP8, and a merged weight
would be rounded once more there, which training would not have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.attention.module import attention_modules
from lite3r_cli.config.distill_recipe import LINEAR_BRANCH
from lite3r_cli.quant.linear import bias_of, fake_quant

EVERY_LAYER = "all"  # in the place of a number of layers


class AdaptedLinear(nn.Linear):
    """A Linear whose weight is W + B A. With `rounded` both operands are rounded to FP8: of the weights the sum, as a
    checkpoint stores it.
    """

    lora_a: nn.Parameter  # (rank, in)
    lora_b: nn.Parameter  # (out, rank)
    rounded: bool

    @classmethod
    def of(cls, dense: nn.Linear, rank: int, generator: torch.Generator) -> AdaptedLinear:
        """Shares the parameters of `dense`, and gives its output: B is zero. A is drawn on the CPU."""
        out = cls.__new__(cls)
        nn.Module.__init__(out)
        out.in_features, out.out_features, out.rounded = dense.in_features, dense.out_features, False
        out.weight, out.bias = dense.weight, dense.bias
        mask = getattr(dense, "bias_mask", None)
        if mask is not None:
            out.register_buffer("bias_mask", mask)
        bound = 1 / math.sqrt(dense.in_features)
        a = torch.empty(rank, dense.in_features).uniform_(-bound, bound, generator=generator)
        device = dense.weight.device
        out.lora_a = nn.Parameter(a.to(device))
        out.lora_b = nn.Parameter(torch.zeros(dense.out_features, rank, device=device))
        return out

    def merged(self) -> Tensor:
        """W + B A (out, in), in the precision of W whatever autocast says."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight + (self.lora_b @ self.lora_a).to(self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.merged()
        if self.rounded:
            x, weight = fake_quant(x), fake_quant(weight)
        return F.linear(x, weight, bias_of(self))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={len(self.lora_a)}, rounded={self.rounded}"


def transformer_layers(network: nn.Module, exact: Iterable[str]) -> dict[str, dict[str, nn.Linear]]:
    """Name of each transformer layer, that which holds an attention module → its linear layers by their full names, but
    for those of the linear branch and those whose weight one of the patterns `exact` matches.
    """
    exact = (*exact, *LINEAR_BRANCH)
    found: dict[str, dict[str, nn.Linear]] = {}
    for attention in attention_modules(network):
        layer = attention.rpartition(".")[0]
        for name, module in network.get_submodule(layer).named_modules(prefix=layer):
            own = not any(fnmatchcase(f"{name}.weight", pattern) for pattern in exact)
            if isinstance(module, nn.Linear) and own:
                found.setdefault(layer, {})[name] = module
    return found


def probe(layers: Mapping[str, Mapping[str, nn.Linear]], losses: Iterable[Tensor]) -> dict[str, float]:
    """The norm of the gradient with respect to each layer's matrices, mean over `losses`; drawing one of those has to
    run a forward pass. No gradient is kept, of these matrices: the probe needs no more memory than a step.
    """
    squares = {name: torch.zeros((), dtype=torch.float64) for name in layers}
    total = dict.fromkeys(layers, 0.0)
    count = 0
    weights = [(name, linear.weight) for name, linears in layers.items() for linear in linears.values()]
    before = [weight.requires_grad for _, weight in weights]

    def collect(name: str):
        def hook(weight: Tensor) -> None:
            assert weight.grad is not None
            squares[name] += weight.grad.double().square().sum().cpu()
            weight.grad = None

        return hook

    handles = []
    try:
        for name, weight in weights:
            weight.requires_grad_(True)
            handles.append(weight.register_post_accumulate_grad_hook(collect(name)))
        for loss in losses:
            loss.backward()
            count += 1
            for name, square in squares.items():
                total[name] += float(square.sqrt())
                square.zero_()
    finally:
        for handle in handles:
            handle.remove()
        for (_, weight), trained in zip(weights, before):
            weight.requires_grad_(trained)
    return {name: norm / max(1, count) for name, norm in total.items()}


def choose_layers(norms: Mapping[str, float], select: str) -> tuple[str, ...]:
    """The layers of the largest norms, in the network's order: so many as `select` says, or all that have a gradient.

    Raises ValueError where fewer have one.
    """
    reached = [name for name, norm in norms.items() if norm > 0]
    count = len(reached) if select == EVERY_LAYER else int(select)
    if not 0 < count <= len(reached):
        raise ValueError(f"{len(reached)} transformer layers have a gradient: {select} cannot be selected")
    best = set(sorted(reached, key=lambda name: -norms[name])[:count])
    return tuple(name for name in reached if name in best)


def adapt(network: nn.Module, layers: Mapping[str, Mapping[str, nn.Linear]], rank: int, seed: int) -> list[str]:
    """Put adapters on the linear layers of `layers`, some of `transformer_layers`; the names of their parameters."""
    generator = torch.Generator().manual_seed(seed)
    names = []
    for linears in layers.values():
        for name, linear in linears.items():
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, AdaptedLinear.of(linear, rank, generator))
            names += [f"{name}.lora_a", f"{name}.lora_b"]
    return names


def adapted(network: nn.Module) -> dict[str, AdaptedLinear]:
    """Name → each linear layer with an adapter."""
    return {name: module for name, module in network.named_modules() if isinstance(module, AdaptedLinear)}
