"""Measures how much rounding each layer to FP8 changes depth and poses on real images, with one
prediction per layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..config import PredictConfig
from ..config.conversion import CalibrateConfig
from ..console import Progress
from ..io.images import discover
from ..networks.checkpoint import Checkpoint
from ..quant.fp8 import round_to_fp8
from ..scene import geometry
from ..scene.posed_view import View, known_depth
from .predict import Predictor


def measure_sensitivity(
    checkpoint: Checkpoint, layers: Sequence[str], config: CalibrateConfig, progress: Progress
) -> dict[str, float]:
    """Layer → change of the prediction (`prediction_change`) when only that layer is in FP8 and everything else in
    float32.

    Raises InputError for unusable images, BackendError, WeightsError, MemoryLimitError.
    """
    images = discover(config.images, max_views=config.views)
    asked = PredictConfig(str(checkpoint.path), config.resolution, config.device, "float32")
    predictor = Predictor(asked, Progress(), checkpoint)
    parameters = dict(predictor.backbone.named_parameters())
    exact = predictor.predict(images).views
    changes: dict[str, float] = {}
    with progress.stage("Calibrate", total=len(layers)) as step:
        for name in layers:
            with torch.no_grad():
                before = parameters[name].clone()
                parameters[name].copy_(round_to_fp8(before))
                changes[name] = prediction_change(exact, predictor.predict(images).views)
                parameters[name].copy_(before)
            step()
    return changes


def prediction_change(exact: Sequence[View], other: Sequence[View]) -> float:
    """Mean |Δ log depth|, plus the mean rotation in radians, plus the mean camera translation in median depths."""
    depths = [(known_depth(a), known_depth(b)) for a, b in zip(exact, other, strict=True)]
    known = [(a > 0) & (b > 0) for a, b in depths]
    logs = [np.abs(np.log(a[k] / b[k])).mean() for (a, b), k in zip(depths, known) if k.any()]
    poses, others = (np.stack([view.cam_from_world for view in views]) for views in (exact, other))
    angles = geometry.rotation_angle(poses[:, :, :3] @ others[:, :, :3].transpose(0, 2, 1))
    shift = np.linalg.norm(geometry.camera_centres(poses) - geometry.camera_centres(others), axis=1)
    unit = np.median(np.concatenate([a[k] for (a, _), k in zip(depths, known)] or [np.ones(1)]))
    return float(np.mean(logs or [np.inf]) + angles.mean() + shift.mean() / max(float(unit), 1e-12))
