"""A camera with few points is accepted only near the network's estimate, within the network's error on firm cameras."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lite3r_cli.refine.bundle import Hypothesis
from lite3r_cli.refine.lens import Lenses
from lite3r_cli.refine.lens_choice import FOCAL_EACH, Trial, focal_each
from lite3r_cli.refine.matching import Matches
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.search import Found
from lite3r_cli.refine.verdicts import separate, undetermined, verified_images
from lite3r_cli.scene import geometry

CONFIG = RefineConfig()
FEW, MANY = CONFIG.firm_observations // 3, 10 * CONFIG.firm_observations


def turned(pose: np.ndarray, degrees: float, axis: int) -> np.ndarray:
    turn = cv2.Rodrigues(np.radians(degrees) * np.eye(3)[axis])[0]
    return geometry.compose(np.hstack([turn, np.zeros((3, 1))]), pose)


def verdict(weak: float, firm: float, few: tuple[int, ...] = (4,)) -> list[int]:
    """The verified ones of five cameras. The network's cameras differ by `firm` degrees, the last one by `weak`
    degrees.
    """
    rng = np.random.default_rng(0)
    poses = {i: np.hstack([cv2.Rodrigues(rng.normal(size=3) * 0.2)[0], rng.normal(size=(3, 1))]) for i in range(5)}
    views = [SimpleNamespace(cam_from_world=turned(poses[i], weak if i == 4 else firm, i % 3)) for i in range(5)]
    found = Found(Hypothesis("", poses, Lenses((), ())), Matches([], [], {}, Path()), {}, [])
    seen = np.array([FEW if i in few else MANY for i in range(5)])
    return verified_images(views, found, seen, np.ones(5), CONFIG)[0]


@pytest.mark.parametrize("firm", [0.5, 4.0])
def test_few_points_against_a_network_that_is_right(firm):
    assert verdict(5.0, firm) == [0, 1, 2, 3, 4]
    assert verdict(25.0, firm) == [0, 1, 2, 3]


def test_a_network_that_is_wrong_does_not_object():
    assert verdict(25.0, 20.0) == [0, 1, 2, 3, 4]


def test_many_points_are_believed():
    assert verdict(80.0, 0.5, few=()) == [0, 1, 2, 3, 4]


def open_by(apart: float, off: float, gain: float = 0.1, taken: bool = False) -> bool:
    """Whether the network's cameras, `off` degrees from the refined ones, are kept when other lenses move those by
    `apart`.
    """
    rng = np.random.default_rng(0)
    poses = {i: np.hstack([cv2.Rodrigues(rng.normal(size=3) * 0.2)[0], rng.normal(size=(3, 1))]) for i in range(5)}
    views = [SimpleNamespace(cam_from_world=turned(poses[i], off, i % 3)) for i in range(5)]
    trials = [Trial(FOCAL_EACH, gain, 1.0, taken, apart)]
    return undetermined(views, np.stack(list(poses.values())), trials) is not None


def test_what_the_lens_leaves_open_is_not_taken_for_better_than_the_network():
    assert open_by(apart=4.0, off=1.5)
    assert not open_by(apart=1.5, off=10.0)  # the network is farther off than the lens leaves open
    assert not open_by(apart=0.5, off=0.1)  # either is exact
    assert not open_by(apart=4.0, off=1.5, gain=-0.1) and not open_by(apart=4.0, off=1.5, taken=True)


@pytest.mark.parametrize(
    ("gain", "sigmas", "zooms", "seconded", "each"),
    [
        (3.6, 2.0, True, True, True),  # few matches, and the network says the same
        (3.6, 2.0, True, False, False),  # few matches alone
        (1.5, 2.0, True, True, False),  # a gain that noise makes
        (3.6, 1.0, True, True, False),
        (1.5, 5.0, True, False, True),  # many matches need nobody else
        (3.6, 5.0, False, True, False),  # a rolling shutter fits as well
        (6.0, 5.0, False, False, True),
    ],
)
def test_a_focal_length_for_each_image_needs_many_matches_or_a_second_witness(gain, sigmas, zooms, seconded, each):
    assert focal_each(gain, sigmas, zooms, seconded) is each


@pytest.mark.parametrize("seen", [[(0, 1, 2), (1, 2, 3), (3, 4)], [(0, 1), (1, 2), (2, 3), (0, 4)], [(2, 4)]])
def test_points_in_two_views_leave_their_distance_open(seen):
    """40 points for each group of views that see them, 50 for the last one."""
    tracks = [who for who in seen for _ in range(40)] + 10 * [seen[-1]]
    image = np.array([i for who in tracks for i in who])
    point = np.repeat(np.arange(len(tracks)), [len(who) for who in tracks])
    views = [SimpleNamespace(facing=None)] * 5
    expected = {3: [0, 1, 2, 3], 4: [0, 4], 1: [2, 4]}[len(seen)]
    chosen = sorted(set(image.tolist()))
    lost = separate(views, chosen, image, point, CONFIG)
    assert [i for i in chosen if i not in lost] == expected
