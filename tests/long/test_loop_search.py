"""A sequence that comes back is noticed; one that does not is left alone; what looks alike and is not is refused."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.long.chunk_plan import plan_chunks
from lite3r_cli.long.loop_search import (
    Candidate,
    doubt_of,
    find_candidates,
    halves_agree,
    in_vain,
    is_loop,
    joint_pass,
    look_at,
    suppressed,
)
from lite3r_cli.scene.posed_view import View

SIZE = 160


def wall(length: int, seed: int = 0) -> np.ndarray:
    """A long picture that is different everywhere."""
    rng = np.random.default_rng(seed)
    shapes = np.full((SIZE, length, 3), 128, np.uint8)
    for _ in range(length // 2):
        x, y, r = rng.integers(0, length), rng.integers(0, SIZE), rng.integers(3, 14)
        cv2.circle(shapes, (int(x), int(y)), int(r), rng.integers(0, 256, 3).tolist(), -1)
    return shapes


def along(picture: np.ndarray, places) -> list[np.ndarray]:
    return [np.ascontiguousarray(picture[:, p : p + SIZE]) for p in places]


def test_a_way_back_is_found_and_a_way_ahead_is_none():
    picture = wall(40 * 30 + SIZE)
    there = np.arange(30) * 40
    ahead = along(picture, there)
    plan = plan_chunks(30, 6, "")
    assert find_candidates(plan, lambda i: look_at(ahead[i])) == []
    around = along(picture, [*there[:22], *(there[:8] + 5)])
    found = find_candidates(plan, lambda i: look_at(around[i]))
    assert found and all(abs(c.second - c.first - 22) <= 4 for c in found)


def test_pictures_without_features_are_no_loop():
    plan = plan_chunks(30, 6, "")
    assert find_candidates(plan, lambda i: look_at(np.full((SIZE, SIZE, 3), 90, np.uint8))) == []


def test_only_the_surest_of_neighbouring_candidates_stays():
    plan = plan_chunks(60, 10, "")
    found = [Candidate(0, 50, -20.0), Candidate(2, 52, -90.0), Candidate(2, 30, -10.0)]
    assert suppressed(found, plan) == [found[1], found[2]]
    joint = joint_pass(found[1], plan)
    assert len(joint.views) == 10 and {2, 52} <= set(joint.views)


def test_weaker_candidates_are_left_out_after_several_in_vain():
    assert not in_vain([False] * 5) and in_vain([False] * 6) and in_vain([True, *[False] * 6])
    assert not in_vain([*[False] * 5, True, *[False] * 5])


def test_a_loop_counts_less_the_less_its_halves_agree():
    assert doubt_of(1.0) == doubt_of(0.96) == 1 < doubt_of(0.9) < doubt_of(0.8)


def flat(depth: float, x: float) -> View:
    """A wall straight ahead, from a camera that is moved sideways."""
    K = np.array([[60.0, 0, 30], [0, 60.0, 24], [0, 0, 1]])
    maps = np.full((48, 60), depth, np.float32)
    return View("a", 60, 48, K, np.c_[np.eye(3), [-x, 0, 0]], maps, maps)


def test_halves_of_one_wall_agree_and_of_two_walls_do_not():
    one = [flat(2.0, x) for x in (0.0, 0.1, 0.3, 0.4)]
    assert is_loop(*halves_agree(one, [0, 1], [2, 3]))
    other = [*one[:2], flat(3.0, 0.3), flat(3.0, 0.4)]
    assert not is_loop(*halves_agree(other, [0, 1], [2, 3]))
    far = [*one[:2], flat(2.0, 9.0), flat(2.0, 9.1)]
    assert not is_loop(*halves_agree(far, [0, 1], [2, 3]))
