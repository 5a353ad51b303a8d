"""The training loop of `adapters.py`: one student for several keep ratios."""

from __future__ import annotations

from itertools import islice

import low_rank
import numpy as np
import torch

from lite3r_cli.attention.sparse_config import SparseConfig, settle
from lite3r_cli.distillation.common_answer import Runner
from lite3r_cli.distillation.distill_data import DistillBatch
from lite3r_cli.distillation.distill_loop import Distiller
from lite3r_cli.distillation.objectives import answer_distance
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.sparsify import sparse_modules

PROBED = 8  # batches of the probe


class OneForAll(Distiller):
    """A distiller whose student keeps another share of attention in each step, and is measured in all its forms."""

    def __init__(self, *arguments, keeps: list[float]):
        super().__init__(*arguments)
        across = global_layers_of(self.student)
        self.forms: dict[float, SparseConfig] = {keep: settle(across, None, keep) for keep in keeps}
        self.drawn = np.random.default_rng(self.recipe.seed)
        self.norms: dict[str, float] = {}
        self.adapted: tuple[str, ...] = ()

    def keep(self, ratio: float) -> None:
        for name, module in sparse_modules(self.student).items():
            module.configure(self.forms[ratio], name)

    def adapt(self, rank: int, select: str) -> None:
        """Put adapters on the layers that a probe chooses, in the arithmetic of the last step."""
        self.round(True)
        batches = islice(self.data.batches(0, self.recipe.seed), PROBED)
        layers = low_rank.transformer_layers(self.student, self.high_precision)
        self.norms = low_rank.probe(layers, (self.losses(batch)["total"] for batch in batches))
        self.optimiser.zero_grad()
        self.round(False)
        self.adapted = low_rank.choose_layers(self.norms, select)
        layers = low_rank.transformer_layers(self.student, self.high_precision)
        chosen = {name: layers[name] for name in self.adapted}
        self.names = self.names + low_rank.adapt(self.student, chosen, rank, self.recipe.seed)

    def round(self, on: bool) -> None:
        self.arithmetic.round(on)
        for module in low_rank.adapted(self.student).values():
            module.rounded = on

    def merged(self) -> dict[str, torch.Tensor]:
        """The trained weights with their adapters merged, under the names of a checkpoint."""
        trained = {name: p.detach() for name, p in self.trained.values.items() if "lora_" not in name}
        with torch.no_grad():
            return trained | {f"{n}.weight": m.merged() for n, m in low_rank.adapted(self.student).items()}

    def validate(self) -> float:
        self.round(True)
        return super().validate()

    def train_step(self, batch: DistillBatch) -> dict[str, torch.Tensor]:
        self.round(self.recipe.is_fp8(self.step))
        self.keep(list(self.forms)[int(self.drawn.integers(len(self.forms)))])
        return super().train_step(batch)

    def _distance(self, network: Runner, batch: DistillBatch) -> float:
        answer, found = self.teacher(batch.images, batch.decoded), []
        for ratio in self.forms:
            self.keep(ratio)
            distance = answer_distance(network(batch.images, batch.decoded), answer)
            found.append(float(sum(distance.values()) - distance["confidence"]))
        return sum(found) / len(found)

    def without_branch(self) -> None:
        """Keep the linear branch without effect."""
        branch = [name for name in self.names if name.endswith("proj_lin.weight")]
        for name in branch:
            self.student.get_parameter(name).requires_grad_(False)
        self.names = [name for name in self.names if name not in branch]
        self._set_up()
