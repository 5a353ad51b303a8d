"""`lite3r train`: combines data, model and training loop, on one device or under torchrun on several GPUs."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from lite3r_cli import __version__
from lite3r_cli.checkpoints.tensor_sources import open_source
from lite3r_cli.config.training_run import TrainConfig
from lite3r_cli.console import Progress, Tell
from lite3r_cli.data.content import content_of
from lite3r_cli.errors import OutputError, UsageError
from lite3r_cli.io.files import output_error
from lite3r_cli.io.kept_inputs import require_no_data
from lite3r_cli.io.locks import in_the_way, run_folder
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.stopping import between_steps
from lite3r_cli.training.initialise import load_checkpoint, load_encoder
from lite3r_cli.training.loss_plot import plot_losses
from lite3r_cli.training.own_files import KEY, mark_of, require_own
from lite3r_cli.training.shape_schedule import ShapeSchedule
from lite3r_cli.training.state import (
    Dependencies,
    read_metadata,
    recover_run,
    require_state,
    save_weights,
    saved_as_it_stops,
)
from lite3r_cli.training.train_data import TrainingData
from lite3r_cli.training.train_loop import AVERAGE, LOG, PLOT, RESULT, STATE, Trainer
from lite3r_cli.training.worker import Worker, worker_process


def run(config: TrainConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> None:
    """Train to the end of the budget. Writes `mini.safetensors` (FP8), `average.safetensors`, the log and its plot to
    the output folder.

    Ctrl-C and SIGTERM wait for the end of a step, whose state is saved. Raises OutputError if the folder has a run and
    --resume was not given.
    """
    progress = progress or Progress()
    output = config.loop.output
    _check_output(config)
    with worker_process(config.device) as worker, run_folder(output) if worker.is_first else nullcontext():
        _check_output(config)  # from here on no other run can write there
        depends_on = _dependencies(config, worker)
        torch.manual_seed(config.loop.seed)
        model = Mini(MiniConfig(known_cameras=True, camera_layers=2)).to(worker.device)
        if not config.goes_on:
            _initialise(model, config.init, warn)
        model.head.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch has it, its stub has not
        shapes = ShapeSchedule(**vars(config.shapes) | {"seed": config.loop.seed})
        if config.photos is None:
            shapes = dataclasses.replace(shapes, photos=0.0)
        marks = {depends_on.mark, *(_marks(config) if config.goes_on else ())}
        trainer = Trainer(model, config.loop, worker, lambda record: progress.note(_line(record)), depends_on)
        if config.goes_on:
            trainer.resume(output / STATE, warn)
        data = TrainingData(
            shapes, worker.device, worker.rank, config.workers, config.textures, config.photos, config.loop.seed,
            config.strict, warn,
        )  # fmt: skip
        advice = f"go on with: lite3r train -o {output} --resume, and the same options"
        with (
            saved_as_it_stops(trainer, worker, lambda at: progress.note(f"{at}; {advice}")),
            between_steps(worker.patience) as signals,
        ):
            trainer.run(data.batches, lambda: worker.obey(signals))
        if worker.is_first:
            require_own(output / RESULT, marks)
            _finish(config, trainer, progress)


def _check_output(config: TrainConfig) -> None:
    """Raises OutputError unless a run may write there."""
    try:
        _look_at_output(config)
    except OSError as error:
        raise output_error(config.loop.output, error) from error


def _look_at_output(config: TrainConfig) -> None:
    """Raises OutputError if the folder has a run, or foreign files with these names."""
    output = config.loop.output
    recover_run(output, STATE, PLOT, AVERAGE, RESULT)
    if config.photos is not None and not os.path.lexists(output / STATE):
        require_no_data(output, [config.photos])
    present = [name for name in (STATE, LOG, PLOT, AVERAGE, RESULT) if os.path.lexists(output / name)]
    if config.goes_on:
        if STATE not in present:
            raise UsageError(f"--resume: no {output / STATE} to go on from; start without it")
        require_state(output / STATE, "train")
        for name in (AVERAGE, RESULT):
            require_own(output / name, _marks(config))
    elif STATE in present:
        raise OutputError(f"{output}: holds a training run; go on with --resume or choose another folder")
    elif present:
        raise in_the_way(output / present[0])


def _marks(config: TrainConfig) -> set[str]:
    """The mark of the checkpoints of the run whose state is there; "", that of none, for one of an earlier version."""
    metadata = read_metadata(config.loop.output / STATE)
    return {mark_of(metadata["settings"]) if "tensors" in metadata else ""}


def _dependencies(config: TrainConfig, worker: Worker) -> Dependencies:
    """What affects the result: not the location of files, nor the interval of checkpoints. With --resume each value is
    compared with the state before a slower one is found. Raises UsageError.
    """
    loop = {
        key: value for key, value in vars(config.loop).items() if key not in ("output", "log_every", "save_minutes")
    }
    parts = {"loop": _plain(loop | {"weights": vars(config.loop.weights)}), "shapes": vars(config.shapes)}
    quickest_first = {
        "processes": lambda: worker.world,
        "textures": lambda: content_of(config.textures),
        "photos": lambda: content_of(config.photos),
    }
    inputs: dict[str, Any] = {}
    found = Dependencies("train", parts | {"inputs": inputs}, config.resume_anyway)
    for name, find in quickest_first.items():
        inputs[name] = find()
        if config.goes_on:
            found.check_so_far(config.loop.output / STATE)
    return found


def _initialise(model: Mini, files: tuple[Path, ...], warn: Tell) -> None:
    if not files:
        warn("training from random weights; --init names a pretrained encoder or a checkpoint")
        return
    with open_source(files[0]) as source:
        is_ours = "config" in source.metadata
    if is_ours:
        load_checkpoint(model, files[0])
    else:
        load_encoder(model, list(files))


def _finish(config: TrainConfig, trainer: Trainer, progress: Progress) -> None:
    output = config.loop.output
    plain = _plain(dataclasses.asdict(config))
    for name in ("resume", "resume_anyway", "workers", "device"):  # do not affect the result
        del plain[name]
    del plain["loop"]["output"]
    recipe = json.dumps(plain)
    state = trainer.average.state_dict()
    save_weights(output / RESULT, state, trainer.model, torch.float8_e4m3fn, version=__version__, recipe=recipe,
                 **{KEY: trainer.depends_on.mark})  # fmt: skip
    plot_losses(output / LOG, output / PLOT, progress.note)
    progress.note(
        f"{trainer.step} steps in {trainer.elapsed / 60:.1f} minutes; {output / RESULT} is the FP8 checkpoint"
    )


def _plain(value):
    """Only what is valid on another machine: file names instead of paths."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.name if isinstance(value, Path) else value


def _line(record: dict[str, float]) -> str:
    losses = " ".join(f"{k} {v:.3f}" for k, v in record.items() if k not in ("step", "seconds", "progress", "lr"))
    return f"step {record['step']} {record['seconds'] / 60:.1f} min lr {record['lr']:.1e} {losses}"
