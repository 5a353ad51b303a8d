"""Matches that are begun beside the network are those that are found after it, whenever they are asked for."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lite3r_cli.refine import matching
from lite3r_cli.refine.early import EarlyMatches
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene.posed_view import View

SCENE = Path(__file__).parents[2] / "sample_scenes" / "facade"
CONFIG = RefineConfig(max_features=600)
COUNT = 14  # from 13 on, pairs are chosen by the features


def pictures(count: int) -> list[np.ndarray]:
    files = sorted((SCENE / "images").iterdir())
    wall = cv2.imread(str(files[0]))[..., ::-1]
    return [np.ascontiguousarray(wall[k : k + 200, 12 * k : 12 * k + 251]) for k in range(count)]


def views(shown: list[np.ndarray]) -> list[View]:
    K = np.array([[200.0, 0, 125], [0, 200, 100], [0, 0, 1]])
    return [
        View(f"{k}.jpg", width=rgb.shape[1], height=rgb.shape[0], K=K, cam_from_world=np.eye(3, 4))
        for k, rgb in enumerate(shown)
    ]


@pytest.mark.parametrize("count", [3, COUNT])
def test_equal_matches_whenever_they_are_asked_for(tmp_path, count):
    pytest.importorskip("pycolmap")
    shown, threads = pictures(count), torch.get_num_threads()
    expected = matching.match(views(shown), shown.__getitem__, None, tmp_path, CONFIG)
    assert len(expected.pairs) > count // 2

    def found(wait: float) -> matching.Matches:
        early = EarlyMatches([None] * count, shown.__getitem__, lambda i: None, CONFIG)
        assert torch.get_num_threads() == threads
        time.sleep(wait)
        return matching.match(views(shown), shown.__getitem__, lambda i: None, tmp_path, CONFIG, early=early)

    for wait in (0, 0.1, 2):
        got = found(wait)
        assert list(got.raw) == list(expected.raw)
        assert all(np.array_equal(got.raw[pair], rows) for pair, rows in expected.raw.items())
        assert all(np.array_equal(got.pairs[pair].matches, two.matches) for pair, two in expected.pairs.items())


def test_a_picture_that_fails_is_told_where_it_is_asked_for(tmp_path):
    pytest.importorskip("pycolmap")
    shown = pictures(3)

    def read(i: int) -> np.ndarray:
        if i == 1:
            raise OSError("gone")
        return shown[i]

    early = EarlyMatches([None] * 3, read, lambda i: None, CONFIG)
    with pytest.raises(OSError, match="gone"):
        matching.match(views(shown), read, lambda i: None, tmp_path, CONFIG, early=early)
