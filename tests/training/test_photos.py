"""Photographs as training data: re-photographing keeps geometry exact."""

import json

import cv2
import numpy as np
import pytest

from lite3r_cli.data.photos import load_scenes, sample_photos
from lite3r_cli.errors import InputError

WIDTH, HEIGHT, FOCAL = 161, 121, 130.0


def wall_color(points):
    """Colour of a textured wall z = 5 at world x, y."""
    return 127 + 100 * np.stack([np.sin(points[..., 0] * 2), np.cos(points[..., 1] * 2), np.sin(points[..., :2].sum(-1))], -1)


@pytest.fixture
def scenes(tmp_path):
    """Three views of a wall, 0.3 apart, slightly turned."""
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
    return load_scenes(tmp_path)


def test_rephotographed_points_still_show_their_place(scenes):
    batch = sample_photos(scenes, np.random.default_rng(0), batch=4, views=3, height=84, width=70)
    assert batch["images"].shape == (4, 3, 84, 70, 3)
    errors = []
    for b in range(4):  # a mirrored scene is mirrored as a whole: compare colours through another view, not with the wall
        for s in range(3):
            y, x = np.nonzero(batch["depth"][b, s])
            rays = np.c_[x + 0.5, y + 0.5, np.ones(len(x))] @ np.linalg.inv(batch["K"][b, s]).T
            camera = rays * batch["depth"][b, s][y, x][:, None]
            pose, other = batch["cam_from_world"][b, s], batch["cam_from_world"][b, (s + 1) % 3]
            world = (camera - pose[:, 3]) @ pose[:, :3]
            seen = (world @ other[:, :3].T + other[:, 3]) @ batch["K"][b, (s + 1) % 3].T
            u, v = np.floor(seen[:, :2].T / seen[:, 2]).astype(int)
            inside = (u >= 0) & (u < 70) & (v >= 0) & (v < 84)
            here = batch["images"][b, s][y, x][inside].astype(float)
            there = batch["images"][b, (s + 1) % 3][v[inside], u[inside]].astype(float)
            errors.append(np.abs(here - there).mean(-1))
    assert len(np.concatenate(errors)) > 100
    assert np.median(np.concatenate(errors)) < 8  # grey levels; unrelated pixels of this wall differ by about 70


def test_the_same_seed_gives_the_same_pictures(scenes):
    first, second = (sample_photos(scenes, np.random.default_rng(5), 2, 2, 70, 98) for _ in range(2))
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_a_folder_without_scenes_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cameras.json"):
        load_scenes(tmp_path)
