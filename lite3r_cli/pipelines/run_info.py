"""What run.json says of a run, but for its list of files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..console import Progress
from ..io.images import ImageSet

if TYPE_CHECKING:
    from ..scene.fusion import FusionStatistics
    from .predict import Predictions, Predictor


def run_info(
    seed: int,
    predictor: Predictor,
    images: ImageSet,
    predictions: Predictions,
    statistics: FusionStatistics,
    warnings: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Versions, arguments, what was chosen and why, what became of each image, times and memory.

    The checkpoint's hash is added by `Scene.info`: it may still be computed while the scene is written.
    """
    from .. import runtime

    return {
        "versions": runtime.versions(),
        "seed": seed,
        "model": {
            "name": predictor.backbone.name,
            "checkpoint": str(predictor.checkpoint.path),
            "licence": predictor.origin.licence,
            "not_loaded": list(predictor.origin.notices),
        },
        "runtime": predictor.choices(),
        "attention": predictor.network.attention_info(),
        "images": _verdicts(images, predictions),
        **({"refinement": predictions.account} if predictions.account is not None else {}),
        "folders": images.folders,
        "warnings": list(warnings),
        "world": predictions.frame.as_dict(),
        "points": statistics.points,
        "fusion": statistics.to_dict(),
        **seconds_info(progress),
        "peak_memory": runtime.peak_memory(predictor.runtime.torch_device),
    }


def seconds_info(progress: Progress) -> dict[str, Any]:
    """Seconds until now: by stage, which may overlap, and since the run began."""
    stages = {name: round(value, 3) for name, value in progress.so_far().items()}
    return {"seconds": stages, "wall_seconds": round(progress.wall, 3)}


def _verdicts(images: ImageSet, predictions: Predictions) -> list[dict[str, Any]]:
    """What became of each image, in order; the skipped ones at the end."""
    used = {
        i: {"height": h, "width": w} for i, (h, w) in zip(predictions.indices, predictions.network_sizes, strict=True)
    }
    refinement = dict(zip(predictions.indices, predictions.verdicts or ()))
    focal = {
        i: {"source": prior.source, "fx": prior.fx, "fy": prior.fy, "sigma": prior.sigma, "fixed": prior.fixed}
        for i, prior in zip(predictions.indices, predictions.priors.focal)
        if prior is not None
    }
    verdicts: list[dict[str, Any]] = [
        {
            "name": record.name,
            "path": str(record.path),
            "verdict": "used",
            "width": record.width,
            "height": record.height,
            "orientation": record.orientation,
            "network": used[i],
            **({"focal": focal[i]} if i in focal else {}),
            **({"refinement": refinement[i]} if i in refinement else {}),
        }
        for i, record in enumerate(images.records)
        if i in used
    ]
    return verdicts + [
        {"name": skipped.name, "verdict": "skipped", "reason": skipped.reason}
        for skipped in (*images.skipped, *predictions.skipped)
    ]
