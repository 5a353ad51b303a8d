"""Initialise the linear branch of each layer in closed form: its mix parameters are fitted to dense attention.

q, k, v are those of the network with dense attention in all layers. Over all tokens and heads of some batches:

    sum     min over W  Σ ‖O_sparse + O_linear Wᵀ − O_dense‖² + λ ‖W‖²           W (D, D), shared by the heads
    convex  min over α  Σ ‖α O_sparse + (1 − α) O_linear − O_dense‖²            one α per head, where blocks are skipped

λ is chosen by leave-one-out cross-validation over the batches: the linear branch hardly varies within a scene, so that
an unregularised fit to a few scenes generalises badly. Only the normal equations of each batch are stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.attention.block_map import block_map
from lite3r_cli.attention.dispatch import ATTEND, packed_branches
from lite3r_cli.attention.module import SparseLinearAttention
from lite3r_cli.attention.tiling import packed_tiling
from lite3r_cli.layers.dense import dense
from lite3r_cli.networks.sparsify import sparse_modules

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # λ as a share of the mean squared channel of O_linear
ALPHA_RANGE = (0.01, 0.9975)  # limits of α in the convex mix; the gradient of its logit vanishes outside


@torch.no_grad()
def fit_linear_branches(network: nn.Module, passes: Iterable[object]) -> dict[str, float]:
    """Fit every sparse-linear module of `network`, in place. Each item of the iterator `passes` must run the network
    once.

    Returns per module the share of the sparse branch's squared error that the linear branch removes, on batches that
    were left out of the fit; with a single batch, on that batch.
    """
    fits = {name: _fit_of(module) for name, module in sparse_modules(network).items()}
    with _recording(network, fits):
        for _ in passes:
            pass
    return {name: fit.solve() for name, fit in fits.items()}


def _fit_of(module: SparseLinearAttention) -> _Sum | _Convex:
    return (_Convex if module.config.mix == "convex" else _Sum)(module)


@contextmanager
def _recording(network: nn.Module, fits: dict[str, _Sum | _Convex]) -> Iterator[None]:
    """Inside this context, sparse modules return dense attention and pass both branches to their fits."""
    modules = sparse_modules(network)
    for name, module in modules.items():
        vars(module)["mix"] = _Recorder(module, fits[name])  # an instance attribute hides the method
    try:
        yield
    finally:
        for module in modules.values():
            del vars(module)["mix"]


class _Recorder:
    def __init__(self, module: SparseLinearAttention, fit: _Sum | _Convex):
        self.module, self.fit = module, fit

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
        if keys is not None:
            raise ValueError("linear branches can only be fitted on images without masked pixels")
        with torch.autocast(q.device.type, enabled=False):  # fit in full precision
            return self._record(q, k, v)

    def _record(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        module, formula = self.module, self.module.formula
        config = module.config
        exact = dense(q, k, v)
        if config.packed and module.plan is not None:
            plan = module.plan
            sparse, linear = packed_branches(q.float(), k.float(), v.float(), plan, formula)
            skips = plan.count(formula.ratio(plan.views)) < plan.blocks
            everywhere = torch.ones(q.shape[2], dtype=torch.bool, device=q.device)
            self.fit.add(sparse, linear, exact.float(), everywhere, everywhere & skips)
            return exact
        layout = module.layout or packed_tiling(q.shape[2], config.block, q.device, config.key_block)
        tiles = layout.tiles(q.float(), k.float(), v.float())
        blocks = block_map(*tiles[:2], layout, formula.keep_ratio, formula.drop_ratio, formula.scores)
        sparse, linear = ATTEND["torch"](
            *tiles, blocks, layout, formula.feature, formula.linear_over, formula.summaries
        )
        counted = blocks.linear.any(-1) if formula.linear_over == "rest" else ~blocks.critical.all(-1)
        self.fit.add(sparse, linear, layout.tile(exact.float()), layout.valid, counted[..., None] & layout.valid)
        return exact


@dataclass
class Normal:
    """Normal equations of one batch: ‖X θ − Y‖² = θᵀ gram θ − 2 θ·cross + energy. θ = 0 is the sparse branch alone."""

    gram: Tensor
    cross: Tensor
    energy: Tensor

    def error(self, theta: Tensor) -> Tensor:
        """‖X θ − Y‖², a scalar."""
        return self.energy - 2 * (theta * self.cross).sum() + (theta * (self.gram @ theta)).sum()


def fit(batches: Sequence[Normal]) -> tuple[Tensor, float]:
    """θ fitted to all batches, and the share of the energy that it explains on left-out batches. θ is zero if no ridge
    in RIDGES improves on that.
    """
    energy = sum(float(b.energy) for b in batches)
    start = torch.zeros_like(batches[0].cross)
    if energy == 0:
        return start, 0.0
    best = (energy, start)
    for ridge in RIDGES:
        if len(batches) == 1:
            error = float(batches[0].error(_solve(batches, ridge)))
        else:
            others = [_solve([*batches[:i], *batches[i + 1 :]], ridge) for i in range(len(batches))]
            error = sum(float(b.error(theta)) for b, theta in zip(batches, others))
        if error < best[0]:
            best = (error, _solve(batches, ridge))
    return best[1], 1 - best[0] / energy


def _solve(batches: Sequence[Normal], ridge: float) -> Tensor:
    gram, cross = (torch.stack([getattr(b, name) for b in batches]).sum(0) for name in ("gram", "cross"))
    size = ridge * gram.diagonal().mean().clamp(min=1e-30)
    return torch.linalg.solve(gram + size * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), cross)


class _Sum:
    """The fit of the sum mix, θ = Wᵀ (D, D)."""

    def __init__(self, module: SparseLinearAttention):
        self.weight = module.proj_lin.weight
        self.batches: list[Normal] = []

    def add(self, sparse: Tensor, linear: Tensor, exact: Tensor, valid: Tensor, counted: Tensor) -> None:
        """Add the branches and their target `exact`, (B, H, …, D) each. `valid` (…) masks the slots with a token.
        `counted` (…) or (B, H, …) masks the slots where the mix may differ from the sparse branch.
        """
        x, rest = (t[:, :, valid].flatten(0, 2).double() for t in (linear, exact - sparse))
        self.batches.append(Normal(x.T @ x, x.T @ rest, rest.square().sum()))

    def solve(self) -> float:
        theta, share = fit(self.batches)
        self.weight.copy_(theta.T)
        return share


class _Convex:
    """The fit of the convex mix: θ = 1 − α in O_sparse + (1 − α) (O_linear − O_sparse), for each head separately."""

    def __init__(self, module: SparseLinearAttention):
        self.logit = module.mix_logit
        self.batches: list[list[Normal]] = [[] for _ in self.logit]

    def add(self, sparse: Tensor, linear: Tensor, exact: Tensor, valid: Tensor, counted: Tensor) -> None:
        mask = counted[..., None]
        step, rest = (torch.where(mask, t, 0.0).double().transpose(0, 1) for t in (linear - sparse, exact - sparse))
        square, cross, energy = (t.flatten(1).sum(1) for t in (step.square(), step * rest, rest.square()))
        for batches, *parts in zip(self.batches, square, cross, energy):
            batches.append(Normal(parts[0].view(1, 1), parts[1].view(1), parts[2]))

    def solve(self) -> float:
        solved = [fit(batches) for batches in self.batches]
        alpha = (1 - torch.cat([theta for theta, _ in solved])).clamp(*ALPHA_RANGE)
        self.logit.copy_(alpha.logit())
        energy = [sum(float(b.energy) for b in batches) for batches in self.batches]
        return sum(share * e for (_, share), e in zip(solved, energy)) / max(sum(energy), 1e-30)
