"""The contents of run.json, without its list of files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..console import Progress
from ..io.images import ImageSet
from ..scene.lazy_views import cameras_of
from ..scene.posed_view import PointCloud
from ..world.level import Level

if TYPE_CHECKING:
    from ..scene.fusion import FusionStatistics
    from .planned import Ran
    from .predict import Predictions, Predictor


UNRELATED = "no match with another image"


@dataclass(frozen=True)
class Part:
    """One scene of a set of pictures; usually the only one."""

    predictions: Predictions
    cloud: PointCloud
    statistics: FusionStatistics
    level: Level | None = None


def run_info(
    seed: int,
    predictor: Predictor,
    images: ImageSet,
    parts: Sequence[Part],
    left_out: Sequence[int],
    untied: Sequence[int],
    ran: Sequence[Ran],
    warnings: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Versions, arguments, choices with reasons, the status of each image, times and memory.

    `parts` has the main scene first; `left_out` are indices of images without a scene, `untied` of images that were
    kept without a match; `ran` is what the network used for them. `Scene.info` adds the hash of the checkpoint, which
    may still be computed while the scene is written.
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
        "runtime": predictor.choices(ran),
        "attention": predictor.network.attention_info(ran),
        "images": _verdicts(images, parts, left_out, set(untied)),
        "folders": images.folders,
        **({"videos": images.videos} if images.videos else {}),
        "warnings": list(warnings),
        **_result(parts[0]),
        **({"parts": [_part(number, part) for number, part in enumerate(parts, 1)]} if len(parts) > 1 else {}),
        **seconds_info(progress),
        "peak_memory": runtime.peak_memory(predictor.runtime.torch_device),
    }


def seconds_info(progress: Progress) -> dict[str, Any]:
    """Seconds so far: by stage (stages may overlap), and since the start of the run."""
    stages = {name: round(value, 3) for name, value in progress.so_far().items()}
    return {"seconds": stages, "wall_seconds": round(progress.wall, 3)}


def _result(part: Part) -> dict[str, Any]:
    account = part.predictions.account
    return {
        **({"refinement": account} if account is not None else {}),
        "world": part.predictions.frame.as_dict(),
        **({"anchor": part.predictions.anchor} if part.predictions.anchor is not None else {}),
        "up": None if part.level is None else part.level.as_dict(),
        "points": part.statistics.points,
        "fusion": part.statistics.to_dict(),
    }


def _part(number: int, part: Part) -> dict[str, Any]:
    folder = "." if number == 1 else f"part-{number}"
    return {"folder": folder, "images": [view.name for view in cameras_of(part.predictions.views)], **_result(part)}


def _verdicts(
    images: ImageSet, parts: Sequence[Part], left_out: Sequence[int], untied: set[int]
) -> list[dict[str, Any]]:
    """The status of each image: used ones in order, then unrelated ones, then unreadable ones."""
    used: dict[int, dict[str, Any]] = {}
    for number, part in enumerate(parts, 1):
        which = {"part": number} if len(parts) > 1 else {}
        for k, i in enumerate(part.predictions.indices):
            used[i] = which | _view_facts(part.predictions, k)
    verdicts: list[dict[str, Any]] = [
        {
            "name": record.name,
            "path": os.path.abspath(record.path),  # later commands may run in another folder
            "verdict": "used",
            "width": record.width,
            "height": record.height,
            "orientation": record.orientation,
            **used[i],
            **({"untied": True} if i in untied else {}),
        }
        for i, record in enumerate(images.records)
        if i in used
    ]
    for record in (images.records[i] for i in left_out):
        verdicts.append(
            {"name": record.name, "path": os.path.abspath(record.path), "verdict": "left out", "reason": UNRELATED}
        )
    return verdicts + [
        {"name": skipped.name, "verdict": "skipped", "reason": skipped.reason}
        for skipped in (*images.skipped, *parts[0].predictions.skipped)
    ]


def _view_facts(predictions: Predictions, k: int) -> dict[str, Any]:
    """The entry of view k in run.json besides its name and size."""
    height, width = predictions.network_sizes[k]
    facts: dict[str, Any] = {"network": {"height": height, "width": width}}
    prior = predictions.priors.focal[k]
    if prior is not None:
        facts["focal"] = {name: getattr(prior, name) for name in ("source", "fx", "fy", "sigma", "fixed")}
    if predictions.verdicts is not None:
        facts["refinement"] = predictions.verdicts[k]
    return facts
