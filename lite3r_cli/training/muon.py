"""Muon over stacks of equally shaped matrices: the update of `torch.optim.Muon` with a fifth of the kernel launches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024) that processes all matrices of one shape together.

    The step of a small network is bound by kernel launches, and torch's class needs 24 per matrix. State and options
    are torch's; the learning rate is always adjusted as in `match_rms_adamw` (arXiv 2502.16982).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient. Raises ValueError for a closure."""
        if closure is not None:
            raise ValueError("a closure is not supported")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            buffers = [self._momentum(p, gradient) for p, gradient in zip(parameters, gradients)]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            directions = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            by_shape: dict[torch.Size, list[int]] = defaultdict(list)
            for i, parameter in enumerate(parameters):
                by_shape[parameter.shape].append(i)
            for shape, members in by_shape.items():
                stack = torch.stack([directions[i] for i in members])
                update = orthogonalise(stack, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(stack.dtype)
                rate = 0.2 * max(shape) ** 0.5 * group["lr"]
                torch._foreach_add_([parameters[i] for i in members], list(update.unbind()), alpha=-rate)

    def _momentum(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        return state["momentum_buffer"]


def orthogonalise(stack: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Quintic Newton-Schulz iteration in bfloat16: stack (N, rows, columns) → matrices with the same singular vectors
    and singular values near 1.
    """
    a, b, c = coefficients
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
