"""`lite3r distill`: teach a network's sparse-linear, FP8-aware form to answer as its dense form does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console
from . import options

STUDENT, LOSS, TRAINING = "Student", "Loss", "Training"


def _option(panel: str, *names: str, help: str, **more: object):
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


_CHECKPOINT = "the checkpoint's, or {}"


def distill(
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE",
            help="The student's checkpoint (.safetensors); log, curves and state go into a folder of that name.",
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]...", show_default="procedural",
            help="Folders of photographs, of scenes with cameras.json, BlendedMVS or DTU; procedural makes scenes.",
        ),
    ] = None,
    model: options.Model = "mini",
    keep_ratio: Annotated[
        float | None,
        _option(
            STUDENT, "--keep-ratio", metavar="SHARE", show_default=_CHECKPOINT.format("0.25"),
            help="Share of attention across views that is computed.",
        ),
    ] = None,
    layers: Annotated[
        list[str] | None,
        _option(
            STUDENT, "--layers", metavar="PATTERN", show_default="all across views",
            help="Attention modules that become sparse-linear.",
        ),
    ] = None,
    mix: Annotated[
        str | None,
        _option(
            STUDENT, "--mix", metavar="sum|convex", show_default=_CHECKPOINT.format("sum"),
            help="How the linear branch comes in: added through a projection, or as a learned share of each head.",
        ),
    ] = None,
    linear_over: Annotated[
        str | None,
        _option(
            STUDENT, "--linear-over", metavar="rest|all", show_default=_CHECKPOINT.format("rest; all in deep networks"),
            help="Tokens of the linear branch: those that are not computed exactly, or all.",
        ),
    ] = None,
    feature: Annotated[
        str | None,
        _option(
            STUDENT, "--feature", metavar="elu|softmax|relu", show_default=_CHECKPOINT.format("elu"),
            help="Feature map of the linear branch.",
        ),
    ] = None,
    summaries: Annotated[
        bool | None,
        _option(
            STUDENT, "--summaries/--no-summaries", show_default=_CHECKPOINT.format("on"),
            help="Let each block that is not computed count as one token in the same softmax.",
        ),
    ] = None,
    protect: Annotated[
        str | None,
        _option(
            STUDENT, "--protect", metavar="none|specials|reference", show_default=_CHECKPOINT.format("specials"),
            help="Tokens that every query sees: none, camera and register tokens, or the reference view's, too.",
        ),
    ] = None,
    block: Annotated[
        int | None,
        _option(
            STUDENT, "--block", metavar="TOKENS", show_default=_CHECKPOINT.format("64"),
            help="Tokens in a block.",
        ),
    ] = None,
    key_block: Annotated[
        int | None,
        _option(
            STUDENT, "--key-block", metavar="TOKENS", show_default=_CHECKPOINT.format("16 for mini, else --block"),
            help="Tokens in a block of keys: finer ones cost time and lose less.",
        ),
    ] = None,
    start: Annotated[
        str,
        _option(
            STUDENT, "--start", metavar="calibrated|zero",
            help="Fit the linear branch layer by layer to dense attention first, or start without effect.",
        ),
    ] = "calibrated",
    trainable: Annotated[
        list[str] | None,
        _option(
            STUDENT, "--trainable", metavar="PATTERN", show_default="none",
            help="Parameters that train beside the linear branch, e.g. 'blocks.*.attn.proj.weight'.",
        ),
    ] = None,
    fp8_from: Annotated[
        float,
        _option(
            STUDENT, "--fp8-from", metavar="SHARE",
            help="From this share of the steps on train in FP8 arithmetic: 0 in one stage, 1 never.",
        ),
    ] = 0.5,
    attention_loss: Annotated[
        str,
        _option(
            LOSS, "--attention-loss", metavar="mse|cosine",
            help="How outputs of attention modules are compared with the teacher's.",
        ),
    ] = "mse",
    distill_layers: Annotated[
        list[str] | None,
        _option(
            LOSS, "--distill-layers", metavar="PATTERN", show_default="sparse",
            help="Attention modules that are compared; the word sparse is every sparse one.",
        ),
    ] = None,
    attention_weight: Annotated[
        tuple[float, float],
        _option(
            LOSS, "--attention-weight", metavar="FROM TO",
            help="Weight of that loss at the start and at the end, half a cosine between.",
        ),
    ] = (0.1, 0.01),
    match_teacher: Annotated[
        str,
        _option(
            LOSS, "--match-teacher", metavar="auto|always|never",
            help="Learn the teacher's depth and cameras: where there is no true depth, in place of the truth, or "
            "not at all.",
        ),
    ] = "auto",
    steps: Annotated[int, _option(TRAINING, "--steps", metavar="N", help="Steps; 0 only calibrates.")] = 100,
    lr: Annotated[float, _option(TRAINING, "--lr", help="Peak learning rate.")] = 1e-3,
    views: Annotated[int, _option(TRAINING, "--views", metavar="N", help="Views of a scene in a step.")] = 6,
    batch: Annotated[int, _option(TRAINING, "--batch", metavar="N", help="Scenes in a step, for each GPU.")] = 1,
    resolution: Annotated[
        int | None,
        _option(
            TRAINING, "--resolution", "-r", metavar="PIXELS", show_default="252 on a CPU, else the model's",
            help="Longest side of an image in training.",
        ),
    ] = None,
    calibration_batches: Annotated[
        int,
        _option(
            TRAINING, "--calibration-batches", metavar="N",
            help="Batches that the start is fitted to.",
        ),
    ] = 8,
    validate_every: Annotated[
        int,
        _option(
            TRAINING, "--validate-every", metavar="N",
            help="Steps between two looks at held-out scenes; the best weights are kept.",
        ),
    ] = 25,
    textures: Annotated[
        Path | None,
        _option(
            TRAINING, "--textures", metavar="FILE", show_default="none",
            help=".npz of JPEG crops (`data`, `offsets`) for procedural scenes.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        _option(
            TRAINING, "--workers", metavar="N", show_default="0 on a CPU, 8 on a GPU",
            help="Processes that prepare data.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        _option(
            TRAINING, "--resume", metavar="", show_default=False,
            help="Go on from the state that an interrupted run left.",
        ),
    ] = False,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Device to train on.")] = "auto",
    dtype: options.Dtype = "auto",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of everything drawn.")] = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:  # fmt: skip
    """Teach the sparse-linear form of a network what its dense form answers; under torchrun on several GPUs.

    Example: lite3r distill sample_scenes procedural -o mini-sla.safetensors
    """
    from ..distillation.recipe import Recipe
    from ..pipelines.distill import DistillConfig, SparseChoice, run

    recipe = Recipe(
        steps=steps, lr=lr, trainable=tuple(trainable or ()), start=start, calibration_batches=calibration_batches,
        attention_loss=attention_loss, attention_layers=tuple(distill_layers or ("sparse",)),
        attention_weight=attention_weight, match_teacher=match_teacher, fp8_from=fp8_from, views=views, batch=batch,
        validate_every=validate_every, seed=seed,
    )  # fmt: skip
    sparse = SparseChoice(
        tuple(layers or ()), keep_ratio, mix=mix, linear_over=linear_over, feature=feature, protect=protect,
        block=block, key_block=key_block, summaries=summaries,
    )  # fmt: skip
    config = DistillConfig(
        output, tuple(data or ("procedural",)), model, sparse, recipe, resolution, textures, workers, device, dtype,
        resume, overwrite,
    )  # fmt: skip
    report = run(config, console.progress())
    if report is None:
        return
    if console.settings.json:
        console.document(report.as_dict())
        return
    before = "" if report.measured_before is None else f"{report.measured_before:.4f} → "
    console.table(
        ["", ""],
        [
            ["trained parameters", f"{report.trained:,} of {report.parameters:,}"],
            ["attention skipped", f"{100 * report.skipped:.1f} %"],
            ["steps", f"{report.steps} in {report.seconds / 60:.1f} min"],
            ["distance from the teacher, held out", f"{before}{report.measured:.4f}"],
            ["checkpoint", str(report.output)],
        ],
    )
