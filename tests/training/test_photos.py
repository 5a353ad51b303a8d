"""Photographs as training data: re-photographing keeps geometry exact."""

import json

import numpy as np
import pytest

from lite3r_cli.data.photos import load_scenes, sample_photos
from lite3r_cli.errors import InputError
from lite3r_cli.io.depth_files import write_depth_png


@pytest.fixture
def scenes(posed_photos):
    return load_scenes(posed_photos)


def add_depth_maps(scene, size=(81, 61)):
    """Depth maps of the wall z = 5 at another size than the images; the left third is unknown."""
    document = json.loads((scene / "cameras.json").read_text())
    for name, camera in document["images"].items():
        K, pose = np.array(camera["K"]), np.array(camera["cam_from_world"])
        u, v = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
        rays = np.stack([u * camera["width"], v * camera["height"], np.ones_like(u)], -1) @ np.linalg.inv(K).T
        z = (5 + (pose[:, :3].T @ pose[:, 3])[2]) / (rays @ pose[:, :3])[..., 2]
        z[:, : size[0] // 3] = 0
        scale = write_depth_png(scene / f"{name}-depth.png", z)
        camera |= {"depth": f"{name}-depth.png", "depth_scale": scale, "depth_width": size[0], "depth_height": size[1]}
    (scene / "cameras.json").write_text(json.dumps(document))


@pytest.mark.parametrize("kind", ["points", "maps", "both"])
def test_rephotographed_depth_still_shows_its_place(posed_photos, kind):
    if kind != "points":
        add_depth_maps(posed_photos / "wall")
    if kind == "maps":
        (posed_photos / "wall" / "points.npz").unlink()
    batch = sample_photos(load_scenes(posed_photos), np.random.default_rng(0), batch=4, views=3, height=84, width=70)
    known = (batch["depth"] > 0).mean()
    assert known < 0.05 if kind == "points" else 0.4 < known < 0.95
    assert batch["scattered"] == (kind == "points")
    assert batch["images"].shape == (4, 3, 84, 70, 3)
    errors = []
    for b in range(
        4
    ):  # a mirrored scene is mirrored as a whole: compare colours through another view, not with the wall
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


def test_of_several_points_in_a_pixel_the_nearest_one_counts(posed_photos):
    path = posed_photos / "wall" / "points.npz"
    with np.load(path) as archive:
        points = dict(archive)
    for uvz in points.values():  # something twice as far behind each point, before and after it in the list
        behind = uvz * np.float32([1, 1, 2])
        points |= {name: np.r_[behind, uvz, behind] for name, value in points.items() if value is uvz}
    usual = sample_photos(load_scenes(posed_photos), np.random.default_rng(3), 2, 2, 84, 70)
    np.savez(path, **points)
    seen = sample_photos(load_scenes(posed_photos), np.random.default_rng(3), 2, 2, 84, 70)
    assert usual["depth"].any() and np.array_equal(seen["depth"], usual["depth"])


def break_cameras(scene):
    text = (scene / "cameras.json").read_text()
    (scene / "cameras.json").write_text(text.replace('"width": 161', '"width": 160', 1))


def break_matrix(scene):
    document = json.loads((scene / "cameras.json").read_text())
    document["images"]["1.png"]["K"][0] = [1, 2]
    (scene / "cameras.json").write_text(json.dumps(document))


def break_image(scene):
    (scene / "images" / "1.png").write_bytes((scene / "images" / "1.png").read_bytes()[:-200])


def break_points(scene):
    np.savez(scene / "points.npz", **{"0.png": np.ones((4, 2)), "1.png": np.ones((4, 3))})


def truncate_points(scene):
    (scene / "points.npz").write_bytes((scene / "points.npz").read_bytes()[:100])


@pytest.mark.parametrize(
    "damage, word",
    [
        (break_cameras, "161x121"),
        (break_matrix, "K"),
        (break_image, "1.png"),
        (break_points, "0.png"),
        (truncate_points, "points.npz"),
    ],
)
def test_damage_costs_the_picture_or_the_scene_and_is_named(posed_photos, damage, word):
    damage(posed_photos / "wall")
    damaged = []
    try:
        (scene,) = load_scenes(posed_photos, damaged)
        assert len(scene.images) == 2  # of three
    except InputError as error:  # too little is left
        damaged.append(str(error))
    assert any(word in text and "wall" in text for text in damaged)


def test_a_folder_without_scenes_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cameras.json"):
        load_scenes(tmp_path)
