"""The search for cameras: similar-looking wrong pairs are removed, weak connections found, results repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lite3r_cli.refine import evidence, links, rotations
from lite3r_cli.refine.lens import Lens, Lenses
from lite3r_cli.refine.matching import Matches
from lite3r_cli.refine.observations import Tracks, longest_of_each
from lite3r_cli.scene import geometry


def ring(count: int) -> np.ndarray:
    """Rotations of cameras that look outwards, in a ring."""
    return rotations.rotation_from_vector(np.outer(np.arange(count) * 2 * np.pi / count, [0, 1.0, 0]))


def test_rotation_vectors_and_back():
    vectors = np.random.default_rng(0).normal(size=(50, 3))
    vectors[0], vectors[1] = 0, 1e-9
    back = rotations.vector_from_rotation(rotations.rotation_from_vector(vectors))
    np.testing.assert_allclose(back, vectors, atol=1e-9)


@pytest.mark.parametrize("guess", ["none", "wrong"])
def test_pairs_that_close_no_cycle_stay_far_from_the_average(guess):
    true, rng = ring(13), np.random.default_rng(1)
    relative, weights = {}, {}
    for i in range(13):
        for step in (1, 2, 3):
            a, b = sorted((i, (i + step) % 13))
            noise = rotations.rotation_from_vector(rng.normal(size=(1, 3)) * 0.01)[0]
            relative[a, b], weights[a, b] = noise @ true[b] @ true[a].T, 100.0
    quarter = rotations.rotation_from_vector(np.array([[0, np.pi / 2, 0]]))[0]
    false = [(0, 6), (1, 7), (2, 9)]
    for a, b in false:  # a look-alike facade, on more matches than any true pair
        relative[a, b], weights[a, b] = quarter @ true[b] @ true[a].T, 400.0
    if guess == "none":
        found = rotations.average(13, relative, weights)
    else:
        start = rotations.rotation_from_vector(rng.normal(size=(13, 3)))
        found = rotations.best_average(13, relative, weights, start)
    far = {pair for pair, angle in found.residuals.items() if angle > np.radians(20)}
    assert far == set(false)


@pytest.fixture
def observed():
    """Three cameras, 40 exact points: what they see of them, the last one at infinity."""
    rng = np.random.default_rng(2)
    poses = {i: np.column_stack([np.eye(3), [-0.5 * i, 0, 0]]) for i in range(3)}
    points = rng.uniform(-1, 1, (40, 3)) + [0, 0, 5]
    points[-1] *= 1e6
    lens = Lens("SIMPLE_PINHOLE", (500.0, 320.0, 240.0), (640, 480))
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    keypoints = [geometry.project(points, K, pose)[0] for pose in poses.values()]
    tracks = Tracks(np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40), np.repeat(np.arange(40), 3))
    return poses, Matches([(640, 480)] * 3, keypoints, {}, Path()), tracks, Lenses((lens,), (0, 0, 0))


def test_the_longest_tracks_of_each_image_are_chosen():
    # tracks of 2, 3 and 4 images, and one that alone shows image 4
    image = [[0, 1], [0, 1, 2], [0, 1, 2, 3], [3, 4]]
    track = np.repeat(np.arange(4), [len(row) for row in image])
    tracks = Tracks(track, np.concatenate(image), np.zeros(len(track), np.int64))
    assert longest_of_each(tracks, 1).tolist() == [False, False, True, True]
    assert longest_of_each(tracks, 2).tolist() == [False, True, True, True]
    assert longest_of_each(tracks.chosen(np.zeros(4, bool)), 2).tolist() == []


def test_right_cameras_explain_and_wrong_ones_do_not(observed):
    pytest.importorskip("pycolmap")
    poses, matches, tracks, lenses = observed
    seen = evidence.rays(matches, tracks, lenses)
    right = evidence.judge(poses, tracks, seen, 3, 1.0)
    assert right.explained == 1.0 and right.error < 1e-6
    turn = rotations.rotation_from_vector(np.array([[0.3, 0.0, 0.0]]))[0]
    wrong = poses | {2: geometry.compose(np.column_stack([turn, np.zeros(3)]), poses[2])}
    judged = evidence.judge(wrong, tracks, seen, 3, 1.0)
    assert judged.explained < 0.7 and judged.views[2] < 0.1
    assert evidence.judge({0: poses[0], 1: poses[1]}, tracks, seen, 3, 1.0).views[2] == 0
    # the other way along the line: the rays meet behind the cameras, all but those of the far point
    behind = {i: np.column_stack([p[:, :3], -p[:, 3]]) for i, p in poses.items()}
    assert evidence.judge(behind, tracks, seen, 3, 1.0).explained < 0.1


def test_the_weakest_cut_and_what_speaks_against_it():
    rng = np.random.default_rng(3)
    image, point = [], []
    for number in range(400):  # two halves of five views, three points in common
        half = number % 2
        who = rng.choice(5, 3, replace=False) + 5 * half
        who = np.append(who, 5 - 5 * half) if number < 3 else who
        image += who.tolist()
        point += [number] * len(who)
    cuts = links.weakest_cuts(range(10), np.array(image), np.array(point), {(1, 8): 7, (1, 2): 99})
    assert cuts[0].part in ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
    assert cuts[0].strength == 3 and cuts[0].against == 7
    assert min(cut.strength for cut in cuts[1:]) > 30
    observed = np.array(image), np.array(point)
    assert links.largest_part(range(10), *observed, 3) == list(range(10))
    assert links.largest_part(range(1, 10), *observed, 4) == [5, 6, 7, 8, 9]
