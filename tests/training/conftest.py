"""A folder of posed photographs, drawn."""

import json

import cv2
import numpy as np
import pytest

WIDTH, HEIGHT, FOCAL = 161, 121, 130.0


def wall_color(points):
    """Colour of a textured wall z = 5 at world x, y."""
    return 127 + 100 * np.stack([np.sin(points[..., 0] * 2), np.cos(points[..., 1] * 2), np.sin(points[..., :2].sum(-1))], -1)


@pytest.fixture
def posed_photos(tmp_path):
    """A folder of one scene: three views of a wall, 0.3 apart, slightly turned."""
    folder = tmp_path / "wall"
    (folder / "images").mkdir(parents=True)
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    cameras, points = {}, {}
    for i in range(3):
        R = cv2.Rodrigues(np.array([0.02 * i, 0.05 * i, 0.03 * i]))[0]
        centre = np.array([0.3 * i, 0.1 * i, 0.2 * i])
        v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        rays = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], -1)
        directions = rays @ R  # world
        z = (5 - centre[2]) / directions[..., 2]
        image = wall_color(centre + directions * z[..., None])
        name = f"{i}.png"
        cv2.imwrite(str(folder / "images" / name), image[..., ::-1].round())
        cameras[name] = {"K": K.tolist(), "cam_from_world": np.c_[R, -R @ centre].tolist(), "width": WIDTH, "height": HEIGHT}
        points[name] = np.stack([u, v, z], -1)[4::9, 4::9].reshape(-1, 3).astype(np.float32)
    (folder / "cameras.json").write_text(json.dumps({"images": cameras}))
    np.savez(folder / "points.npz", **points)
    return tmp_path
