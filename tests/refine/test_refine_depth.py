"""Depth refinement against exact depth: alignment to sparse points, the sweep, and the confidence that follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.refine.align import align_depth
from lite3r_cli.refine.depth_refinement import refine_depth, sweep_neighbours
from lite3r_cli.refine.fill import fill
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.stereo import _bonus, stereo
from lite3r_cli.refine.warp import Picture
from lite3r_cli.scene import geometry
from lite3r_cli.scene.metrics import resample_depth
from lite3r_cli.scene.sparse_points import SparseModel

SCENE = Path(__file__).parents[2] / "sample_scenes" / "facade"
SIZE = (287, 383)  # odd on purpose


@pytest.fixture(scope="module")
def truth():
    views = read_cameras_json(SCENE)[:4]
    return [replace(view, depth=resample_depth(view.depth, SIZE), confidence=None) for view in views]


@pytest.fixture(scope="module")
def sparse(truth):
    """Points of the first view's true surface, seen by all views that look at them."""
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 1, (400, 2)) * [truth[0].width, truth[0].height]
    row, column = (pixels[:, ::-1] * np.array(SIZE) / [truth[0].height, truth[0].width]).astype(int).T
    known = truth[0].depth[row, column] > 0
    pixels, row, column = pixels[known], row[known], column[known]
    points = geometry.unproject_pixels(pixels, truth[0].depth[row, column], truth[0].K, truth[0].cam_from_world)
    image, point, pixel = [], [], []
    for i, view in enumerate(truth):
        where, z = geometry.project(points, view.K, view.cam_from_world)
        seen = np.flatnonzero((z > 0) & (where >= 0).all(1) & (where < [view.width, view.height]).all(1))
        image.append(np.full(len(seen), i)), point.append(seen), pixel.append(where[seen])
    columns = (np.concatenate(c) for c in (image, point, pixel))
    return SparseModel(points, np.zeros((len(points), 3), np.uint8), np.zeros(len(points)), *columns)


def bent(view, factor: float = 1.7):
    """A wrong scale, a wrong contrast and a tilt: what a network's depth looks like."""
    tilt = np.linspace(-0.08, 0.08, SIZE[1], dtype=np.float32)
    depth = view.depth * factor * np.exp(tilt + 0.05 * np.sin(9 * tilt * np.pi))
    return replace(view, depth=depth.astype(np.float32), confidence=np.ones(SIZE, np.float32))


def error(depth, truth) -> float:
    known = truth.depth > 0  # the sky has none
    return float(np.median(np.abs(depth[known] / truth.depth[known] - 1)))


def test_alignment_finds_scale_and_tilt(truth, sparse):
    view = bent(truth[0])
    assert error(view.depth, truth[0]) > 0.5
    assert error(align_depth(view, sparse, 0), truth[0]) < 0.02


def test_alignment_survives_outliers_and_leaves_unknown_pixels(truth, sparse):
    view = bent(truth[0])
    view.depth[:5] = 0
    pixel = sparse.pixel.copy()
    wrong = np.arange(0, (sparse.image == 0).sum(), 10)
    points = sparse.points.copy()
    points[sparse.point[wrong]] *= 4
    aligned = align_depth(view, replace(sparse, points=points, pixel=pixel), 0)
    assert (aligned[:5] == 0).all()
    assert error(aligned[5:], replace(truth[0], depth=truth[0].depth[5:])) < 0.05


def test_too_few_points_change_nothing(truth, sparse):
    few = sparse.image[:3] * 0
    little = replace(sparse, image=few, point=sparse.point[:3], pixel=sparse.pixel[:3])
    assert align_depth(bent(truth[0]), little, 0) is None


def test_stereo_needs_no_depth_to_start_from_and_knows_where_it_is_right(truth, sparse):
    pictures = [cv2.imread(str(SCENE / "images" / view.name))[..., ::-1] for view in truth]
    flat = [replace(view, depth=np.ones(SIZE, np.float32), confidence=np.ones(SIZE, np.float32)) for view in truth]
    result = refine_depth(flat, sparse, range(len(truth)), pictures.__getitem__, RefineConfig(), torch.device("cpu"))
    assert result.steps == ["stereo"] * 4 and 0.3 < min(result.confirmed) < 1
    for view, true in zip(result.views, truth):
        assert error(view.depth, true) < 0.012
        known = true.depth > 0
        relative = np.abs(view.depth[known] / true.depth[known] - 1)
        sure = view.confidence[known] >= np.median(view.confidence[known])
        assert np.mean(relative[sure]) < 0.5 * np.mean(relative[~sure])
        assert (view.depth > 0).all() and 0 <= view.confidence.min() and view.confidence.max() <= 1


def test_white_wall_keeps_the_network(truth, sparse):
    start = [bent(view) for view in truth]
    grey = np.full((384, 512, 3), 200, np.uint8)
    result = refine_depth(start, sparse, range(4), lambda i: grey, RefineConfig(), torch.device("cpu"))
    assert result.steps == ["aligned"] * 4
    assert error(result.views[0].depth, truth[0]) < 0.03


def test_filling_takes_the_network_where_its_shape_helps():
    v, u = np.indices((120, 160)) / 160
    true = (2 + np.sin(9 * u) * np.cos(7 * v)).astype(np.float32)
    sure = np.zeros(true.shape, bool)
    sure[::17, ::17] = sure[1::17, 1::17] = True
    sure[60:, :40] = False
    grey = np.full(true.shape, 0.5, np.float32)
    good, bad = 3 * true**1.2, np.exp(np.random.default_rng(0).normal(size=true.shape)).astype(np.float32)
    for shape, network, most in ((good, True, 0.03), (bad, False, 0.3)):
        filled = fill(np.where(sure, true, 7), sure, shape, grey)
        assert filled.network is network
        assert np.mean(np.abs(filled.depth / true - 1)) < most
        np.testing.assert_array_equal(filled.depth[sure], true[sure])


