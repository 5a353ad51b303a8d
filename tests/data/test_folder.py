"""The user's own scenes and photos: sampling, and cameras and depth after crop and resize."""

import json

import cv2
import numpy as np
from conftest import wall_color

from lite3r_cli.data.folder import load_photographs, load_scenes, split
from lite3r_cli.data.views import Shot, ViewSet, choose_views, read_views
from lite3r_cli.io.depth_files import write_depth_png


def wall_depth(K, pose, height, width):
    """z-depth of the wall z = 5 at the pixel centres, and its world points."""
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1) @ pose[:, :3]
    centre = -pose[:, :3].T @ pose[:, 3]
    z = (5 - centre[2]) / rays[..., 2]
    return z, centre + rays * z[..., None]


def test_cameras_and_depth_still_fit_the_picture_after_crop_and_resize(posed_photos):
    folder = posed_photos / "wall"
    cameras = json.loads((folder / "cameras.json").read_text())
    for name, entry in cameras["images"].items():
        depth, _ = wall_depth(np.array(entry["K"]), np.array(entry["cam_from_world"]), 121, 161)
        entry["depth"] = f"{name}.depth.png"
        entry["depth_scale"] = write_depth_png(folder / entry["depth"], depth)
    (folder / "cameras.json").write_text(json.dumps(cameras))
    (scene,) = load_scenes([posed_photos]).train
    views = read_views(scene.shots, 70, 14, size=(70, 70))  # a square out of a landscape
    assert views.images.shape == (3, 70, 70, 3)
    for image, K, pose, depth in zip(views.images, views.K, views.cam_from_world, views.depth):
        true, points = wall_depth(K, pose, 70, 70)
        assert np.abs(depth / true - 1).max() < 0.01
        assert np.abs(image - wall_color(points))[1:-1, 1:-1].mean() < 1.5


def test_the_longest_side_decides_the_size_of_the_first_and_all_others(posed_photos):
    (scene,) = load_scenes([posed_photos / "wall"]).train
    assert read_views(scene.shots, 80, 14).images.shape == (3, 56, 70, 3)


def test_photographs_without_cameras_have_none(photographs):
    (scene,) = load_photographs([photographs(4)]).train
    views = read_views(scene.shots, 56, 14)
    assert views.images.shape == (4, 42, 56, 3) and views.K is None and views.depth is None


def test_views_without_partners_are_an_even_stretch_and_with_partners_a_grown_set():
    line = ViewSet("line", tuple(Shot(lambda: None) for _ in range(20)))
    for seed in range(20):
        chosen = sorted(choose_views(line, np.random.default_rng(seed), 5))
        assert len(set(np.diff(chosen))) == 1 and np.diff(chosen)[0] <= 3 and chosen[-1] < 20
    ring = ViewSet("ring", line.shots, tuple(((i + 1) % 20, (i - 1) % 20) for i in range(20)))
    for seed in range(20):
        chosen = sorted(choose_views(ring, np.random.default_rng(seed), 5))
        gaps = np.diff([*chosen, chosen[0] + 20])
        assert len(set(chosen)) == 5 and (gaps == 1).sum() == 4  # one arc of the ring
    assert sorted(choose_views(line, np.random.default_rng(0), 99)) == list(range(20))


def test_held_out_scenes_are_not_trained_on(tmp_path):
    scenes = [ViewSet(f"s{i}", ()) for i in range(25)]
    parts = split(scenes, "scenes")
    assert len(parts.train) == 23 and {s.name for s in parts.held_out} == {"s23", "s24"}
    assert "was trained on" in split(scenes[:1], "scenes").note


def test_a_video_or_picture_that_cannot_be_read_is_named(tmp_path, photographs):
    folder = photographs(2)
    cv2.imwrite(str(folder / "a2.jpg"), np.zeros((70, 98, 3), np.uint8))
    whole = (folder / "a2.jpg").read_bytes()
    (scene,) = load_photographs([folder]).train
    (folder / "a2.jpg").write_bytes(whole[:100])
    try:
        scene.shots[2].rgb()
    except Exception as error:
        assert "a2.jpg" in str(error)
    else:
        raise AssertionError("a damaged image was read")
