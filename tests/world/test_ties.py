"""Pictures that show the same thing are tied, others are not: crops of two textures, a logo, noise, nothing at all."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli.pipelines.grouping import explain, group_pictures
from lite3r_cli.world.ties import TIED, Groups, evidence, false_alarms, find_keypoints, near_first


def texture(seed: int, side: int = 420) -> np.ndarray:
    """Blobs of all sizes in shades of a colour of their own, (side, side, 3) uint8."""
    rng = np.random.default_rng(seed)
    total = sum(
        cv2.resize(rng.normal(size=(n, n, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC) / n**0.5
        for n in (12, 25, 51, 103)
    )
    shades = cv2.normalize(total, None, 0, 255, cv2.NORM_MINMAX)
    return (shades * np.roll([0.5, 0.75, 1.0], seed)).astype(np.uint8)


def photographs_of(seed: int, count: int) -> list[np.ndarray]:
    """Overlapping views of one texture, turned and foreshortened."""
    rng, picture = np.random.default_rng(100 + seed), texture(seed)
    corners = np.array([[0, 0], [240, 0], [240, 181], [0, 181]], np.float32)
    views = []
    for _ in range(count):
        seen = corners + rng.uniform(20, 150, 2).astype(np.float32) + rng.uniform(-12, 12, (4, 2)).astype(np.float32)
        views.append(cv2.warpPerspective(picture, cv2.getPerspectiveTransform(seen, corners), (240, 181)))
    return views


def never() -> list:
    raise AssertionError("the features suffice")


def group(pictures, together=(), predict=list):
    return group_pictures(pictures, lambda i: pictures[i], predict, together)


def test_the_evidence_of_one_texture_and_of_two():
    a, b = (find_keypoints(rgb, 518, 1000) for rgb in photographs_of(0, 2))
    other = find_keypoints(photographs_of(1, 1)[0], 518, 1000)
    assert evidence(a, b) < -10 and evidence(b, a) < -10
    assert evidence(a, other) > TIED and evidence(other, b) > TIED
    nothing = find_keypoints(np.full((60, 80, 3), 90, np.uint8), 518, 1000)
    assert len(nothing.points) == 0 and evidence(a, nothing) == np.inf == evidence(nothing, nothing)


def test_more_of_the_matches_in_place_mean_fewer_false_alarms():
    assert false_alarms(30, 10, 0.01) > 0 > TIED > false_alarms(30, 20, 0.01)
    values = [false_alarms(40, k, 0.01) for k in range(8, 41)]
    assert values[-1] < -40 and np.argmax(values) < 6


def test_a_logo_ties_nothing():
    first, second = photographs_of(2, 1)[0], photographs_of(3, 1)[0]
    logo = texture(9)[:60, :110]
    for rgb in (first, second):
        rgb[-60:, :110] = logo
    a, b = (find_keypoints(rgb, 518, 1000) for rgb in (first, second))
    assert evidence(a, b) > TIED
    assert evidence(a, a) < TIED  # the same picture twice is the same scene


def test_one_scene_is_one_part_and_nothing_more_is_asked():
    pictures = photographs_of(0, 5)
    found = group_pictures(pictures, lambda i: pytest.fail("read again"), never)
    assert found.whole and found.parts == [[0, 1, 2, 3, 4]] and explain(found, "abcde") == []


def test_a_foreign_picture_and_noise_are_left_out():
    noise = np.random.default_rng(0).integers(0, 256, (181, 240, 3), dtype=np.uint8)
    pictures = photographs_of(0, 4)
    pictures = [pictures[0], photographs_of(1, 1)[0], *pictures[1:], noise, np.full((181, 240, 3), 200, np.uint8)]
    found = group(pictures, predict=lambda: unseen(len(pictures)))
    assert found.parts == [[0, 2, 3, 4]] and found.left_out == [1, 5, 6]
    (text,) = explain(found, [f"{i}.jpg" for i in range(7)])
    assert text.startswith("left out") and "1.jpg, 5.jpg, 6.jpg" in text


def test_what_is_not_tied_but_looks_alike_stays():
    """Another texture in the same colours may be the other side of the scene."""
    pictures = [*photographs_of(0, 4), *photographs_of(3, 1), *photographs_of(6, 2)]
    found = group(pictures, predict=lambda: unseen(7))
    assert found.whole and found.parts == [[0, 1, 2, 3, 4, 5, 6]] and found.untied == [4, 5, 6]
    (text,) = explain(found, [f"{i}.jpg" for i in range(7)])
    assert "4.jpg, 5.jpg, 6.jpg" in text and "kept" in text


def test_many_pictures_that_only_match_each_other_are_a_scene_whatever_their_colours():
    pictures = [*photographs_of(0, 7), *photographs_of(3, 6), *photographs_of(6, 1)]
    found = group(pictures, predict=lambda: unseen(14))
    assert [[i for i in part if i < 13] for part in found.parts] == [list(range(7)), list(range(7, 13))]
    assert found.untied == [13] and not found.left_out


def test_two_strangers_are_no_scene_of_their_own():
    pictures = [*photographs_of(0, 3), *photographs_of(1, 1), *photographs_of(4, 1)]
    assert group(pictures, predict=lambda: unseen(5)).left_out == [3, 4]


def test_several_scenes_fall_into_parts_the_largest_first():
    pictures = [*photographs_of(0, 3), *photographs_of(1, 4), *photographs_of(2, 2)]
    found = group(pictures, predict=lambda: unseen(9))
    assert found.parts == [[3, 4, 5, 6], [0, 1, 2], [7, 8]] and not found.left_out
    (text,) = explain(found, [str(i) for i in range(9)])
    assert "3 scenes" in text and "part-2, part-3" in text


def test_what_is_known_to_belong_together_stays_together():
    pictures = [*photographs_of(0, 2), *photographs_of(1, 2)]
    assert group(pictures, together=[[0, 1, 2, 3]]).whole
    assert group(pictures, together=[[1, 2]], predict=lambda: unseen(4)).parts == [[0, 1, 2, 3]]


def test_a_set_in_which_nothing_is_tied_is_not_judged():
    plain = [np.full((60, 80, 3), 40 * i, np.uint8) for i in range(1, 5)]
    found = group(plain, predict=lambda: unseen(4))
    assert found.parts == [[0, 1, 2, 3]] and not found.judged
    assert "nothing" not in explain(found, list("abcd"))[0][:5] and len(explain(found, list("abcd"))) == 1


def test_groups_ask_no_pair_twice_and_stop_early():
    asked = []
    groups = Groups(5)
    groups.tie(near_first(5, 100), lambda i, j: asked.append((i, j)) or True)
    assert asked == [(0, 1), (1, 2), (2, 3), (3, 4)] and groups.members() == [[0, 1, 2, 3, 4]]
    assert list(near_first(4, 5)) == [(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]


def unseen(count: int):
    """Views that look away from each other, so that the prediction connects none of them."""
    from lite3r_cli.scene.posed_view import View

    K = np.array([[200.0, 0, 120], [0, 200, 90], [0, 0, 1]])
    poses = [np.c_[np.eye(3), [1000.0 * i, 0, 0]] for i in range(count)]
    return [View(str(i), 240, 181, K, pose, np.full((181, 240), 2, np.float32)) for i, pose in enumerate(poses)]
