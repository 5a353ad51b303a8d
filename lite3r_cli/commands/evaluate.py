"""`lite3r eval`: predictions scored against scenes with ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..config import LiteConfig, PredictConfig
from . import options

VIEWS = 4
COLUMNS = {  # heading: digits
    "AUC@5": 3,
    "AUC@15": 3,
    "AUC@30": 3,
    "rotation °": 2,
    "translation °": 2,
    "focal %": 2,
    "AbsRel": 4,
    "δ<1.25": 4,
    "Chamfer %": 2,
}

Scenes = Annotated[
    list[Path],
    typer.Argument(
        help="Folders with images/ and cameras.json (cameras and, where known, depth maps).",
        metavar="SCENE...",
        show_default=False,
    ),
]
Views = Annotated[
    int,
    typer.Option(
        "--views", metavar="N", rich_help_panel=options.INPUT,
        help="Predict N consecutive images at a time, half of them shared with the next window.",
    ),
]  # fmt: skip


def evaluate(
    scenes: Scenes,
    views: Views = VIEWS,
    model: options.Model = PredictConfig.model,
    resolution: options.Resolution = PredictConfig.resolution,
    preprocess: options.Preprocess = PredictConfig.preprocess,
    poses: options.Poses = PredictConfig.poses,
    reference_view: options.ReferenceView = PredictConfig.reference_view,
    refine: options.Refine = PredictConfig.refine,
    intrinsics: options.Intrinsics = PredictConfig.intrinsics,
    attention: options.Attention = LiteConfig.attention,
    keep_ratio: options.KeepRatio = LiteConfig.keep_ratio,
    fp8_backend: options.Fp8Backend = LiteConfig.fp8_backend,
    engine: options.Engine = PredictConfig.engine,
    device: options.Device = PredictConfig.device,
    dtype: options.Dtype = PredictConfig.dtype,
    seed: options.Seed = PredictConfig.seed,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Score predictions against scenes with known cameras and depth.

    Rotation, translation: median angle over the pairs of all windows.
    AUC@T: mean over 1°…T° of the share of pairs whose larger angle is below.
    Focal: median over images. AbsRel, δ: all pixels with known depth, one scale a window.
    Chamfer: in per cent of the scene's median depth. A dash: no ground truth for it.
    """
    lite = LiteConfig(attention, keep_ratio, fp8_backend)
    predict = PredictConfig(
        model,
        resolution,
        device,
        dtype,
        seed,
        preprocess,
        poses,
        reference_view,
        refine=refine,
        lite=lite,
        intrinsics=intrinsics,
        engine=engine,
    )
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes longer than many a stage
        from ..pipelines.evaluate import EvaluateConfig, as_rows
        from ..pipelines.evaluate import evaluate as run

    config = EvaluateConfig(tuple(scenes), predict, views)
    evaluation = run(config, progress, console.warn)
    if json:
        scores = {name: vars(scores) for name, scores in evaluation.scenes.items()}
        console.document({"scenes": scores, "mean": vars(evaluation.mean), "runtime": evaluation.choices})
        return
    rows = [(name, *map(_cell, values, COLUMNS.values())) for name, values in as_rows(evaluation)]
    console.table(("scene", *COLUMNS), rows, title=f"{model}, {views} views, {resolution or 'default'} px")
    chosen = [(what, f"{choice['chosen']} ({choice['reason']})") for what, choice in evaluation.choices.items()]
    console.table(("", ""), chosen, numbers=False)


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
