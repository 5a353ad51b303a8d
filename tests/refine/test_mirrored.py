"""Mirror images among photos are found, and right photos of a symmetric facade are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lite3r_cli.io.images import discover
from lite3r_cli.refine.descriptors import Described, matches
from lite3r_cli.refine.keypoints import Features, extract
from lite3r_cli.refine.mirrored import flip, mirror_images
from lite3r_cli.refine.refine_config import RefineConfig

FACADE = Path(__file__).parents[2] / "sample_scenes" / "facade" / "images"


def features(rgb: np.ndarray) -> Features:
    return extract(rgb, None, RefineConfig(feature_size=500, max_features=2000))


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    images = discover([FACADE])
    return [images.read(i) for i in range(0, 10, 2)]


def test_flipped_descriptors_are_those_of_the_mirrored_picture(photos):
    right, mirrored = (features(rgb) for rgb in (photos[0][:, :777], photos[0][:, 776::-1]))
    pairs = matches(Described(flip(right.descriptors)), Described(mirrored.descriptors))
    assert len(pairs) > 0.5 * len(right)
    there = mirrored.points[pairs[:, 1]]
    there[:, 0] = right.size[0] - there[:, 0]
    apart = np.linalg.norm(there - right.points[pairs[:, 0]], axis=1)
    assert np.median(apart) < 0.5


@pytest.mark.parametrize("mirrored", [[], [2], [1, 4], [0, 1, 3]])
def test_the_smaller_part_is_the_mirrored_one(photos, mirrored):
    turned = [rgb[:, ::-1] if i in mirrored else rgb for i, rgb in enumerate(photos)]
    smaller = mirrored if len(mirrored) < 3 else [i for i in range(5) if i not in mirrored]
    assert mirror_images([features(rgb) for rgb in turned]) == smaller


def test_two_pictures_and_pictures_without_features_are_no_mirror_images(photos):
    found = [features(photos[0]), features(photos[1][:, ::-1])]
    assert mirror_images(found) == []
    blank = features(np.full((50, 70, 3), 90, np.uint8))
    assert mirror_images([blank] * 4) == mirror_images([]) == []
