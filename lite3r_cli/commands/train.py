"""`lite3r train`: train `mini` on procedural scenes, and on posed photographs where there are some."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options


def train(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for checkpoints, log and loss plot.")
    ],
    budget_minutes: Annotated[float, typer.Option(help="Wall time to train for; the learning rate follows it.")] = 20.0,
    max_steps: Annotated[int | None, typer.Option(help="Stop after this many steps at the latest.")] = None,
    init: Annotated[
        list[Path] | None,
        typer.Option(
            help="Where to start: a checkpoint of mini, or a ViT-S/14 encoder (timm names; repeat the option "
            "for its shards)."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from DIR/state.safetensors.")] = False,
    textures: Annotated[
        Path | None, typer.Option(help=".npz of JPEG crops (`data`, `offsets`) to paint surfaces with.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of posed photo scenes (cameras.json, points.npz) to mix in.")
    ] = None,
    photo_share: Annotated[float, typer.Option(help="Share of steps on photographs, with --photos.")] = 0.06,
    tokens: Annotated[int, typer.Option(help="Tokens per GPU and step: the batch size, whatever the shape.")] = 49_152,
    low_resolution_steps: Annotated[int, typer.Option(help="First steps at 224-336 px only.")] = 0,
    portrait: Annotated[float, typer.Option(help="Share of portrait batches.")] = 0.3,
    optimiser: Annotated[str, typer.Option(metavar="adamw|muon", help="Optimiser of the blocks' matrices.")] = "adamw",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 4e-4,
    encoder_factor: Annotated[float, typer.Option(help="Times --lr, for the first, pretrained blocks.")] = 0.3,
    rounded_share: Annotated[float, typer.Option(help="Last share of the budget on FP8-rounded weights.")] = 0.25,
    save_minutes: Annotated[float, typer.Option(help="Minutes between two checkpoints.")] = 3.0,
    workers: Annotated[int, typer.Option(help="Processes per GPU that sample scenes.")] = 8,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the transformer blocks (CUDA).")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device to train on.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the scenes.")] = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Train mini for a given time; under torchrun on several GPUs.

    Example: torchrun --nproc-per-node 4 -m lite3r_cli.cli train -o runs/a --init encoder.safetensors --compile
    """
    from lite3r_cli.errors import UsageError
    from lite3r_cli.pipelines.train import TrainConfig, run
    from lite3r_cli.training.loop import LoopConfig
    from lite3r_cli.training.schedule import ShapeSchedule

    if optimiser not in ("adamw", "muon"):
        raise UsageError(f"--optimiser {optimiser}: use adamw or muon")
    run(
        TrainConfig(
            loop=LoopConfig(
                output=output,
                budget_minutes=budget_minutes,
                max_steps=max_steps,
                lr=lr,
                encoder_factor=encoder_factor,
                muon=optimiser == "muon",
                rounded_share=rounded_share,
                save_minutes=save_minutes,
                compile=compile,
                seed=seed,
            ),
            shapes=ShapeSchedule(
                tokens, low_resolution_steps, portrait, photos=photo_share if photos is not None else 0.0, seed=seed
            ),
            init=tuple(init or ()),
            resume=resume,
            textures=textures,
            photos=photos,
            workers=workers,
            device=device,
        )
    )
