"""`lite3r distill`: trains the sparse-linear, FP8-aware form of a network to match its dense form. One checkpoint has
both.
"""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import runtime
from ..attention.sparse_config import SparseConfig, settle
from ..checkpoints.shards import shard_files
from ..checkpoints.write import bring_right, refuse_existing, require_space
from ..config.distill_recipe import DistillConfig, SparseChoice
from ..console import Progress, Tell
from ..data.content import content_of
from ..distillation.distill_data import PROCEDURAL, Data, Sizes, open_data
from ..distillation.distill_loop import LOG, PLOT, STATE, Distiller, StudentPlan, dependencies
from ..errors import OutputError, UsageError, WeightsError
from ..io.beneath import refuse_links
from ..io.files import output_error
from ..io.kept_inputs import require_no_data, require_not_read
from ..io.locks import in_the_way, run_folder
from ..networks.base import Network
from ..networks.checkpoint import Checkpoint, open_checkpoint
from ..networks.family import exact_products, global_layers_of
from ..networks.recognise import CheckpointSpec
from ..networks.sparsify import apply_sparse, skipped_share
from ..stopping import between_steps
from ..training.loss_plot import plot_losses
from ..training.state import Dependencies, read_metadata, recover_run, require_state, saved_as_it_stops
from ..training.worker import Worker, worker_process
from .convert_plan import select_attention
from .distill_write import stored_bytes, write_student

CPU_RESOLUTION = 252  # pixels: with this, a step takes seconds on two cores
GPU_WORKERS = 8  # processes per GPU that load data


@dataclass(frozen=True)
class DistillReport:
    """The outcome, for the table and for --json."""

    output: Path
    model: str
    sha256: str  # of the teacher's checkpoint
    trained: int
    parameters: int
    layers: tuple[str, ...]
    steps: int
    seconds: float
    measured_before: float | None  # distance of depth and cameras from the teacher's on held-out batches; None: resumed
    measured: float  # the same with the best averaged weights
    skipped: float  # share of key blocks over all layers across views, at the training shape
    calibrated: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"output": str(self.output)}


def run(
    config: DistillConfig, progress: Progress | None = None, warn: Tell = lambda text: None
) -> DistillReport | None:
    """Distil; None on ranks other than 0. Ctrl-C and SIGTERM wait for the end of a step, whose state is saved.

    Raises the errors of errors.py; an existing checkpoint or run is refused without `overwrite` or `resume`.
    """
    progress = progress or Progress()
    _check_output(config)
    with worker_process(config.device) as worker:
        config = _settled(config, worker)
        inputs = _Inputs(config, worker)
        with open_checkpoint(config.model, progress.note) as teacher:
            refuse_existing(config.output, config.overwrite, shard_files(teacher.path))
            if not worker.is_first:
                progress = Progress()
            with run_folder(config.folder) if worker.is_first else nullcontext():
                _check_output(config)  # from here on no other run can write there
                config = _sized(config, teacher, worker, progress)
                if worker.is_first:
                    require_space(config.output, stored_bytes(teacher))  # before hours of training, not after them
                built = teacher.build()
                sparse = _sparse_of(built, config.sparse, teacher.sparse, teacher.spec)
                inputs.take_teacher(config, teacher, sparse)
                data = _open_data(config, worker, built.patch_size, progress, warn, inputs.take_data)
                network = _load(config, teacher, built, sparse, worker.device, progress)
                return _distil(config, worker, network, teacher, data, inputs.found, progress)


