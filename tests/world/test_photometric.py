"""Views of one wall look alike where the geometry says so; views of two walls under the same geometry do not."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.photometric import looks_alike

WIDTH, HEIGHT, FOCAL = 241, 181, 200.0


def wall(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (60, 90), dtype=np.uint8)
    return cv2.resize(noise, (900, 600), interpolation=cv2.INTER_CUBIC)


def view(texture: np.ndarray, x: float, depth: float = 2.0) -> tuple[View, np.ndarray]:
    """A camera at x before a wall at z = 2 that shows the texture, 200 pixels a unit, and its picture."""
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    pose = np.c_[np.eye(3), [-x, 0, 0]]
    u, v = np.meshgrid(np.arange(WIDTH) - WIDTH / 2, np.arange(HEIGHT) - HEIGHT / 2)
    at = (((u * 2 / FOCAL + x + 2) * 200).astype(np.float32), ((v * 2 / FOCAL + 1.5) * 200).astype(np.float32))
    picture = cv2.remap(texture, *at, cv2.INTER_LINEAR)
    return View("a", WIDTH, HEIGHT, K, pose, np.full((HEIGHT, WIDTH), depth, np.float32)), picture


def test_one_wall_and_two():
    here, there, other = view(wall(0), 0.0), view(wall(0), 0.4), view(wall(1), 0.4)
    assert looks_alike(*here, *there) and looks_alike(*there, *here)
    assert not looks_alike(*here, *other)


def test_wrong_depth_plain_walls_and_views_apart_say_nothing():
    here = view(wall(0), 0.0, 1.0), view(wall(0), 0.4, 1.0)
    assert not looks_alike(*here[0], *here[1])
    plain = np.full((600, 900), 120, np.uint8)
    assert not looks_alike(*view(plain, 0.0), *view(plain, 0.4))
    assert not looks_alike(*view(wall(0), 0.0), *view(wall(0), 30.0))
