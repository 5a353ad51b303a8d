"""Photographs of a known lens that bends lines, from the command line to the exports."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli import cli
from lite3r_cli.io.cameras_json import read_cameras_json, write_cameras_json
from lite3r_cli.io.foreign_cameras import read_known_cameras
from lite3r_cli.io.masks import load_mask
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.undistort import Undistortion

pytestmark = pytest.mark.usefixtures("plane_backbone")
SIZE = WIDTH, HEIGHT = 400, 302
LENS = DistortedCamera("OPENCV", (330.0, 330.0, 203.0, 149.0, -0.2, 0.05, 0.001, -0.002), WIDTH, HEIGHT)
PINHOLE = Undistortion(LENS)


def pattern(rays: np.ndarray, shift: float) -> np.ndarray:
    """What the plane z = 1 shows at rays (…, 2): smooth, so that it survives being sampled twice."""
    x, y = rays[..., 0] + shift, rays[..., 1]
    channels = [np.sin(14 * x) * np.cos(9 * y), np.sin(11 * x + 5 * y), np.cos(16 * y - 3 * x)]
    return np.stack([127 + 100 * channel for channel in channels], -1).astype(np.uint8)


def grid() -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1)


@pytest.fixture
def photos(tmp_path):
    """Three photographs of a plane by the lens, masks of their left halves, and cameras.json."""
    views = []
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    rays = LENS.rays(grid().reshape(-1, 2)).reshape(HEIGHT, WIDTH, 3)
    for i in range(3):
        taken = pattern(rays[..., :2] / rays[..., 2:], 0.1 * i)
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), taken[..., ::-1])
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, WIDTH // 2 :] = 255
        cv2.imwrite(str(tmp_path / "masks" / f"{i}.png"), mask)
        pose = np.c_[np.eye(3), [-0.1 * i, 0, 0]]
        views.append(View(f"{i}.png", WIDTH, HEIGHT, PINHOLE.K, pose, lens=LENS))
    write_cameras_json(tmp_path / "cameras.json", views)
    return tmp_path


def run(folder, name: str, *more: str):
    options = ["--cameras", str(folder / "cameras.json"), "--device", "cpu", "-r", "140", "--format", "colmap", *more]
    assert cli.main(["reconstruct", str(folder / "photos"), "-o", str(folder / f"{name}.ply"), *options]) == 0
    return folder / name


def picture(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].astype(int)


def test_exports_show_what_a_pinhole_would_have_taken(photos):
    out = run(photos, "plain", "--masks", str(photos / "masks"), "--format", "nerfstudio")
    assert (out / "sparse/0/cameras.txt").read_text().splitlines()[-1].split()[1] == "PINHOLE"
    for i, view in enumerate(read_cameras_json(out)):
        np.testing.assert_allclose(view.K, PINHOLE.K)
        assert view.lens == LENS
        wanted = pattern((grid() - view.K[:2, 2]) / np.diag(view.K)[:2], 0.1 * i)
        assert np.abs(picture(out / "images" / view.name) - wanted).mean() < 1.5
    mask = load_mask(out / "masks" / "0.png.png", WIDTH, HEIGHT, 1)
    edge = PINHOLE.points(np.array([[WIDTH / 2, HEIGHT / 2]]))[0, 0]
    assert mask[HEIGHT // 2, int(edge) + 2] and not mask[HEIGHT // 2, int(edge) - 2]
    for path in ("sparse/0", "transforms.json"):
        assert all(view.lens is None for view in read_known_cameras(out / path))
    again = run(photos, "again", "--cameras", str(out / "cameras.json"))  # our own file says how they were taken
    np.testing.assert_allclose(picture(again / "images/1.png"), picture(out / "images/1.png"))


def test_originals_can_be_kept_with_their_lens(photos):
    out = run(photos, "kept", "--keep-distortion", "--masks", str(photos / "masks"))
    assert (out / "images/2.png").read_bytes() == (photos / "photos/2.png").read_bytes()
    read = read_known_cameras(out / "sparse/0")
    np.testing.assert_allclose(read[0].lens.params, LENS.params)
    np.testing.assert_array_equal(load_mask(out / "masks/0.png.png", WIDTH, HEIGHT, 1)[0, :: WIDTH - 1], [False, True])
    plain = run(photos, "plain")

    def observed(folder) -> np.ndarray:
        lines = [line for line in (folder / "sparse/0/images.txt").read_text().splitlines() if line[0] != "#"]
        return np.array(lines[1].split(), float).reshape(-1, 3)[:, :2]

    a, b = observed(plain), observed(run(photos, "again", "--keep-distortion"))
    assert len(a) > 100
    rays = np.c_[a, np.ones(len(a))] @ np.linalg.inv(PINHOLE.K).T
    np.testing.assert_allclose(b, LENS.pixels(rays), atol=1e-4)