def test_views_that_were_not_verified_stay_and_so_does_the_sky(truth, sparse):
    pictures = [cv2.imread(str(SCENE / "images" / view.name))[..., ::-1] for view in truth]
    rough = [bent(view) for view in truth]
    result = refine_depth(rough, sparse, [0, 1], pictures.__getitem__, RefineConfig(), torch.device("cpu"))
    assert result.steps[2:] == ["kept", "kept"]
    np.testing.assert_array_equal(result.views[2].depth, rough[2].depth)
    sky = truth[0].depth == 0
    assert result.steps[0] == "stereo" and sky.sum() > 2000
    assert (result.views[0].depth[sky] == 0).mean() > 0.95 and (result.views[0].depth[~sky] > 0).all()
    assert (result.views[0].confidence[result.views[0].depth == 0] == 0).all()


def test_masked_pixels_are_compared_with_nothing(truth, sparse):
    """Every image has an object at the same place, where a much nearer surface would be seen. Without masks stereo
    takes it for such a surface.
    """
    pictures = [cv2.imread(str(SCENE / "images" / view.name))[..., ::-1].copy() for view in truth]
    thing = np.random.default_rng(5).integers(0, 256, (120, 140, 3), dtype=np.uint8)
    masks = [np.ones(picture.shape[:2], bool) for picture in pictures]
    for picture, mask in zip(pictures, masks):
        picture[100:220, 180:320], mask[100:220, 180:320] = thing, False
    start = [bent(view) for view in truth]
    how = (start, sparse, range(4), pictures.__getitem__, RefineConfig(), torch.device("cpu"))
    seen, masked = refine_depth(*how), refine_depth(*how, read_mask=masks.__getitem__)
    assert max(masked.confirmed) < 1 - (~masks[0]).mean() + 0.01
    small = cv2.resize(masks[0].astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST) > 0
    known = small & (truth[0].depth > 0)
    wrong = [
        np.mean(np.abs(np.log(found.views[0].depth[known] / truth[0].depth[known])) > 0.05) for found in (seen, masked)
    ]
    assert masked.steps == ["stereo"] * 4 and wrong[1] <= wrong[0]


def test_stripes_that_fit_several_depths_are_where_the_network_expects_them():
    """Stripes 8 px apart: 32 px of disparity (depth 2) explain the other picture as well as 24 px (depth 2.67)."""
    K = torch.tensor([[160.0, 0, 80], [0, 160, 60], [0, 0, 1]], dtype=torch.float64)
    x = torch.arange(160) + 0.5
    pictures = {}
    for i in (0, 1):
        pose = torch.eye(4, dtype=torch.float64)[:3].clone()
        pose[0, 3] = -0.4 * i
        stripes = 0.5 + 0.4 * torch.sin(2 * torch.pi / 8 * (x + 32 * i))
        pictures[i] = Picture(stripes.expand(120, 160).contiguous().float(), K, pose)
    for depth in (2, 64 / 24):
        expected = {i: torch.full((120, 160), 1.05 * depth) for i in pictures}
        surface = stereo(pictures, {0: [1], 1: [0]}, {0: (1.0, 8.0), 1: (1.0, 8.0)}, expected)[0]
        assert abs(float(surface.inverse[:, 60:].median()) * depth - 1) < 0.03


def test_neighbours_need_an_angle(truth, sparse):
    others = sweep_neighbours(truth, sparse, range(4), 2)
    assert all(len(found) == 2 and i not in found for i, found in others.items())
    twin = [truth[0], truth[0], *truth[2:]]
    assert sweep_neighbours(twin, sparse, range(4), 3)[0][-1] == 1


def test_little_parallax_never_leads_behind_the_camera():
    """Noise seen by two cameras next to each other: a hypothesis one pixel away is beyond infinity."""
    rng = np.random.default_rng(0)
    K = torch.tensor([[120.0, 0, 56], [0, 120, 42], [0, 0, 1]], dtype=torch.float64)
    pictures = {}
    for i in (0, 1):
        pose = torch.eye(4, dtype=torch.float64)[:3].clone()
        pose[0, 3] = -0.02 * i
        pictures[i] = Picture(torch.from_numpy(rng.random((84, 112), np.float32)), K, pose)
    expected = {i: torch.full((84, 112), 3.0) for i in pictures}
    found = stereo(pictures, {0: [1], 1: [0]}, {0: (1.0, 20.0), 1: (1.0, 20.0)}, expected)
    for surface in found.values():
        assert bool((surface.inverse > 0).all()) and bool(torch.isfinite(surface.inverse.log()).all())


def test_points_that_meet_add_up_in_any_order():
    planes, rng = torch.linspace(0.1, 1.0, 16), np.random.default_rng(0)
    row, column = (torch.from_numpy(rng.integers(0, 5, 70_000)) for _ in range(2))
    inverse = torch.from_numpy(rng.uniform(0.1, 1.0, 70_000).astype(np.float32))
    order = torch.from_numpy(rng.permutation(70_000))
    first = _bonus((row, column, inverse), planes, (16, 5, 5))
    again = _bonus((row[order], column[order], inverse[order]), planes, (16, 5, 5))
    few = _bonus((row[:40], column[:40], inverse[:40]), planes, (16, 5, 5))
    assert torch.equal(first, again) and 0 < float(few.max()) <= 0.45
