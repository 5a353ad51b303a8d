"""Straight edges show lens distortion where there is some; foliage does not."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import ImageRecord
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines import lens_hints
from lite3r_cli.pipelines.ahead import Edges
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.world.bent_lines import measure_bending

WIDTH, HEIGHT, LARGE = 518, 346, 2400


def boards(seed: int, round_ones: bool = False) -> np.ndarray:
    """A wall of boards (or discs) at all angles, seen by a pinhole camera."""
    rng = np.random.default_rng(seed)
    wall = np.full((LARGE * 2 // 3, LARGE), 128, np.uint8)
    for _ in range(60):
        centre = tuple(int(c) for c in rng.uniform([0, 0], [LARGE, LARGE * 2 / 3]))
        grey = int(rng.integers(20, 236))
        if round_ones:
            axes = tuple(int(a) for a in rng.uniform(60, 400, 2))
            cv2.ellipse(wall, centre, axes, float(rng.uniform(0, 180)), 0, 360, grey, -1)
        else:
            box = (centre, tuple(rng.uniform(150, 900, 2)), float(rng.uniform(0, 180)))
            cv2.fillPoly(wall, [np.intp(cv2.boxPoints(box))], grey)
    return wall


def seen(wall: np.ndarray, camera: DistortedCamera, field: float) -> np.ndarray:
    """The wall through a lens; the wall's width spans `field` degrees."""
    v, u = np.indices((HEIGHT, WIDTH)) + 0.5
    rays = camera.rays(np.stack([u.ravel(), v.ravel()], axis=1))
    focal = LARGE / 2 / np.tan(np.radians(field) / 2)
    at = rays[:, :2] / rays[:, 2:] * focal + [wall.shape[1] / 2, wall.shape[0] / 2] - 0.5
    x, y = (np.ascontiguousarray(a.reshape(HEIGHT, WIDTH), np.float32) for a in at.T)
    return cv2.remap(cv2.GaussianBlur(wall, (0, 0), 2.0), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def radial(k1: float) -> DistortedCamera:
    return DistortedCamera("SIMPLE_RADIAL", (450.0, WIDTH / 2, HEIGHT / 2, k1), WIDTH, HEIGHT)


FISHEYE = DistortedCamera("OPENCV_FISHEYE", (250.0, 250.0, WIDTH / 2, HEIGHT / 2, 0.0, 0.0, 0.0, 0.0), WIDTH, HEIGHT)


@cache
def pictures(camera: DistortedCamera, field: float, round_ones: bool = False) -> list[np.ndarray]:
    return [seen(boards(seed, round_ones), camera, field) for seed in range(3)]


@pytest.mark.parametrize(("camera", "field"), [(radial(-0.12), 64.0), (FISHEYE, 125.0)])
def test_bent_edges_are_measured_and_warned_of(camera, field):
    shown = pictures(camera, field)
    found = measure_bending(shown)
    half = camera.rays(np.array([[WIDTH, HEIGHT / 2]]))[0]
    expected = WIDTH / 2 / camera.focal[0] / (half[0] / half[2]) - 1  # of the division model, at the side
    assert found.coefficient == pytest.approx(expected, abs=0.012 + 0.2 * abs(expected))
    (said,) = warned(shown)
    assert "--refine" in said and "distortion" in said


@pytest.mark.parametrize("round_ones", [False, True])
def test_a_straight_lens_gives_no_alarm(round_ones):
    assert not warned(pictures(radial(0.0), 61.0, round_ones))


def test_one_image_with_curved_things_is_no_lens(monkeypatch):
    monkeypatch.setattr(lens_hints, "_EDGES", 20)
    bent, blank = pictures(FISHEYE, 125.0), np.full((HEIGHT, WIDTH), 128, np.uint8)
    alone = measure_bending([bent[0], blank, blank])
    assert alone.evidence > lens_hints._EVIDENCE and alone.edges > 20  # enough, if one image were enough
    assert not warned([bent[0], blank, blank])
    assert warned([bent[0], bent[1], blank])


def test_who_refines_or_knows_the_cameras_is_not_warned(tmp_path):
    shown = pictures(radial(-0.12), 64.0)
    assert not warned(shown, PredictConfig(refine=True))
    assert not warned(shown, PredictConfig(cameras=tmp_path / "cameras.json"))


def test_exif_that_names_a_fisheye_is_enough(monkeypatch):
    monkeypatch.setattr(lens_hints, "metadata_of", lambda record: SimpleNamespace(lens="EF8-15mm f/4L FISHEYE USM"))
    (said,) = warned([np.zeros((HEIGHT, WIDTH), np.uint8)] * 2)
    assert "opencv-fisheye" in said


def warned(greys: list[np.ndarray], config: PredictConfig = PredictConfig()) -> list[str]:
    records = [ImageRecord(f"{k}.png", path=f"{k}.png", width=WIDTH, height=HEIGHT) for k in range(len(greys))]
    inputs = [NetworkInput(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), grey.shape) for grey in greys]
    return lens_hints.lens_warnings(config, records, inputs, Edges())
