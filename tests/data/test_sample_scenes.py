"""The scenes that ship with the source: complete, small, and geometrically right."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.io.cameras_json import read_cameras_json

SCENES = Path(__file__).parents[2] / "sample_scenes"


@pytest.mark.parametrize("name, count", [("desk", 10), ("facade", 10), ("aloe", 2)])
def test_scene_is_complete_and_its_depth_warps(name, count):
    views = read_cameras_json(SCENES / name)
    images = [cv2.imread(str(SCENES / name / "images" / v.name)).astype(np.float32) for v in views]
    assert len(views) == count == len(list((SCENES / name / "images").iterdir()))
    assert sum(f.stat().st_size for f in (SCENES / name).rglob("*") if f.is_file()) < 1_500_000
    errors, chance = [], []
    for a, b, image, other in zip(views, views[1:], images, images[1:]):
        assert image.shape == (a.height, a.width, 3) == (*a.depth.shape, 3)
        y, x = np.mgrid[0 : a.height, 0 : a.width].astype(np.float64) + 0.5
        rays = np.linalg.inv(a.K) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
        points = a.cam_from_world[:, :3].T @ (rays * a.depth.ravel() - a.cam_from_world[:, 3:])
        q = b.K @ (b.cam_from_world[:, :3] @ points + b.cam_from_world[:, 3:])
        u, v = (q[:2] / np.maximum(q[2], 1e-6) - 0.5).reshape(2, a.height, a.width).astype(np.float32)
        seen = cv2.remap(other, u, v, cv2.INTER_LINEAR)
        ok = (a.depth > 0) & (u >= 0) & (u < b.width - 1) & (v >= 0) & (v < b.height - 1)
        assert ok.mean() > 0.3
        errors.append(np.median(np.abs(seen - image)[ok]))
        chance.append(np.median(np.abs(other - image)[ok]))
    assert np.mean(errors) < 5 and np.mean(errors) < 0.4 * np.mean(chance)
