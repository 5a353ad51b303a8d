"""A frozen dense teacher and its sparse student, which share all tensors that are not trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import SparseLinearAttention, attach
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.config.distill_recipe import LINEAR_BRANCH
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Attention
from lite3r_cli.quant.swap import swap_linears


def densify(network: nn.Module) -> None:
    """Replace every sparse-linear module by dense attention, in place. The linear branches are dropped."""
    for name, module in [(n, m) for n, m in network.named_modules() if isinstance(m, SparseLinearAttention)]:
        dense = Attention.__new__(Attention)
        nn.Module.__init__(dense)
        dense.heads = module.heads
        dense.qkv, dense.proj, dense.q_norm, dense.k_norm = module.qkv, module.proj, module.q_norm, module.k_norm
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, dense)


def make_pair(
    network: nn.Module, sparse: SparseConfig, trainable: Sequence[str]
) -> tuple[nn.Module, nn.Module, list[str]]:
    """Teacher, student and the names of the trained parameters. The loaded `network` becomes the student, in place.

    The teacher is its dense form. The student has its own copies of trained tensors and shares all others with the
    teacher. Raises UsageError for a pattern in `trainable` that matches no parameter.
    """
    attach(network, sparse)
    names = trainable_names(network, trainable)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in set(names))
    shared = {id(p): p for p in [*network.parameters(), *network.buffers()] if not p.requires_grad}
    teacher = copy.deepcopy(network, memo=shared)
    densify(teacher)
    return teacher.requires_grad_(False).eval(), network.train(), names


def trainable_names(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the parameters of the linear branches, and of those that match `patterns`. Raises UsageError."""
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--trainable {pattern}: no parameter has this name; one of them is {names[0]}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in (*LINEAR_BRANCH, *patterns))]


class Arithmetic:
    """Switches a student's linear layers between exact products and products with both operands rounded to FP8
    (straight-through gradients). Layers whose weight matches `high_precision` stay exact. Both forms share parameters.
    """

    def __init__(self, student: nn.Module, high_precision: Sequence[str]):
        self.student = student
        linears = {name: m for name, m in student.named_modules() if isinstance(m, nn.Linear)}
        self.kept = swap_linears(
            student, "fake-quant", lambda name, _: any(fnmatchcase(f"{name}.weight", p) for p in high_precision)
        )
        swapped = {name: student.get_submodule(name) for name in linears}
        self.pairs = {name: (m, swapped[name]) for name, m in linears.items() if swapped[name] is not m}
        self.rounded = True
        self.round(False)

    def round(self, on: bool) -> None:
        """Switch FP8 rounding on or off."""
        if on == self.rounded:
            return
        for name, pair in self.pairs.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self.student.get_submodule(parent), leaf, pair[on])
        self.rounded = on


class Trained(nn.Module):
    """The trained parameters of a student, as a module that can be averaged, saved and resumed. `best` holds the EMA
    values with the lowest validation distance so far.

    torch does not allow dots in parameter names; here slashes replace them.
    """

    best_score: Tensor  # ()

    def __init__(self, student: nn.Module, names: Sequence[str]):
        super().__init__()
        self.names = list(names)
        parameters = dict(student.named_parameters())
        for name in names:
            self.register_parameter(name.replace(".", "/"), parameters[name])
            self.register_buffer("best/" + name.replace(".", "/"), parameters[name].detach().clone())
        self.register_buffer("best_score", torch.tensor(math.inf, device=parameters[names[0]].device))

    @property
    def values(self) -> dict[str, nn.Parameter]:
        """Name in the student → parameter."""
        return {name: self.get_parameter(name.replace(".", "/")) for name in self.names}

    @property
    def best(self) -> dict[str, Tensor]:
        """Name in the student → best EMA value."""
        return {name: self.get_buffer("best/" + name.replace(".", "/")) for name in self.names}

    @torch.no_grad()
    def keep_best(self, averages: dict[str, Tensor], score: float) -> bool:
        """Store these values if their score is the lowest so far; returns whether it is."""
        if score >= float(self.best_score):
            return False
        for name, value in self.best.items():
            value.copy_(averages[name.replace(".", "/")])
        self.best_score.fill_(score)
        return True

    def count(self) -> int:
        """The number of trained parameters."""
        return sum(p.numel() for p in self.parameters())
