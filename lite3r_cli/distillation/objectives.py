"""The losses of distillation: attention outputs of the teacher, ground truth, and predictions of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.config.training_run import LossWeights
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.training.losses import FAR, Targets, compute_losses

TINY = 1e-12
CONFIDENCE_WEIGHT = 0.1  # weight of the log confidence relative to depth


def attention_distance(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], kind: str) -> Tensor:
    """The distance of attention outputs (B, T, C) from the teacher's, mean over layers (Lite3R, arXiv 2605.11354).

    "mse": squared error divided by the teacher's mean square, because the magnitudes of layers differ widely;
    "cosine": one minus the cosine similarity, mean over tokens.
    """
    parts = []
    for name, target in teacher.items():
        a, b = student[name].float(), target.detach().float()
        if kind == "mse":
            parts.append((a - b).square().mean() / b.square().mean().clamp(min=TINY))
        else:
            parts.append(1 - F.cosine_similarity(a, b, dim=-1).mean())
    return torch.stack(parts).mean()


def answer_distance(student: RawOutput, teacher: RawOutput) -> dict[str, Tensor]:
    """The distances of the student's depth and cameras from the teacher's, in the teacher's frame and scale.

    depth: |Δ log depth| where the teacher does not see sky. rotation: ‖ΔR‖ / √2, about radians for small angles.
    centre: distance divided by the teacher's mean depth. focal: |Δ log focal|.
    """
    seen = teacher.log_depth < FAR + teacher.log_depth.flatten(1).median(1).values[:, None, None, None]
    depth = torch.where(seen, (student.log_depth - teacher.log_depth).abs(), 0.0).sum() / seen.sum().clamp(min=1)
    unit = torch.where(seen, teacher.log_depth, 0.0).sum() / seen.sum().clamp(min=1)
    return {
        "depth": depth,
        "confidence": CONFIDENCE_WEIGHT * (student.confidence.log() - teacher.confidence.log()).abs().mean(),
        "rotation": (student.rotation - teacher.rotation).flatten(-2).norm(dim=-1).mean() / 2**0.5,
        "centre": (student.centre - teacher.centre).norm(dim=-1).mean() / unit.exp(),
        "focal": (student.log_focal - teacher.log_focal).abs().mean(),
    }


def true_losses(out: RawOutput, targets: Targets, unit_scale: bool, sky: bool) -> dict[str, Tensor]:
    """The training losses of `mini`, for any network and also for ground truth without depth.

    `unit_scale`: the network's unit is the scene's mean depth; otherwise its output is first scaled to the ground
    truth. Without true depth only the camera losses are used, at the scale of the prediction. `sky`: pixels without
    true depth are sky.
    """
    weights = LossWeights(rays=0, sky=LossWeights.sky if sky else 0)
    if not bool((targets.depth > 0).any()):
        scaled = _cameras_at(targets, out)
        terms = compute_losses(out, scaled, weights)
        terms = {k: terms[k] for k in ("rotation", "position", "direction", "focal")}
        return {**terms, "total": torch.stack(list(terms.values())).sum()}
    if not unit_scale and not targets.sparse:
        out = _in_mean_depths(out, targets)
    return compute_losses(out, targets, weights)


def _in_mean_depths(out: RawOutput, targets: Targets) -> RawOutput:
    """The prediction scaled per scene so that its median depth is that of the ground truth. The
    scale has no gradient.
    """
    valid = targets.depth > 0
    true = torch.where(valid, targets.depth, 1.0).log()
    mean = true.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
    ratio = true[:, out.decoded] - mean[:, None, None, None] - out.log_depth.detach()
    ratio = torch.where(valid[:, out.decoded], ratio, torch.nan).flatten(1).nanmedian(1).values.nan_to_num()
    return replace(
        out, log_depth=out.log_depth + ratio[:, None, None, None], centre=out.centre * ratio.exp()[:, None, None]
    )


def _cameras_at(targets: Targets, out: RawOutput) -> Targets:
    """The true cameras, scaled to the extent of the predicted ones; without depth."""
    R, t = targets.cam_from_world[..., :3], targets.cam_from_world[..., 3]
    centres = -(R.transpose(-1, -2) @ t[..., None]).squeeze(-1)
    true = (centres - centres.mean(1, keepdim=True)).norm(dim=(1, 2))
    predicted = (out.centre - out.centre.mean(1, keepdim=True)).detach().norm(dim=(1, 2))
    scale = torch.where(true > 0, predicted / true.clamp(min=TINY), 1.0)
    pose = torch.cat([R, (t * scale[:, None, None])[..., None]], dim=-1)
    return replace(targets, cam_from_world=pose, sparse=True, scattered=True)
