"""`lite3r train`: data, model and loop put together, on one device or under torchrun on several GPUs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from lite3r_cli import __version__
from lite3r_cli.checkpoints.sources import open_source
from lite3r_cli.config.training_run import TrainConfig
from lite3r_cli.console import Progress, Tell
from lite3r_cli.errors import OutputError
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.training.data import TrainingData
from lite3r_cli.training.initialise import load_checkpoint, load_encoder
from lite3r_cli.training.loop import Trainer
from lite3r_cli.training.loss_plot import plot_losses
from lite3r_cli.training.schedule import ShapeSchedule
from lite3r_cli.training.state import save_weights
from lite3r_cli.training.worker import worker_process


def run(config: TrainConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> None:
    """Train to the end of the budget; writes `mini.safetensors` (FP8), `average.safetensors`, the log and its plot to
    the output folder.

    Ctrl-C and SIGTERM save the state first. Raises OutputError when the folder holds a run and --resume was not given.
    """
    progress = progress or Progress()
    output = config.loop.output
    state = output / "state.safetensors"
    if not config.resume and state.exists():
        raise OutputError(f"{output}: holds a training run; go on with --resume or choose another folder")
    with worker_process(config.device) as worker:
        if worker.is_first:
            output.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.loop.seed)
        model = Mini(MiniConfig(known_cameras=True)).to(worker.device)
        _initialise(model, config.init, warn)
        model.head.to(memory_format=torch.channels_last)
        trainer = Trainer(model, config.loop, worker, lambda record: progress.note(_line(record)))
        if config.resume:
            trainer.resume(state)
        shapes = ShapeSchedule(**vars(config.shapes) | {"seed": config.loop.seed})
        if config.photos is None:
            shapes = dataclasses.replace(shapes, photos=0.0)
        data = TrainingData(
            shapes, worker.device, worker.rank, config.workers, config.textures, config.photos, config.loop.seed
        )
        try:
            trainer.run(data.batches)
        except BaseException as error:
            if worker.is_first and not isinstance(error, Exception):  # stopped by hand: nothing is broken
                trainer.save()
                progress.note(f"stopped at step {trainer.step}; go on with: lite3r train -o {output} --resume")
            raise
        if worker.is_first:
            _finish(config, trainer, progress)


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
    recipe = json.dumps(_plain(dataclasses.asdict(config)))
    state = trainer.average.state_dict()
    save_weights(
        output / "mini.safetensors", state, trainer.model, torch.float8_e4m3fn, version=__version__, recipe=recipe
    )
    plot_losses(output / "log.jsonl", output / "losses.png", progress.note)
    progress.note(
        f"{trainer.step} steps in {trainer.elapsed / 60:.1f} minutes; "
        f"{output / 'mini.safetensors'} is the FP8 checkpoint"
    )


def _plain(value):
    """Only what another machine can use: file names instead of paths."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value.name if isinstance(value, Path) else value


def _line(record: dict[str, float]) -> str:
    losses = " ".join(f"{k} {v:.3f}" for k, v in record.items() if k not in ("step", "seconds", "progress", "lr"))
    return f"step {record['step']} {record['seconds'] / 60:.1f} min lr {record['lr']:.1e} {losses}"