class _Inputs:
    """What determines the result, found step by step. With --resume each part is compared with the state before a
    slower one is found. Raises UsageError.
    """

    def __init__(self, config: DistillConfig, worker: Worker) -> None:
        """All that is known without the teacher, which may have to be downloaded."""
        self._state = config.folder / STATE if config.goes_on else None
        recipe = {name: value for name, value in asdict(config.recipe).items() if name != "resolution"}
        if config.resolution is not None:
            recipe["resolution"] = config.resolution
        known = {"textures": content_of(config.textures), "dtype": config.dtype, "processes": worker.world}
        self._take(dependencies(recipe, None, known, config.resume_anyway))

    def take_teacher(self, config: DistillConfig, teacher: Checkpoint, sparse: SparseConfig) -> None:
        recipe, inputs = asdict(config.recipe), self.found.parts["inputs"]
        self._take(dependencies(recipe, sparse, inputs, self.found.anyway))
        known = {**inputs, "teacher": teacher.fingerprint.result()}
        self._take(dependencies(recipe, sparse, known, self.found.anyway))

    def take_data(self, content: str) -> None:
        parts = self.found.parts
        self._take(replace(self.found, parts={**parts, "inputs": {**parts["inputs"], "data": content}}))

    def _take(self, found: Dependencies) -> None:
        self.found = found
        if self._state is not None:
            found.check_so_far(self._state)


def _open_data(
    config: DistillConfig, worker: Worker, multiple: int, progress: Progress, warn: Tell, is_content: Tell
) -> Data:
    recipe = config.recipe
    sizes = Sizes(recipe.views, recipe.batch, recipe.resolution, multiple, recipe.seed)
    data = open_data(
        config.data, sizes, worker.device, worker.rank, config.workers or 0, config.textures, config.strict,
        lambda text: warn(f"data: {text}"), is_content,
    )  # fmt: skip
    for text in data.notes:
        progress.note(f"data: {text}")
    for text in data.damaged if worker.is_first else ():
        warn(f"data: {text}")
    return data


def _distil(
    config: DistillConfig,
    worker: Worker,
    network: StudentPlan,
    teacher: Checkpoint,
    data: Data,
    depends_on: Dependencies,
    progress: Progress,
) -> DistillReport | None:
    def report(record: dict[str, float]) -> None:
        if "measured" in record:
            progress.note(f"step {record['step']}: distance from the teacher, held out: {record['measured']:.5f}")

    folder = config.folder if worker.is_first else None
    distiller = Distiller(network, config.recipe, worker, data, folder, report, depends_on)
    total = sum(p.numel() for p in network.model.parameters())
    progress.note(
        f"{distiller.trained.count():,} of {total:,} parameters train "
        f"({len(network.sparse.layers)} sparse layers, {', '.join(sorted(_leaves(distiller.trained.names)))})"
    )
    before: float | None = None
    shares: dict[str, float] = {}
    if config.goes_on:
        distiller.resume(config.folder / STATE, progress.note)
        progress.note(f"going on from step {distiller.step}")
    else:
        before = distiller.validate()
        progress.note(f"without effect of the linear branch: distance from the teacher, held out: {before:.5f}")
    if not config.goes_on and config.recipe.start == "calibrated":
        with progress.stage("Calibrate"):
            shares = distiller.fit_linear_branches()
        progress.note("calibrated: of sparse attention's squared error the linear branch removes "
                      + ", ".join(f"{100 * share:.0f} %" for share in shares.values()))  # fmt: skip
    with saved_as_it_stops(
        distiller, worker, lambda at: progress.note(f"{at}; go on with the same command and --resume")
    ):
        with between_steps(worker.patience) as signals, progress.stage("Distil", total=config.recipe.steps) as step:
            distiller.run(step, lambda: worker.obey(signals))
    if not worker.is_first:
        return None
    distiller.finish()
    distiller.use_best()
    recipe = asdict(config.recipe) | {"data": [Path(name).name for name in config.data]}
    write_student(config.output, teacher, distiller.trained.best, network.sparse, json.dumps(recipe), config.overwrite)
    plot_losses(config.folder / LOG, config.folder / PLOT, progress.note)
    return DistillReport(
        config.output,
        teacher.spec.name,
        teacher.fingerprint.result(),
        distiller.trained.count(),
        total,
        network.sparse.layers,
        distiller.step,
        round(distiller.elapsed, 1),
        before,
        float(distiller.trained.best_score),
        skipped_share(distiller.student),
        shares,
    )


def _leaves(names: list[str]) -> set[str]:
    """The last two parts of each name: the kind of a parameter."""
    return {".".join(name.split(".")[-2:]) if name.endswith("weight") else name.split(".")[-1] for name in names}


