"""Black bars are ignored; night skies, white walls and single images are not mistaken for bars."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.bars import find_bars
from lite3r_cli.pipelines.predict import Predictor


def scene(i: int, height: int = 180, width: int = 240) -> np.ndarray:
    noise = np.random.default_rng(i).integers(30, 226, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def barred(i, top=0, bottom=0, left=0, right=0, colour=0):
    inner = scene(i, 180 - top - bottom, 240 - left - right)
    return cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(colour,) * 3)


@pytest.mark.parametrize("colour", [0, 255, 90])
@pytest.mark.parametrize(
    "sides",
    [
        {"left": 50, "right": 50},
        {"top": 22, "bottom": 22},
        {"top": 40},
        {"left": 80, "right": 20, "top": 10, "bottom": 10},
    ],
)
def test_bars_of_any_width_and_colour(sides, colour):
    found = find_bars([barred(i, colour=colour, **sides) for i in range(4)])
    for side in ("top", "bottom", "left", "right"):
        length = 180 if side in ("top", "bottom") else 240
        assert abs(getattr(found, side) * length - sides.get(side, 0)) <= 2.5, side


def test_compression_and_rotation_do_not_hide_bars():
    pictures = [cv2.imdecode(cv2.imencode(".jpg", barred(i, left=50, right=50))[1], 1) for i in range(3)]
    assert find_bars(pictures).left > 0.2
    assert find_bars([np.rot90(rgb).copy() for rgb in pictures]).top > 0.2


def night(i, skyline):
    rgb = scene(i)
    for x in range(240):
        rgb[: skyline(i, x), x] = 3
    return rgb


@pytest.mark.parametrize(
    "pictures",
    [
        [night(i, lambda i, x: 60 + 5 * i + int(12 * np.sin(x / 20))) for i in range(4)],  # the camera moves
        [night(0, lambda i, x: 60 + int(12 * np.sin(x / 20))) for _ in range(4)],  # a tripod, an uneven skyline
        [night(i, lambda i, x: 50 + 6 * i) for i in range(4)],  # a straight wall that moves
        [np.where(np.arange(180)[:, None, None] < 60 + 9 * i, 250, scene(i)).astype(np.uint8) for i in range(3)],
        [np.full((180, 240, 3), 250, np.uint8)] * 3,  # all white
        [np.zeros((180, 240, 3), np.uint8)] * 3,
        [barred(0, left=50, right=50)],  # one picture tells nothing
        [barred(i, left=50, right=50, colour=80 * i) for i in range(3)],  # not one colour
        [barred(0, top=30), scene(1)],
        [barred(0, top=30), cv2.resize(barred(1, top=30), (200, 150))],
    ],
)
def test_what_only_looks_like_bars_stays(pictures):
    assert not find_bars(pictures)


def test_the_network_sees_what_lies_between(tmp_path, plane_backbone):
    """Depth is unknown in the bars, and the focal length is that of the picture between them."""
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), barred(i, left=60, right=60))
    result = Predictor(PredictConfig(resolution=112, device="cpu", dtype="float32")).predict(discover([tmp_path]))
    assert any(re.search(r"plain bars \(left 2[5-8] %, right 2[5-8] %\)", text) for text in result.warnings)
    view = result.views[0]
    known = view.depth > 0
    share = known.any(0).mean()
    assert known.any(1).all() and share == pytest.approx(116 / 240, abs=0.04)
    assert not known[:, : int(0.24 * known.shape[1])].any() and not known[:, -int(0.24 * known.shape[1]) :].any()
    assert view.K[0, 0] == pytest.approx(view.K[1, 1]) and view.K[0, 0] == pytest.approx(116, rel=0.1)
    assert view.K[0, 2] == pytest.approx(120, abs=1.5) and view.K[1, 2] == pytest.approx(90, abs=1)
