"""`lite3r eval`: scores of predictions on scenes with ground truth."""

from __future__ import annotations

from .. import console
from ..config import EvaluateConfig
from .options import command
from .sentences import sentence

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


@command(EvaluateConfig, without=("cameras", "depth", "depth_scale"))
def evaluate(config: EvaluateConfig) -> None:
    """Score predictions against scenes with known cameras and depth.

    Rotation, translation: median angular error over the image pairs of all windows.
    AUC@T: mean over 1°…T° of the share of pairs whose larger error is below the angle.
    Focal: median over images. AbsRel, δ: all pixels with known depth, one scale per window.
    Chamfer: in per cent of the scene's median depth. A dash: no ground truth.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes longer than many a stage
        from ..pipelines.evaluate_scenes import as_rows
        from ..pipelines.evaluate_scenes import evaluate as run

    evaluation = run(config, progress, console.warn)
    if console.settings.json:
        scores = {name: vars(scores) for name, scores in evaluation.scenes.items()}
        console.document({"scenes": scores, "mean": vars(evaluation.mean), "runtime": evaluation.choices})
        return
    rows = [(name, *map(_cell, values, COLUMNS.values())) for name, values in as_rows(evaluation)]
    predict = config.predict
    console.table(
        ("scene", *COLUMNS), rows, title=f"{predict.model}, {config.views} views, {predict.resolution or 'default'} px"
    )
    chosen = [(what.replace("_", " "), sentence(choice)) for what, choice in evaluation.choices.items()]
    console.table(("", ""), chosen, numbers=False)


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