def _check_output(config: DistillConfig) -> None:
    """Raises OutputError unless a run may write there."""
    try:
        _look_at_output(config)
    except OSError as error:
        raise output_error(config.output, error) from error


def _look_at_output(config: DistillConfig) -> None:
    """Raises OutputError for files that do not belong to a run of this command; the name of the folder alone does not
    prove it.
    """
    refuse_links(config.folder.parent, config.folder.name)
    if not os.path.lexists(config.folder / STATE):  # a run that is there was started apart from the data
        require_no_data(config.folder, [Path(name) for name in config.data if name != PROCEDURAL])
    if config.textures is not None:
        require_not_read([config.output], {config.textures: "the file of --textures"})
    recover_run(config.folder, STATE, PLOT)
    state = config.folder / STATE
    if config.goes_on and not state.is_file():
        raise UsageError(f"--resume: no {state} to go on from; start without it")
    if config.goes_on:
        require_state(state, "distill")
    bring_right(config.output)
    refuse_existing(config.output, config.overwrite, (), [config.output.name])
    present = [name for name in (STATE, LOG, PLOT) if os.path.lexists(config.folder / name)]
    if present and present[0] != STATE:
        raise in_the_way(config.folder / present[0])
    if not present or config.goes_on:
        return
    try:
        kind = read_metadata(state)["run"]
    except WeightsError as error:  # an older version, damaged, or foreign
        raise OutputError(str(error)) from error
    if kind != "distill":
        raise OutputError(f"{config.folder}: holds a run of lite3r {kind}; move it or choose another -o")
    if not config.overwrite:
        raise OutputError(f"{config.folder}: holds a run; go on with --resume, start anew with --overwrite")


def _settled(config: DistillConfig, worker: Worker) -> DistillConfig:
    """The unset options that the device decides."""
    on_gpu = worker.device.type == "cuda"
    dtype = config.dtype
    if dtype == "auto" and not on_gpu:
        dtype = "float32"  # bfloat16 gradients are not faster on a CPU
    chosen = runtime.choose(str(worker.device), dtype)
    workers = (GPU_WORKERS if on_gpu else 0) if config.workers is None else config.workers
    return replace(config, dtype=chosen.dtype.chosen, workers=workers)


def _sized(config: DistillConfig, teacher: Checkpoint, worker: Worker, progress: Progress) -> DistillConfig:
    """The resolution, if unset, decided for the teacher and the device; printed with what `_settled` decided."""
    resolution, why = config.resolution, "asked for"
    if resolution is None:
        own, on_gpu = teacher.spec.family.preparation.resolution, worker.device.type == "cuda"
        resolution, why = (own, "the model's own") if on_gpu else (CPU_RESOLUTION, "on a CPU")
    progress.note(
        f"device {worker.device} ({worker.world} process{'es' * (worker.world > 1)}), {config.dtype}; "
        f"{config.recipe.views} views of {resolution} px a scene ({why})"
    )
    return replace(config, recipe=replace(config.recipe, resolution=resolution))


def _load(
    config: DistillConfig,
    teacher: Checkpoint,
    built: Network,
    sparse: SparseConfig,
    device: torch.device,
    progress: Progress,
) -> StudentPlan:
    for text in teacher.origin.notes:
        progress.note(text)
    with progress.stage("Load model"):
        model = teacher.load(device, built=built)
    model.compute_dtype = getattr(torch, config.dtype)
    apply_sparse(model, sparse)
    return StudentPlan(model, sparse, exact_products(model))


def _sparse_of(
    model: nn.Module, choice: SparseChoice, present: SparseConfig | None, spec: CheckpointSpec
) -> SparseConfig:
    """The student's attention: that of the checkpoint, changed as requested. `model` needs no values.

    Raises UsageError for invalid settings, or a mix that differs from the checkpoint's.
    """
    asked = {name: value for name, value in asdict(choice).items() if value is not None}
    patterns, ratio = asked.pop("layers"), asked.pop("keep_ratio", None)
    layers = select_attention(model, spec, patterns) if patterns else None
    return settle(global_layers_of(model), present, ratio, layers, **asked)
