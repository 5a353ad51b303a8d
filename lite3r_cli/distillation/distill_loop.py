"""The distillation loop: a student learns from its teacher, on one device or with DDP; a run can be resumed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.config.distill_recipe import Recipe
from lite3r_cli.distillation.capture import captured, select_layers
from lite3r_cli.distillation.common_answer import Runner, has_unit_scale
from lite3r_cli.distillation.distill_data import Data, DistillBatch, first_batches
from lite3r_cli.distillation.linear_branch import fit_linear_branches
from lite3r_cli.distillation.objectives import answer_distance, attention_distance, true_losses
from lite3r_cli.distillation.students import Arithmetic, Trained, make_pair
from lite3r_cli.errors import UsageError
from lite3r_cli.io.log_lines import append_line
from lite3r_cli.networks.base import Network
from lite3r_cli.training.optimiser import DivergedError, WeightAverage, learning_rate_factor, set_learning_rate
from lite3r_cli.training.own_files import may_draw
from lite3r_cli.training.state import Dependencies, load_training_state, save_training_state
from lite3r_cli.training.worker import Worker

STATE, LOG, PLOT = "state.safetensors", "log.jsonl", "losses.png"
LOGIT_FACTOR = 20.0  # factor of the learning rate for the logits of the convex mix
Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class StudentPlan:
    """The student to train: a loaded network, its sparse attention, and the weights whose products never run in FP8."""

    model: Network
    sparse: SparseConfig
    high_precision: Sequence[str]  # name patterns of weights


def _groups(trained: Trained, lr: float) -> list[dict]:
    """Parameter groups with their own peak rates: logits change by several units, matrix entries by hundredths."""
    kinds: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained.values.items():
        kinds.setdefault(LOGIT_FACTOR if name.endswith("mix_logit") else 1.0, []).append(parameter)
    return [{"params": p, "lr": factor * lr, "peak_lr": factor * lr} for factor, p in kinds.items()]


def dependencies(
    recipe: Mapping[str, Any], sparse: SparseConfig | None, inputs: Mapping[str, Any], anyway: bool = False
) -> Dependencies:
    """What determines the result of a run. What is not known yet is left out: keys of the recipe, inputs, `sparse`."""
    parts = {"recipe": recipe, "inputs": inputs} | ({} if sparse is None else {"sparse": asdict(sparse)})
    return Dependencies("distill", parts, anyway)


class Distiller:
    """Teacher, student and the training state. `report(record)` is called on rank 0 with each logged record."""

    def __init__(
        self,
        network: StudentPlan,
        recipe: Recipe,
        worker: Worker,
        data: Data,
        folder: Path | None,
        report: Report,
        depends_on: Dependencies | None = None,
    ):
        """`depends_on`: everything that determines the result, stored in the state."""
        self.depends_on = depends_on or dependencies(asdict(recipe), network.sparse, {})
        self.data, self.measured = data, data.measured(recipe.validation_batches)
        self.recipe, self.worker, self.folder, self.report = recipe, worker, folder, report
        teacher, self.student, self.names = make_pair(network.model, network.sparse, recipe.trainable)
        self.layers = select_layers(self.student, recipe.attention_layers)
        self.unit_scale = has_unit_scale(self.student)
        self.teacher_network, self.teacher = teacher, Runner(teacher)
        self.high_precision = network.high_precision
        self._set_up()
        self.step, self.elapsed = 0, 0.0
        self.whole = True  # whether weights, averages and step counter are consistent
        old = folder is not None and any((folder / name).exists() for name in (STATE, LOG, PLOT))
        # the log up to the first save, which writes state and log together; until then an older run stays complete
        self._lines: list[str] = []
        self.owns_folder = not old
        self._saved = False

    def _set_up(self) -> None:
        """Create everything that depends on which parameters are trained."""
        self.runner: nn.Module = Runner(self.student)
        self.trained = Trained(self.student, self.names)
        if self.worker.world > 1:
            ids = [self.worker.device.index] if self.worker.device.type == "cuda" else None
            self.runner = DistributedDataParallel(self.runner, device_ids=ids)
        self.optimiser = torch.optim.AdamW(_groups(self.trained, self.recipe.lr), betas=(0.9, 0.98), weight_decay=0.0)
        self.average = WeightAverage(self.trained, self.recipe.ema_decay)
        self.arithmetic = Arithmetic(self.student, self.high_precision)

    # -- before the first step -----------------------------------------------------------------------------------------

    def fit_linear_branches(self) -> dict[str, float]:
        """Initialise the linear branches in closed form. Returns per layer the share of the sparse branch's squared
        error that they remove.
        """
        batches = first_batches(self.data, self.recipe.calibration_batches, self.recipe.seed)
        network = Runner(self.student)
        shares = fit_linear_branches(self.student, (network(b.images, b.decoded[:1]) for b in batches))
        self._restart_average()
        return shares

    def _restart_average(self) -> None:
        """Broadcast the parameters from rank 0 and restart the EMA from them."""
        if self.worker.world > 1:
            for parameter in self.trained.parameters():
                torch.distributed.broadcast(parameter.data, 0)
        self.average = WeightAverage(self.trained, self.recipe.ema_decay)

    def resume(self, path: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        """Load a state. Raises WeightsError if it is damaged, UsageError if it belongs to another run."""
        self.depends_on.check(path, tell)
        self.step, self.elapsed = load_training_state(
            path, self.trained, self.average, [self.optimiser], None if self.depends_on.anyway else self.recipe.steps
        )
        self._saved = self.owns_folder = True

    def save(self) -> None:
        """Save the state. The first time also write the log and remove the files of an older run."""
        if self.folder is None:
            return
        new = {} if self._saved else {LOG: "".join(self._lines).encode()}
        save_training_state(
            self.folder / STATE,
            self.trained,
            self.average,
            [self.optimiser],
            self.step,
            round(self.elapsed, 3),
            self.depends_on,
            beside=new,
            gone=(PLOT,) if new and may_draw(self.folder / PLOT) else (),
        )
        self._saved = self.owns_folder = True

    def finish(self) -> None:
        """Replace an older run by this one, even if no step was made."""
        if not self._saved:
            self.save()

    # -- training ------------------------------------------------------------------------------------------------------

    def run(self, tick: Callable[[str], None] = lambda text: None, between: Callable[[], None] = lambda: None) -> None:
        """Train to the last step. `tick` is called after each step with the latest losses, or an empty text if there is
        nothing new. `between` is called between steps, where the run may be stopped.
        """
        start = time.monotonic() - self.elapsed
        if self.step == 0:
            self._log({"measured": self.validate()})
            if self.owns_folder:
                self.save()
        window: list[dict[str, Tensor]] = []
        batches = self.data.batches(self.step, self.recipe.seed)
        while self.step < self.recipe.steps:
            between()
            window.append(self.train_step(next(batches)))
            self.elapsed = time.monotonic() - start
            text = ""
            if self.step % self.recipe.log_every == 0 or self.step == self.recipe.steps:
                text, window = self._log_window(window), []
            if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps:
                self._log({"measured": self.validate()})
                self.save()
            tick(text)
        between()

    def train_step(self, batch: DistillBatch) -> dict[str, Tensor]:
        """One step. Returns the weighted losses, scalars on the device. `whole` is False while parameters change."""
        self.arithmetic.round(self.recipe.is_fp8(self.step))
        factor = learning_rate_factor(self.step, self.step / max(1, self.recipe.steps), self.recipe.warmup_steps)
        set_learning_rate([self.optimiser], factor)
        terms = self.losses(batch)
        terms["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        self.whole = False
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(self.step)
        self.step += 1
        self.whole = True
        return {**{k: v.detach() for k, v in terms.items()}, "grad_norm": norm}

    def losses(self, batch: DistillBatch) -> dict[str, Tensor]:
        """The weighted loss terms of a batch and their sum "total". Raises UsageError if there is no term."""
        recipe = self.recipe
        with torch.no_grad(), captured(self.teacher_network, self.layers) as wanted:
            answer = self.teacher(batch.images, batch.decoded)
        with captured(self.student, self.layers) as given:
            out = self.runner(batch.images, batch.decoded)
        terms = {}
        weight = recipe.attention_weight_at(self.step)
        if weight > 0:
            terms["attention"] = weight * attention_distance(given, wanted, recipe.attention_loss)
        has_depth = batch.targets is not None and bool((batch.targets.depth > 0).any())
        if batch.targets is not None and recipe.match_teacher != "always":
            terms["truth"] = true_losses(out, batch.targets, self.unit_scale, batch.sky)["total"]
        if recipe.match_teacher == "always" or (recipe.match_teacher == "auto" and not has_depth):
            terms["teacher"] = torch.stack(list(answer_distance(out, answer).values())).sum()
        if not terms:
            raise UsageError("nothing to learn from: no truth, --match-teacher never, and --attention-weight 0")
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    # -- measuring -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> float:
        """The distance of the EMA student's depth and cameras from the teacher's, mean over the validation batches.
        Keeps the values with the lowest distance. Raises DivergedError if it is not finite.

        Uses the arithmetic of the last step (FP8 or not), so that all stages are comparable.
        """
        exact = {name: p.detach().clone() for name, p in self.trained.named_parameters()}
        averages = self.average.state_dict()
        self.arithmetic.round(self.recipe.is_fp8(self.recipe.steps))
        network = Runner(self.student)
        try:  # restore the weights even after an error
            self._put(averages)
            scores = [self._distance(network, batch) for batch in self.measured]
        finally:
            self._put(exact)
        score = sum(scores) / len(scores)
        if not math.isfinite(score):
            raise DivergedError(f"distillation diverged before step {self.step}; start again with a lower --lr")
        self.trained.keep_best(averages, score)
        return score

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.named_parameters():
            parameter.copy_(values[name])

    def _distance(self, network: Runner, batch: DistillBatch) -> float:
        distance = answer_distance(network(batch.images, batch.decoded), self.teacher(batch.images, batch.decoded))
        return float(sum(distance.values()) - distance["confidence"])

    def use_best(self) -> None:
        """Load the best EMA values into the student, with the arithmetic of the last step, in evaluation mode."""
        for name, parameter in self.trained.values.items():
            parameter.data.copy_(self.trained.best[name])
        self.arithmetic.round(self.recipe.is_fp8(self.recipe.steps))
        self.student.eval()

    # -- telling -------------------------------------------------------------------------------------------------------

    def _log_window(self, window: list[dict[str, Tensor]]) -> str:
        mean = self.worker.means(window)
        if not math.isfinite(mean["grad_norm"]):
            raise DivergedError(f"distillation diverged before step {self.step}; start again with a lower --lr")
        self._log({"lr": self.optimiser.param_groups[0]["lr"], **mean})
        return " ".join(f"{name} {value:.4f}" for name, value in mean.items() if name != "grad_norm")

    def _log(self, values: dict[str, float]) -> None:
        if not self.worker.is_first:
            return
        progress = round(self.step / max(1, self.recipe.steps), 4)
        record = {"step": self.step, "seconds": round(self.elapsed, 1), "progress": progress}
        record |= {k: float(f"{v:.6g}") for k, v in values.items()}
        line = json.dumps(record) + "\n"
        if not self._saved:
            self._lines.append(line)
        elif self.folder is not None:
            append_line(self.folder / LOG, line)
        self.report(record)
