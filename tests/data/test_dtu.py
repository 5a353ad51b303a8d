"""DTU with shared cameras: the usual split by scan number, and images that fit their cameras."""

import cv2
import numpy as np
import pytest
from test_blendedmvs import write_camera

from lite3r_cli.data.dtu import TRAINING, VALIDATION, is_dtu, load_dtu
from lite3r_cli.errors import InputError

TEST = (
    1,
    4,
    9,
    10,
    11,
    12,
    13,
    15,
    23,
    24,
    29,
    32,
    33,
    34,
    48,
    49,
    62,
    75,
    77,
    110,
    114,
    118,
)  # published
K = np.array([[60.0, 0, 24], [0, 62, 18], [0, 0, 1]])


@pytest.fixture
def tree(tmp_path):
    for i in range(3):
        write_camera(tmp_path / "Cameras" / f"{i:08d}_cam.txt", np.c_[np.eye(3), [-20.0 * i, 0, 600]], K)
    for scan in (2, 3, 4, 25):  # training, validation, test, in no list
        for i in range(3):
            (tmp_path / f"scan{scan}" / "image").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / f"scan{scan}" / "image" / f"{i:06d}.png"), np.full((36, 48, 3), 9, np.uint8))
    return tmp_path


def test_the_split_is_a_partition_of_the_published_sizes():
    assert (len(TRAINING), len(VALIDATION), len(TEST)) == (79, 18, 22)
    assert len({*TRAINING, *VALIDATION, *TEST}) == 79 + 18 + 22


def test_test_scans_are_left_alone_and_cameras_are_shared(tree):
    assert is_dtu(tree)
    (tree / "scan4" / "image" / "000000.png").write_bytes(b"")  # would be refused if it were opened
    split = load_dtu(tree)
    assert [s.name for s in split.train] == ["scan2"] and [s.name for s in split.held_out] == ["scan3"]
    assert "2 test or unlisted" in split.note
    shot = split.train[0].shots[2]
    np.testing.assert_allclose(shot.cam_from_world[:, 3], [-40, 0, 600])
    assert shot.depth is None and shot.rgb().shape == (36, 48, 3)


def test_pictures_of_another_size_than_the_cameras_cost_themselves_alone(tree):
    cv2.imwrite(str(tree / "scan2" / "image" / "000000.png"), np.zeros((144, 192, 3), np.uint8))
    (tree / "scan2" / "image" / "².png").write_bytes(b"is no number")
    split = load_dtu(tree)
    assert [len(scan.shots) for scan in split.train] == [2] and len(split.damaged) == 1
    assert "scan2" in split.damaged[0] and "192×144" in split.damaged[0]
    (tree / "Cameras" / "00000001_cam.txt").write_text("")
    split = load_dtu(tree)
    assert not split.train and len(split.held_out[0].shots) == 2  # two pictures at least
    assert any("00000001_cam.txt" in text for text in split.damaged)


def test_only_test_scans_are_no_data(tree):
    for scan in (2, 3, 25):
        (tree / f"scan{scan}").rename(tree / f"other{scan}")
    with pytest.raises(InputError, match="training or validation"):
        load_dtu(tree)
