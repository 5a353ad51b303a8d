"""Fusion on analytic scenes: a square at z = 2 in front of a wall at z = 4, seen by cameras side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import fusion_by_numpy as twin
import numpy as np
import pytest
import torch

from lite3r_cli.config import FusionConfig
from lite3r_cli.errors import UsageError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.scene import geometry
from lite3r_cli.scene.consistency import check_views
from lite3r_cli.scene.fusion import clean_views, flying_pixels, fuse, fuse_with_statistics, sample_colors
from lite3r_cli.scene.map_groups import MapGroup
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.surfaces import TOGETHER, Surfaces, VoterMap

SCENES = Path(__file__).parents[2] / "sample_scenes"
WIDTH, HEIGHT = 333, 251  # the photograph
MAP = (61, 83)  # its depth map (h, w)
K = np.array([[300.0, 0, 170], [0, 305.0, 120], [0, 0, 1]])
KEEP_ALL = FusionConfig(0, edge_filter=False, consistency=False, max_points=None)


def camera(x: float) -> np.ndarray:
    return np.array([[1.0, 0, 0, -x], [0, 1, 0, 0], [0, 0, 1, 0]])


def two_planes(x: float, shape=MAP) -> View:
    rays = geometry.unproject(np.ones(shape), geometry.scale_intrinsics(K, shape[1] / WIDTH, shape[0] / HEIGHT))
    on_square = (np.abs(2 * rays[..., 0] + x) < 0.5) & (np.abs(2 * rays[..., 1]) < 0.4)
    depth = np.where(on_square, 2, 4).astype(np.float32)
    return View(f"{x}.jpg", WIDTH, HEIGHT, K, camera(x), depth, np.ones(shape, np.float32))


def grey(_: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def flying_in(view: View) -> torch.Tensor:
    return flying_pixels(torch.from_numpy(view.depth)[None], [view], 84)[0]


def off_the_planes(points: np.ndarray) -> np.ndarray:
    """Relative distance to the nearer of the two planes."""
    return np.minimum(np.abs(points[:, 2] - 2) / 2, np.abs(points[:, 2] - 4) / 4)


def wavy_scene(name: str) -> list[View]:
    """A sample scene whose depth maps, of several sizes, are off by up to 5 % in patches, smeared and with holes."""
    views = []
    for i, view in enumerate(read_cameras_json(SCENES / name)[:6]):
        make = np.random.default_rng(i)
        shape = (view.depth.shape[0] // 2 - 2 * (i % 2), view.depth.shape[1] // 2)
        depth = cv2.GaussianBlur(cv2.resize(view.depth, shape[::-1], interpolation=cv2.INTER_NEAREST), (0, 0), 0.6)
        waves = cv2.resize(make.uniform(0.95, 1.05, (5, 7)), shape[::-1], interpolation=cv2.INTER_CUBIC)
        depth = (depth * waves).astype(np.float32)
        depth[make.random(shape) < 0.02] = 0
        depth[10:20, 15:30] *= 0.7
        views.append(replace(view, depth=depth, confidence=make.random(shape).astype(np.float32)))
    return views


@pytest.mark.parametrize("together", [1, 8])
@pytest.mark.parametrize("name", ["desk", "facade"])
def test_the_filters_are_those_of_numpy(name, together, monkeypatch):
    monkeypatch.setitem(TOGETHER, "cpu", together)
    views, tolerance = wavy_scene(name), 0.03
    alive = []
    for view in views:
        flying = twin.flying_pixels(view, 84)
        np.testing.assert_array_equal(flying_in(view).numpy(), flying)
        alive.append((view.depth > 0) & ~flying)
    surfaces = Surfaces([VoterMap(view, mask) for view, mask in zip(views, alive, strict=True)])
    dropped = 0
    for i, voter in enumerate(surfaces.voters):
        others = [j for j in range(len(views)) if j != i]
        expected = twin.check_view(views, alive, i, others, tolerance)
        group = MapGroup([i], [voter])
        pixels = group.pixels()
        found = check_views(surfaces, group, pixels, group.camera_points(pixels), [others], tolerance, True)
        for ours, theirs in zip((found.contradicted, found.seen_through), expected[:2], strict=True):
            assert (ours.numpy() != theirs[alive[i]]).mean() < 1e-3  # OpenCV rounds places to 1/32 of a pixel
            dropped += int(ours.sum())
        size = np.linalg.norm(twin.camera_points(views[i], alive[i])[:, alive[i]], axis=0)
        apart = np.linalg.norm(found.shift.numpy() - expected[2][:, alive[i]], axis=0) / size
        assert np.quantile(apart, 0.99) < 5e-4 and np.median(apart) < 5e-5
    assert dropped > 100  # the patches are found: the comparison is of something


@pytest.mark.parametrize("sizes", [1, 2])
def test_several_maps_at_a_time_as_on_a_gpu_give_the_same_cloud(sizes, monkeypatch):
    """On a GPU, maps of one size are compared together, and their shifts are added at once. With one size, views of
    different neighbours are compared at once, too.
    """
    views = wavy_scene("desk")
    if sizes == 1:
        views = views[0::2] + [two_planes(x) for x in (0.0, 0.1, 0.2, 0.3)]
    else:
        views = [view for i in (0, 1) for view in views[i::2]]  # those of one size side by side
    expected, counts = fuse_with_statistics(views, grey)
    for together in (2, 8):
        monkeypatch.setitem(TOGETHER, "cpu", together)
        cloud, found = fuse_with_statistics(views, grey)
        assert found.to_dict() == pytest.approx(counts.to_dict(), rel=1e-4)
        np.testing.assert_allclose(cloud.points, expected.points, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config", [FusionConfig(max_points=5000), FusionConfig(voxel=0.05), FusionConfig(consistency=False)]
)
def test_views_that_are_fused_together_are_those_of_one_at_a_time(config, monkeypatch):
    """Several views of one size are a GPU's unit: with masks, with colours of the map's size or not, and with a view
    that no other sees, one with a single pixel, and one without depth between them.
    """
    views = wavy_scene("facade")
    lonely = replace(views[1], cam_from_world=views[1].cam_from_world @ np.diag([-1.0, 1, -1, 1]))
    dot = replace(views[0], depth=np.where(np.arange(views[0].depth.size) == 2013, 9, 0).reshape(views[0].depth.shape))
    views = [
        *views[0::2],
        replace(views[0], depth=None),
        *views[1::2],
        lonely,
        replace(dot, depth=np.float32(dot.depth)),
    ]
    shapes = [(HEIGHT, WIDTH) if view.depth is None else view.depth.shape for view in views]

    def colours(i: int) -> np.ndarray:
        shape = shapes[i] if i > 3 else (HEIGHT, WIDTH)
        return np.random.default_rng(i).integers(0, 256, (*shape, 3), dtype=np.uint8)

    def mask(i: int) -> np.ndarray | None:
        return np.random.default_rng(i).random((40, 50)) > 0.1 if i % 2 else None

    steps: list[int] = []
    expected, counts = fuse_with_statistics(views, colours, mask, config, step=lambda: steps.append(1))
    clean = clean_views(views, mask, config)
    assert len(steps) == len(views)
    monkeypatch.setitem(TOGETHER, "cpu", 16)
    cloud, found = fuse_with_statistics(views, colours, mask, config)
    for reason, count in counts.to_dict().items():
        assert found.to_dict()[reason] == (None if count is None else pytest.approx(count, rel=1e-4)), reason
    if len(cloud) == len(expected):
        np.testing.assert_allclose(cloud.points, expected.points, rtol=1e-3, atol=1e-3)
        assert (cloud.colors == expected.colors).mean() > 0.999
    for a, b in zip(clean, clean_views(views, mask, config), strict=True):
        assert a.depth is None or (np.abs(a.depth - b.depth) > 1e-4 * (1 + a.depth)).mean() < 1e-3


def test_the_cloud_is_the_same_on_any_number_of_threads():
    views, clouds = wavy_scene("desk"), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            clouds.append(fuse(views, lambda i: np.zeros((9, 9, 3), np.uint8)))
    finally:
        torch.set_num_threads(before)
    for cloud in clouds[1:]:
        assert cloud.points.tobytes() == clouds[0].points.tobytes() and len(cloud) > 10_000


def test_a_perfect_scene_stays_whole():
    views = [two_planes(-0.3), two_planes(0.0, (59, 77)), two_planes(0.4)]
    cloud, statistics = fuse_with_statistics(views, grey)
    assert len(cloud) == statistics.points > 0.99 * statistics.pixels
    assert off_the_planes(cloud.points).max() < 1e-5
    counted = [v for k, v in statistics.to_dict().items() if k not in ("pixels", "confidence_threshold", "tolerance")]
    assert sum(counted) == statistics.pixels
    assert cloud.points.dtype == cloud.confidence.dtype == np.float32 and cloud.colors.dtype == np.uint8


def test_flying_pixels_go_and_clean_edges_stay():
    sharp = two_planes(0.0, (123, 167))
    smeared = replace(sharp, depth=cv2.GaussianBlur(sharp.depth, (0, 0), 1.0))
    assert flying_in(sharp).sum() <= 8  # a diagonal cuts across each corner of the square
    everything = fuse([smeared], grey, config=KEEP_ALL).points
    filtered = fuse([smeared], grey, config=replace(KEEP_ALL, edge_filter=True)).points
    assert off_the_planes(everything).max() > 0.2
    assert off_the_planes(filtered).max() < 0.08
    assert len(filtered) > 0.9 * len(everything)


def test_a_slanted_floor_is_no_flying_pixel():
    """A plane seen at 80 degrees stays, at 87 degrees it goes; one limit, whatever the resolution."""
    for shape in (MAP, (122, 166)):
        scaled = geometry.scale_intrinsics(K, shape[1] / WIDTH, shape[0] / HEIGHT)
        ray = geometry.unproject(np.ones(shape), scaled)
        for degrees, expected in ((80, 0), (87, 1)):
            slope = np.tan(np.radians(degrees))
            depth = 1 / (1 + slope * (ray[..., 1] - ray[0, 0, 1]))  # the plane z + slope · (y − y₀ z) = 1
            view = View("a", WIDTH, HEIGHT, K, camera(0), depth.astype(np.float32))
            assert flying_in(view)[1:3].float().mean() == expected


def test_contradicted_points_go_and_the_rest_stays():
    views = [two_planes(-0.3), two_planes(0.0), two_planes(0.3)]
    floating, doubled = views[1].depth.copy(), views[1].depth.copy()
    floating[5:9, 30:36] *= 0.6  # all of it on the wall, where the other cameras look through it
    doubled[5:9, 30:36] *= 1.05
    for depth, reason in ((floating, "free_space"), (doubled, "inconsistent")):
        _, before = fuse_with_statistics(views, grey)
        cloud, statistics = fuse_with_statistics([views[0], replace(views[1], depth=depth), views[2]], grey)
        assert off_the_planes(cloud.points).max() < 0.01
        names = ("free_space", "inconsistent", "edge")
        dropped = {name: getattr(statistics, name) - getattr(before, name) for name in names}
        assert sum(dropped.values()) == 24 and dropped[reason] >= 12


def test_what_no_other_view_sees_stays():
    turned = np.array([[-1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]])  # looks the other way
    away = replace(two_planes(0.0), cam_from_world=turned)
    config = FusionConfig(edge_filter=False)
    _, statistics = fuse_with_statistics([two_planes(-0.2), away], grey, config=config)
    assert statistics.points == statistics.pixels and statistics.tolerance is None


def test_hidden_points_are_not_contradicted():
    """The wall behind the square is hidden from camera 0 and seen by camera 1 alone: it stays."""
    left, right = two_planes(0.0), two_planes(1.2)
    _, statistics = fuse_with_statistics([left, right], grey)
    assert statistics.free_space + statistics.inconsistent < 0.01 * statistics.pixels


def test_agreeing_surfaces_are_averaged():
    """Views off by +1 % and −1 % agree within the tolerance and meet in the middle where they overlap."""
    left, right = two_planes(-0.1), two_planes(0.1)
    pair = [replace(left, depth=left.depth * 1.01), replace(right, depth=right.depth * 0.99)]
    config = FusionConfig(0, tolerance=0.05)
    apart = off_the_planes(fuse(pair, grey, config=replace(config, average=False)).points)
    met = off_the_planes(fuse(pair, grey, config=config).points)
    assert np.median(apart) == pytest.approx(0.01, rel=1e-3)
    assert np.median(met) < 0.0002


def test_the_tolerance_follows_the_scene():
    """A network whose views disagree by 5 % still gives a cloud; a given tolerance is obeyed."""
    views = [two_planes(x) for x in (-0.1, 0.0, 0.1)]
    views = [replace(view, depth=view.depth * scale) for view, scale in zip(views, (0.95, 1, 1.05), strict=True)]
    _, adaptive = fuse_with_statistics(views, grey)
    _, strict = fuse_with_statistics(views, grey, config=FusionConfig(0, tolerance=0.02))
    assert adaptive.tolerance == pytest.approx(0.15) and strict.tolerance == 0.02
    assert adaptive.points > 0.9 * adaptive.pixels and strict.points < 0.5 * strict.pixels


def test_each_view_is_compared_with_the_views_that_overlap_it():
    """Two far-apart groups: with one neighbour each, a contradiction inside a group is still found."""
    views = [two_planes(x) for x in (0.0, 50.0, 0.2, 50.2)]
    wrong = views[0].depth.copy()
    wrong[5:9, 30:36] *= 0.6
    cloud = fuse([replace(views[0], depth=wrong), *views[1:]], grey, config=FusionConfig(0, neighbours=1))
    assert off_the_planes(cloud.points).max() < 0.005


def test_confidence_is_cut_by_percentile_at_any_scale():
    view = two_planes(0.0)
    confidence = np.arange(view.depth.size, dtype=np.float32).reshape(MAP)
    for scale in (1e-6, 1e6):
        cloud, statistics = fuse_with_statistics(
            [replace(view, confidence=scale * confidence)], grey, config=replace(KEEP_ALL, confidence_percentile=25)
        )
        assert statistics.low_confidence == pytest.approx(0.25 * view.depth.size, abs=1)
        assert cloud.confidence.min() >= statistics.confidence_threshold
    flat = fuse([view], grey, config=replace(KEEP_ALL, confidence_percentile=90))
    assert len(flat) == view.depth.size  # equal confidence: nothing is least


def test_masks_and_unknown_depth():
    view = two_planes(0.0)
    depth = view.depth.copy()
    depth[0, :3] = depth[-1, -3:] = [0, np.nan, np.inf]  # masked, and used
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, : WIDTH // 2] = False  # ends within column 41 of 83, left of its centre
    cloud, statistics = fuse_with_statistics([replace(view, depth=depth)], grey, lambda i: mask, KEEP_ALL)
    assert (statistics.unknown, statistics.masked) == (3, 41 * MAP[0])
    pixels, _ = geometry.project(cloud.points, K)
    assert pixels[:, 0].min() > WIDTH // 2


def test_colours_come_from_the_full_image_at_the_pixel_centre():
    """The image is a ramp, so that the colour tells where it was taken."""
    x, y = np.arange(200), np.arange(120)
    ramp = np.zeros((120, 200, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = x[None, :], y[:, None]
    keep = np.ones((7, 9), bool)
    keep[0, 0] = False
    pixels = torch.from_numpy(np.flatnonzero(keep))
    colors = sample_colors(torch.from_numpy(ramp), pixels, keep.shape).numpy()
    expected = geometry.pixel_grid(7, 9)[keep] * [200 / 9, 120 / 7] - 0.5  # pixel i has value i, its centre is i + 0.5
    assert np.abs(colors[:, :2] - expected).max() <= 0.5 + 1e-4
    one = np.array([[[9, 8, 7]]], np.uint8)
    assert sample_colors(torch.from_numpy(one), torch.arange(4), (2, 2)).tolist() == [[9, 8, 7]] * 4
    own = sample_colors(torch.from_numpy(ramp), torch.tensor([0, 321]), (120, 200))  # an image of the map's size
    assert own.tolist() == [[0, 0, 0], [121, 1, 0]]


def test_the_budget_is_kept_and_the_draw_repeatable():
    views = [two_planes(x) for x in (-0.3, 0.0, 0.3)]
    clouds = [fuse(views, grey, config=FusionConfig(max_points=1001), seed=seed) for seed in (0, 0, 1)]
    assert [len(c) for c in clouds] == [1001] * 3
    assert np.array_equal(clouds[0].points, clouds[1].points)
    assert not np.array_equal(clouds[0].points, clouds[2].points)


def test_voxels_hold_weighted_means():
    """Two pixels per voxel: position and colour lean to the confident one."""
    view = View(
        "a", 2, 1, np.array([[1.0, 0, 1], [0, 1, 0.5], [0, 0, 1]]), np.eye(3, 4),
        np.ones((1, 2), np.float32), np.array([[1, 3]], np.float32),
    )  # fmt: skip
    image = np.array([[[0, 0, 0], [100, 0, 0]]], np.uint8)
    shifted = replace(view, cam_from_world=np.array([[1.0, 0, 0, 5], [0, 1, 0, 5], [0, 0, 1, 5]]))
    config = replace(KEEP_ALL, voxel=10.0)
    cloud, statistics = fuse_with_statistics([shifted, shifted], lambda i: image, config=config)
    np.testing.assert_allclose(cloud.points, [[0.25 - 5, -5, -4]], atol=1e-6)
    assert cloud.colors.tolist() == [[75, 0, 0]] and cloud.confidence.tolist() == [2]
    assert (statistics.merged, statistics.points) == (3, 1)
    far_apart = fuse([view, shifted], lambda i: image, config=replace(KEEP_ALL, voxel=1e-9))
    assert len(far_apart) == 4


def test_degenerate_sets():
    view = two_planes(0.0)
    assert len(fuse([view], grey)) > 0.99 * view.depth.size
    assert len(fuse([replace(view, depth=None), view], grey)) > 0.99 * view.depth.size
    nothing = replace(view, depth=np.zeros(MAP, np.float32))
    for views in ([], [nothing], [nothing, nothing]):
        cloud, statistics = fuse_with_statistics(views, grey)
        assert cloud.points.shape == (0, 3) and cloud.colors.shape == (0, 3) and statistics.points == 0
    pixel = View("p", 1, 1, np.eye(3), np.eye(3, 4), np.ones((1, 1), np.float32))
    assert len(fuse([pixel, pixel], lambda i: np.zeros((1, 1, 3), np.uint8))) == 2


@pytest.mark.parametrize(
    "bad", [{"confidence_percentile": 100}, {"voxel": 0}, {"max_points": 0}, {"tolerance": 2}, {"neighbours": 0}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UsageError):
        FusionConfig(**bad)
