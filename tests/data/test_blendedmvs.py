"""BlendedMVS in its published layout: cameras, depth, partner views, and disjoint training and test scenes."""

import cv2
import numpy as np
import pytest

from lite3r_cli.data.blendedmvs import PUBLISHED_VALIDATION, is_blendedmvs, load_blendedmvs, read_camera, read_depth_pfm
from lite3r_cli.errors import InputError

K = np.array([[60.0, 0, 24], [0, 62, 18], [0, 0, 1]])
DEPTH = np.arange(36 * 48, dtype=np.float32).reshape(36, 48) / 100  # the first pixel is unknown


def write_camera(path, pose, intrinsics):
    rows = ["extrinsic", *(" ".join(map(str, row)) for row in np.r_[pose, [[0, 0, 0, 1]]]), ""]
    rows += ["intrinsic", *(" ".join(map(str, row)) for row in intrinsics), "", "1.0 0.1 128 20.0"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows))


def write_pfm(path, depth, order="<"):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n{'-1.0' if order == '<' else '1.0'}\n".encode()
    path.write_bytes(header + depth[::-1].astype(f"{order}f4").tobytes())


def scene(root, name, views=4):
    for i in range(views):
        picture = np.full((36, 48, 3), 40 * i, np.uint8)
        (root / name / "blended_images").mkdir(parents=True, exist_ok=True)
        for suffix in ("", "_masked"):
            cv2.imwrite(str(root / name / "blended_images" / f"{i:08d}{suffix}.jpg"), picture)
        write_camera(root / name / "cams" / f"{i:08d}_cam.txt", np.c_[np.eye(3), [-0.1 * i, 0, 0]], K)
        write_pfm(root / name / "rendered_depth_maps" / f"{i:08d}.pfm", DEPTH + i)
    (root / name / "cams" / "pair.txt").write_text("2\n0\n2 2 9.5 1 3.0 \n1\n1 7 1.0 \n")


def test_the_published_validation_scenes_are_held_out_without_a_list(tmp_path):
    for name in ("58a0a0a0a0a0a0a0a0a0a0a0", PUBLISHED_VALIDATION[2]):
        scene(tmp_path, name)
    assert is_blendedmvs(tmp_path)
    split = load_blendedmvs(tmp_path)
    assert [s.name for s in split.train] == ["58a0a0a0a0a0a0a0a0a0a0a0"]
    assert [s.name for s in split.held_out] == [PUBLISHED_VALIDATION[2]]
    views = split.train[0]
    assert len(views.shots) == 4  # no masked pictures
    np.testing.assert_allclose(views.shots[2].cam_from_world[:, 3], [-0.2, 0, 0])
    np.testing.assert_allclose(views.shots[2].K, K)
    np.testing.assert_allclose(views.shots[0].depth(), DEPTH)
    assert views.partners == ((2, 1), (), (), ())  # picture 7 is not there


def test_its_own_lists_decide_and_no_scene_may_be_in_both(tmp_path):
    for name in ("a" * 24, "b" * 24, "c" * 24):
        scene(tmp_path, name, views=2)
    (tmp_path / "training_list.txt").write_text("a" * 24 + ".zip\n")
    (tmp_path / "validation_list.txt").write_text("b" * 24 + "\n")
    split = load_blendedmvs(tmp_path)
    assert [s.name for s in split.train] == ["a" * 24] and [s.name for s in split.held_out] == ["b" * 24]
    (tmp_path / "validation_list.txt").write_text("b" * 24 + "\n" + "a" * 24 + "\n")
    with pytest.raises(InputError, match="a{24}.*one of them"):
        load_blendedmvs(tmp_path)


def test_depth_of_either_byte_order_and_a_cut_file(tmp_path):
    write_pfm(tmp_path / "big.pfm", DEPTH, ">")
    np.testing.assert_array_equal(read_depth_pfm(tmp_path / "big.pfm"), DEPTH)
    write_pfm(tmp_path / "odd.pfm", np.array([[np.nan, -1, 2.5]], np.float32))
    np.testing.assert_array_equal(read_depth_pfm(tmp_path / "odd.pfm"), [[0, 0, 2.5]])
    whole = (tmp_path / "big.pfm").read_bytes()
    (tmp_path / "cut.pfm").write_bytes(whole[:-4])
    with pytest.raises(InputError, match="cut.pfm"):
        read_depth_pfm(tmp_path / "cut.pfm")


def test_a_camera_without_a_rotation_is_refused(tmp_path):
    write_camera(tmp_path / "bad_cam.txt", np.c_[2 * np.eye(3), np.zeros(3)], K)
    with pytest.raises(InputError, match="bad_cam.txt"):
        read_camera(tmp_path / "bad_cam.txt")
