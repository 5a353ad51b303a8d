"""A damaged item of a data set is skipped alone; held-out scenes are not used for training under another name."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import photograph
from test_blendedmvs import K, scene, write_camera, write_pfm

from lite3r_cli.data.blendedmvs import load_blendedmvs
from lite3r_cli.data.folder import load_photographs, load_scenes
from lite3r_cli.distillation.distill_data import MOST_ATTEMPTS, Sizes, open_data
from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.depth_files import write_depth_png

SIZES = Sizes(views=2, batch=1, resolution=56, multiple=14, seed=3)
NAME = "5" * 24


def opened(*folders, strict=False, tell=lambda text: None, sizes=SIZES):
    return open_data([str(f) for f in folders], sizes, torch.device("cpu"), 0, 0, None, strict, tell)


def larger_picture(root):
    cv2.imwrite(str(root / NAME / "blended_images/00000001.jpg"), np.zeros((72, 96, 3), np.uint8))


def camera(pose=np.c_[np.eye(3), np.zeros(3)], intrinsics=K):
    return lambda root: write_camera(root / NAME / "cams/00000001_cam.txt", pose, intrinsics)


def written(name, content):
    return lambda root: (root / NAME / name).write_bytes(content)


def odd_name(root):
    for part, suffix in (("blended_images", ".jpg"), ("cams", "_cam.txt"), ("rendered_depth_maps", ".pfm")):
        (root / NAME / part / f"00000001{suffix}").rename(root / NAME / part / f"²{suffix}")


def removed(name):
    return lambda root: (root / NAME / name).unlink()


DAMAGE = {
    "images of another size": (larger_picture, "96×72"),
    "not a rotation": (camera(np.c_[np.diag([2, 0.5, 1.0]), np.zeros(3)]), "rotation"),
    "mirrored": (camera(np.c_[np.diag([1, 1, -1.0]), np.zeros(3)]), "rotation"),
    "NaN in K": (camera(intrinsics=np.array([[60, 0, np.nan], [0, 62, 18], [0, 0, 1]])), "not finite"),
    "last row of K": (camera(intrinsics=np.array([[60, 0, 24], [0, 62, 18], [0, 0, 2]])), "intrinsic"),
    "camera in UTF-16": (written("cams/00000001_cam.txt", "extrinsic".encode("utf-16")), "_cam.txt"),
    "no camera": (removed("cams/00000001_cam.txt"), "_cam.txt"),
    "no depth": (removed("rendered_depth_maps/00000001.pfm"), "missing"),
    "empty image": (written("blended_images/00000001.jpg", b""), "empty"),
    "name without a number": (odd_name, "number"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_item_costs_that_item_and_is_listed(tmp_path, damage):
    scene(tmp_path, NAME)
    spoil, word = DAMAGE[damage]
    spoil(tmp_path)
    split = load_blendedmvs(tmp_path)
    assert [len(views.shots) for views in split.train] == [3]
    assert len(split.damaged) == 1 and word in split.damaged[0] and NAME in split.damaged[0]
    assert any(split.damaged[0] in text for text in opened(tmp_path).damaged)
    with pytest.raises(InputError, match=NAME):
        opened(tmp_path, strict=True)


def test_a_bad_scene_costs_that_scene_and_no_scene_is_an_error(tmp_path):
    for name in (NAME, "6" * 24):
        scene(tmp_path, name)
    (tmp_path / NAME / "cams/pair.txt").write_bytes(b"\xff\xfe2\nx\ny")
    split = load_blendedmvs(tmp_path)
    assert [views.name for views in split.train] == ["6" * 24] and "pair.txt" in split.damaged[0]
    shutil.rmtree(tmp_path / ("6" * 24))
    with pytest.raises(InputError, match="pair.txt"):
        opened(tmp_path)


@pytest.mark.parametrize("shape", [(0, 0), (36, 50)])
def test_depth_that_is_not_of_its_picture_is_met_later(tmp_path, shape):
    scene(tmp_path, NAME)
    write_pfm(tmp_path / NAME / "rendered_depth_maps/00000001.pfm", np.ones(shape, np.float32))
    told = []
    data = opened(tmp_path, tell=told.append)
    batches = data.batches(0, 3)
    shown = [next(batches).targets.depth for _ in range(8)]
    assert len(shown) == 8 and len(told) == 1 and "another draw" in told[0]


def test_what_is_damaged_later_is_replaced_by_a_draw_that_follows_from_the_step(tmp_path):
    scene(tmp_path, NAME, views=5)
    cut = tmp_path / NAME / "rendered_depth_maps/00000002.pfm"
    told: list[str] = []
    data = opened(tmp_path, tell=told.append)
    cut.write_bytes(cut.read_bytes()[:-8])
    whole = data.batches(0, 3)
    seen = [next(whole).images for _ in range(10)]
    assert len(told) == 1 and "00000002.pfm" in told[0]
    resumed = opened(tmp_path).batches(6, 3)  # goes on at step 6, and sees the same
    for later in seen[6:]:
        assert torch.equal(next(resumed).images, later)
    for each in (tmp_path / NAME / "rendered_depth_maps").iterdir():
        each.write_bytes(b"")
    with pytest.raises(InputError, match=f"{MOST_ATTEMPTS} draws"):
        next(data.batches(0, 3))


# -- held out ----------------------------------------------------------------------------------------------------------


def own_scene(folder, seed, views=3):
    images = {}
    for i in range(views):
        photograph(folder / "images" / f"{i}.png", 98, 70, seed=10 * seed + i)
        pose = np.c_[np.eye(3), [0.1 * i, 0, 0]].tolist()
        images[f"{i}.png"] = {
            "K": [[90, 0, 49], [0, 90, 35], [0, 0, 1]], "cam_from_world": pose, "width": 98, "height": 70
        }  # fmt: skip
    (folder / "cameras.json").write_text(json.dumps({"images": images}))
    return folder


def both_sides(data):
    train = {shot.content for source in data.train for views in source.scenes for shot in views.shots}
    return train & {shot.content for source in data.held_out for views in source.scenes for shot in views.shots}


def test_the_same_scene_by_two_ways_is_one(tmp_path):
    a, b = own_scene(tmp_path / "all/a", 1), own_scene(tmp_path / "all/b", 2)
    copy = shutil.copytree(a, tmp_path / "copy")
    (tmp_path / "link").symlink_to(a)
    for folders in ([a, a, b], [a, tmp_path / "link", b], [tmp_path / "all", a], [a, b, copy]):
        split = load_scenes(folders)
        assert [scene.name for scene in (*split.train, *split.held_out)] == ["a", "b"], folders
    assert "copy shows images of a" in load_scenes([a, b, copy]).note
    assert "was trained on" in load_scenes([a, copy]).note


def test_held_out_by_identity_over_kinds_of_data(tmp_path):
    a, b, c = (own_scene(tmp_path / name, i) for i, name in enumerate("abc"))
    shutil.copytree(b / "images", tmp_path / "photos/one")
    shutil.copytree(c / "images", tmp_path / "photos/two")
    data = opened(a, b, tmp_path / "photos/one", tmp_path / "photos/two")  # b is held out; one is b without cameras
    assert not both_sides(data) and any("not trained on, because held out: one" in note for note in data.notes)


def test_data_are_known_by_their_content(tmp_path):
    a, b = own_scene(tmp_path / "a", 1), own_scene(tmp_path / "b", 2)
    before = opened(a, b).content
    moved = [shutil.copytree(each, tmp_path / "moved" / each.name) for each in (a, b)]
    assert opened(*moved).content == before != opened(b, a).content
    document = (a / "cameras.json").read_text()
    (a / "cameras.json").write_text(document.replace("90", "91"))
    assert opened(a, b).content != before
    (a / "cameras.json").write_text(document)
    photograph(a / "images/1.png", 98, 70, seed=99)
    assert opened(a, b).content != before


def test_a_damaged_picture_or_camera_of_ones_own_scene(tmp_path):
    a = own_scene(tmp_path / "a", 1, views=4)
    document = json.loads((a / "cameras.json").read_text())
    document["images"]["1.png"]["cam_from_world"][0][0] = 2
    document["images"]["../../b/0.png"] = document["images"]["0.png"]
    photograph(tmp_path / "b/0.png", 98, 70)
    photograph(a / "images/2.png", 49, 35)
    (a / "cameras.json").write_text(json.dumps(document))
    split = load_scenes([a])
    assert len(split.train[0].shots) == 2 and len(split.damaged) == 3
    photograph(tmp_path / "c/0.png")
    (tmp_path / "c/1.png").write_bytes((tmp_path / "c/0.png").read_bytes()[:100])
    assert "1.png" in load_photographs([tmp_path / "c"]).damaged[0]


def test_a_picture_that_changes_while_it_is_used_is_not_taken_for_the_old_one(tmp_path):
    a = own_scene(tmp_path / "a", 1)
    (scene,) = load_scenes([a]).train
    shot, (width, height) = scene.shots[1], (196, 140)
    assert shot.rgb().shape == (70, 98, 3)
    for size in ((98, 70), (width, height)):
        photograph(a / "images/1.png", *size, seed=99)
        with pytest.raises(InputError, match="1.png: the file changed while it was in use"):
            shot.rgb()


def test_all_depth_is_content_and_that_of_another_shape_is_listed(tmp_path):
    a, told = own_scene(tmp_path / "a", 1), {}
    document = json.loads((a / "cameras.json").read_text())
    for changed in (0, 1):
        for i, (height, width) in enumerate([(35, 49), (35, 49), (42, 56)]):  # the last as `mini` has it for 98 x 70
            depth = np.ones((height, width))
            depth[1, 1] += changed
            scale = write_depth_png(a / f"{i}.depth.png", depth, 1000)
            more = {"depth": f"{i}.depth.png", "depth_scale": scale, "depth_width": width, "depth_height": height}
            document["images"][f"{i}.png"] |= more
        (a / "cameras.json").write_text(json.dumps(document))
        split = load_scenes([a])
        assert len(split.damaged) == 1 and "2.png: a depth map has 56x42" in split.damaged[0]
        told[split.train[0].content] = changed
    assert len(told) == 2


def test_one_scene_in_place_of_the_set_is_told(tmp_path):
    scene(tmp_path, NAME)
    with pytest.raises(UsageError, match=f"one scene of BlendedMVS; name the folder of the set.*{tmp_path}$"):
        opened(tmp_path / NAME)
