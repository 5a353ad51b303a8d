"""Cameras of the frames between key frames: a camera that passes a plane whose texture moves as it should."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import PLANE_DEPTH, STEP

from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
from lite3r_cli.config.sequence import LongConfig
from lite3r_cli.io.tum import read_tum
from lite3r_cli.io.video import GreyFrame
from lite3r_cli.long.frame_tracking import INTERPOLATED, KEY, TRACKED, Anchor, mean_pose, place_frames
from lite3r_cli.pipelines.reconstruct_scene import reconstruct
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View

WIDTH, HEIGHT, STRIDE = 280, 200, 5
PIXELS = WIDTH * STEP / STRIDE / PLANE_DEPTH  # that the picture moves from frame to frame; focal length = width


def pictures(count: int) -> list[np.ndarray]:
    """(h, w, 3) of the same texture, moved on."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 140, 3), np.uint8)
    whole = cv2.resize(noise, (700, 250), interpolation=cv2.INTER_CUBIC)
    moves = [np.float32([[1, 0, -20 - i * PIXELS], [0, 1, -20]]) for i in range(count)]
    return [cv2.warpAffine(whole, move, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC) for move in moves]


def anchor(place: float) -> Anchor:
    K = np.array([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1.0]])
    pose = np.concatenate([np.eye(3), [[-place], [0], [0]]], axis=1)
    return Anchor(View("key", WIDTH, HEIGHT, K, pose, np.full((50, 70), PLANE_DEPTH, np.float32)))


def test_frames_lie_between_their_key_frames_and_meet_both():
    greys = [cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in pictures(12)]
    greys[4] = np.full_like(greys[4], 90)  # nothing to follow
    frames = [GreyFrame(i, i / 30, grey) for i, grey in enumerate(greys)]
    far = 0.3  # the second key frame is wrong by so much: the way to it has no step
    anchors = {1: lambda: anchor(0.02), 8: lambda: anchor(0.16 + far)}
    found = list(place_frames(frames, anchors))
    assert [f.frame for f in found] == list(range(12))  # 0 by the corners of 1 alone, 9 … 11 by those of 8
    assert [f.how for f in found] == [TRACKED, KEY, TRACKED, TRACKED, INTERPOLATED, *[TRACKED] * 3, KEY, *[TRACKED] * 3]
    centres = geometry.camera_centres(np.stack([f.cam_from_world for f in found]))
    expected = 0.02 * np.arange(12) + [0, 0, 0, 0, *([far] * 8)]  # 2 and 3 know one key frame, 5 to 7 the other
    assert np.allclose(centres[:, 0], expected, atol=0.02 + far * np.isin(np.arange(12), [4]))
    assert np.allclose(centres[:, 1:], 0, atol=0.02)
    greys[4] = cv2.cvtColor(pictures(5)[4], cv2.COLOR_RGB2GRAY)
    frames = [GreyFrame(i, i / 30, grey) for i, grey in enumerate(greys)]
    centres = geometry.camera_centres(np.stack([f.cam_from_world for f in place_frames(frames, anchors)]))
    assert np.allclose(np.diff(centres[1:9, 0]), 0.02 + far / 7, atol=0.01)


def test_a_pose_between_two_turns_evenly():
    turn = cv2.Rodrigues(np.array([0, np.radians(170), 0]))[0]
    a = np.concatenate([np.eye(3), [[1.0], [0], [0]]], axis=1)
    b = np.concatenate([turn, -turn @ [[3.0], [2], [0]]], axis=1)
    found = mean_pose(a, b, 0.25)
    assert np.degrees(geometry.rotation_angle(found[:, :3])) == pytest.approx(42.5)
    assert np.allclose(geometry.camera_centres(found[None]), [[0, 0.5, 0]])


@pytest.mark.parametrize("chunk", ["off", "3"])
def test_all_frames_of_a_video_have_cameras(tmp_path, plane_backbone, chunk):
    video = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, (WIDTH, HEIGHT))
    for rgb in pictures(23):
        video.write(rgb)
    video.release()
    config = ReconstructConfig(
        InputConfig((tmp_path / "walk.avi",), stride=STRIDE, keep_unrelated=True),
        PredictConfig(device="cpu", dtype="float32", resolution=98),
        output=str(tmp_path / "out"),
        formats=("tum",),
        long=LongConfig(chunk, loops=False),
    )
    reconstruct(replace(config, all_frames=True))
    frames = json.loads((tmp_path / "out" / "frames.json").read_text())["images"]
    assert list(frames) == [f"frame_{i:06d}.png" for i in range(23)]
    views = json.loads((tmp_path / "out" / "cameras.json").read_text())["images"]
    assert len(views) == 5 and all(frames[name]["how"] == KEY for name in views)
    assert all(np.allclose(frames[name]["cam_from_world"], views[name]["cam_from_world"]) for name in views)
    centres = geometry.camera_centres(np.stack([np.array(f["cam_from_world"]) for f in frames.values()]))
    assert np.allclose(
        centres[:, 0], np.arange(23) * STEP / STRIDE, atol=6e-3
    )  # on a plane a little turn looks like a little way
    told = json.loads((tmp_path / "out" / "run.json").read_text())["all_frames"]
    assert told == {"placed": 23, KEY: 5, TRACKED: 18, "not_placed": 0}
    assert len(read_tum(tmp_path / "out" / "trajectory.txt")) == 23
