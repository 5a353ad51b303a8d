"""How exact the cameras and the loops of a rendered walk are, whose folder has walk.json with the true cameras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lite3r_cli.scene import geometry
from lite3r_cli.scene.metrics import auc, pair_errors


def score(folder: Path, poses: dict[str, np.ndarray]) -> dict[str, Any]:
    """ATE after one similarity, as a share of the path; turn per ten frames; AUC@5 and @30 over pairs of 100 frames."""
    truth = {k: np.array(v) for k, v in json.loads((folder / "walk.json").read_text())["cam_from_world"].items()}
    names = [name for name in truth if name in poses]
    found, true = (np.stack([each[name] for name in names]) for each in (poses, truth))
    a, b = geometry.camera_centres(found), geometry.camera_centres(true)
    off = np.linalg.norm(geometry.umeyama(a, b).apply(a) - b, axis=1)
    path = float(np.linalg.norm(np.diff(b, axis=0), axis=1).sum())
    ten_on = [geometry.relative_pose(poses[:-10:10], poses[10::10])[:, :, :3] for poses in (found, true)]
    turns = geometry.rotation_angle(ten_on[0] @ ten_on[1].transpose(0, 2, 1))
    some = slice(None, None, max(1, len(names) // 100))
    errors = pair_errors(found[some], true[some], 0.1).larger
    return {
        "ate_percent": round(100 * float(np.sqrt((off**2).mean())) / path, 3), "path_m": round(path, 1),
        "placed": len(names), "of": len(truth), "turn_per_10": round(float(np.degrees(np.mean(turns))), 3),
        "auc5": round(auc(errors, 5), 4), "auc30": round(auc(errors, 30), 4),
    }  # fmt: skip


def checked(folder: Path, loop: dict[str, Any]) -> dict[str, Any]:
    """A loop candidate with the true distance of its cameras in metres and the angle between them in degrees."""
    truth = json.loads((folder / "walk.json").read_text())["cam_from_world"]
    pair = np.stack([truth[f"{i:05d}.jpg"] for i in loop["views"]])
    away = np.linalg.norm(np.diff(geometry.camera_centres(pair), axis=0))
    angle = geometry.rotation_angle(pair[0, :, :3] @ pair[1, :, :3].T)
    return {**loop, "true_m": round(float(away), 1), "true_degrees": round(float(np.degrees(angle)), 1)}
