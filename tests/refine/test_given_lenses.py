"""Points of `--refine` with given cameras belong to these cameras, in pixels of the original photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene import geometry

SCENE = Path(__file__).parents[2] / "sample_scenes" / "facade"
VIEWS, WIDER, FEATURES = 3, 1.04, 400  # features are from smaller photos, their longest side in pixels


def test_errors_are_those_of_the_given_cameras_in_large_pixels() -> None:
    pytest.importorskip("pycolmap")
    views, photos = [], []
    for view in read_cameras_json(SCENE)[:VIEWS]:
        photo = cv2.imread(str(SCENE / "images" / view.name))[..., ::-1]
        size = round(view.width * WIDER), view.height
        photos.append(cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC))
        K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
        views.append(replace(view, width=size[0], height=size[1], K=K, confidence=np.ones_like(view.depth)))
    config = RefineConfig(depth=False, feature_size=FEATURES, fixed_focal=(True,) * VIEWS)
    result = refine(views, photos.__getitem__, None, config, given=True)
    assert all(np.allclose(after.K, before.K) for before, after in zip(views, result.views))
    sums, counts, middle = np.zeros(len(result.sparse)), np.zeros(len(result.sparse)), []
    for i, view in enumerate(result.views):
        point, pixel = result.sparse.of_view(i)
        projected, _ = geometry.project(result.sparse.points[point], view.K, view.cam_from_world)
        np.add.at(sums, point, np.linalg.norm(projected - pixel, axis=1))
        np.add.at(counts, point, 1)
        middle.append((projected - pixel).mean(axis=0))
    assert len(sums) > 100 and abs(views[0].K[0, 0] / views[0].K[1, 1] - WIDER) < 1e-3
    assert np.median(np.abs(result.sparse.errors / (sums / counts) - 1)) < 0.02
    assert np.abs(middle).max() < 0.1
