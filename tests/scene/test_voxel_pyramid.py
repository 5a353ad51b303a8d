"""The parts and levels of a large cloud: all of it when near, even thinning with distance, never too many points."""

from __future__ import annotations

import numpy as np

from lite3r_cli.scene.posed_view import PointCloud
from lite3r_cli.scene.voxel_pyramid import LEVELS, build_pyramid


def cloud_of(count: int) -> PointCloud:
    rng = np.random.default_rng(0)
    points = (rng.random((count, 3)) * [10, 4, 0.01]).astype("f4")
    points[0] = [4000, 0, 0]  # a stray
    return PointCloud(points, rng.integers(0, 256, (count, 3), np.uint8), np.ones(count, "f4"))


def test_levels_thin_evenly_and_parts_are_all_there_is() -> None:
    cloud = cloud_of(20_000)
    pyramid = build_pyramid(cloud)
    every = np.concatenate([part.levels[0] for part in pyramid.parts])
    assert np.array_equal(np.sort(every), np.arange(len(cloud)))
    for k in range(1, LEVELS):
        finer, coarser = (np.concatenate([p.levels[i] for p in pyramid.parts]) for i in (k - 1, k))
        assert set(coarser.tolist()) <= set(finer.tolist())
        low = np.percentile(cloud.points, 1, axis=0)
        for part in pyramid.parts:
            cells = np.floor((cloud.points[part.levels[k]] - low) / pyramid.voxel).astype(np.int64) >> k
            finest = np.floor((cloud.points[part.levels[0]] - low) / pyramid.voxel).astype(np.int64) >> k
            assert len(np.unique(cells, axis=0)) == len(cells) == len(np.unique(finest, axis=0))


def test_near_parts_are_whole_and_far_ones_thin() -> None:
    cloud = cloud_of(20_000)
    pyramid = build_pyramid(cloud)
    assert len(pyramid.seen_from(np.array([0.0, 2, 0]), 10**6)) > 0.9 * len(cloud)
    shown = pyramid.seen_from(np.array([0.0, 2, 0.1]), 5000)
    assert 1000 < len(shown) <= 5000
    x = cloud.points[:, 0]
    share = [(x[shown] // 2 == k).sum() / (x // 2 == k).sum() for k in range(5)]
    assert share[0] > 3 * share[2] > 0 and share[4] > 0 and 0 in shown  # the stray is a part of its own


def test_no_points() -> None:
    empty = PointCloud(np.zeros((0, 3), "f4"), np.zeros((0, 3), "u1"), np.zeros(0, "f4"))
    assert len(build_pyramid(empty).seen_from(np.zeros(3), 10)) == 0
    one = PointCloud(np.ones((1, 3), "f4"), np.zeros((1, 3), "u1"), np.ones(1, "f4"))
    assert build_pyramid(one).seen_from(np.zeros(3), 10).tolist() == [0]
