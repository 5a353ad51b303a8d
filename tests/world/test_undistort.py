"""Undistorted pictures are those of the pinhole that their K says, without blank pixels; masks and sets follow."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli.io.images import discover
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.undistort import UndistortedImages, Undistortion

WIDTH, HEIGHT = 321, 243  # odd on purpose
CAMERAS = {
    "barrel": DistortedCamera("SIMPLE_RADIAL", (260.0, 160.0, 122.0, -0.12), WIDTH, HEIGHT),
    "pincushion": DistortedCamera("RADIAL", (260.0, 165.0, 118.0, 0.15, 0.02), WIDTH, HEIGHT),
    "two lengths": DistortedCamera("OPENCV", (260.0, 270.0, 160.0, 122.0, -0.1, 0.02, 1e-3, -2e-3), WIDTH, HEIGHT),
    "fisheye": DistortedCamera("OPENCV_FISHEYE", (125.0, 125.0, 160.0, 122.0, 0.02, 0, 0, 0), WIDTH, HEIGHT),
}


def shade(rays: np.ndarray) -> np.ndarray:
    """A smooth sky (…, 3) uint8 that depends on the direction alone."""
    flat = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    return np.round(127.5 + 120 * np.sin(6 * flat)).astype(np.uint8)


def pixels() -> np.ndarray:
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    return np.stack([u, v], axis=-1)


@pytest.mark.parametrize("name", CAMERAS)
def test_the_picture_is_the_pinholes(name):
    camera, lens = CAMERAS[name], Undistortion(CAMERAS[name])
    taken = shade(camera.rays(pixels().reshape(-1, 2)).reshape(HEIGHT, WIDTH, 3))
    flat = (pixels() - lens.K[:2, 2]) / lens.K[0, 0]
    expected = shade(np.concatenate([flat, np.ones((HEIGHT, WIDTH, 1))], axis=-1))
    assert np.abs(lens.picture(taken).astype(int) - expected).max() <= 3
    assert lens.mask(np.ones((HEIGHT, WIDTH), bool)).all()  # no blank pixel
    wide = 2 * np.degrees(np.arctan(WIDTH / 2 / lens.K[0, 0]))
    assert wide == pytest.approx(110, abs=0.1) if name == "fisheye" else wide < 80


@pytest.mark.parametrize("name", CAMERAS)
def test_points_go_where_the_picture_goes(name):
    camera, lens = CAMERAS[name], Undistortion(CAMERAS[name])
    rays = np.random.default_rng(0).uniform([-0.4, -0.3, 1], [0.4, 0.3, 1], (50, 3))
    np.testing.assert_allclose(lens.points(camera.pixels(rays)), rays[:, :2] * lens.K[0, 0] + lens.K[:2, 2], atol=1e-6)


def test_maps_of_any_size_are_not_mixed():
    lens = Undistortion(CAMERAS["barrel"])
    depth = np.where(np.indices((61, 80))[1] < 40, 1.0, 9.0).astype(np.float32)
    assert set(np.unique(lens.map(depth))) == {1.0, 9.0}


def test_a_set_reads_undistorted_pictures_and_masks(tmp_path):
    rng, camera = np.random.default_rng(0), CAMERAS["barrel"]
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:, :40] = 255
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), mask)
    images = discover([tmp_path / "a.png", tmp_path / "b.png"], masks=tmp_path / "masks")
    views = [
        View(f"{n}.png", WIDTH, HEIGHT, np.eye(3), np.eye(3, 4), lens=lens) for n, lens in zip("ab", (None, camera))
    ]
    shown = UndistortedImages.of(images, views, [0, 1])
    np.testing.assert_array_equal(shown.read(0), images.read(0))
    np.testing.assert_array_equal(shown.read(1), Undistortion(camera).picture(images.read(1)))
    np.testing.assert_array_equal(shown.read_mask(1), Undistortion(camera).mask(images.read_mask(1)))
    assert shown.as_stored(0) and not shown.as_stored(1)
    assert UndistortedImages.of(images, views[:1], [0]) is images
