"""Sampled scenes and cameras: reproducible, within their limits, and packed without loss."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from lite3r_cli.data.procedural.camera_placement import CameraConfig, coarse_views, overlaps
from lite3r_cli.data.procedural.coarse import CoarseScene
from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import Looks
from lite3r_cli.data.procedural.sampling import SAMPLERS, SceneConfig, sample_scene
from lite3r_cli.data.procedural.sampling.partition import partition
from lite3r_cli.data.procedural.scene import MAX_PRIMITIVES, Builder, Stage, environment
from lite3r_cli.data.procedural.scene_batches import render_batch, sample_batch, sample_posed
from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.data.steps import load_steps
from lite3r_cli.errors import UsageError
from lite3r_cli.training.shape_schedule import Shape
from lite3r_cli.training.train_data import StepDraw


@pytest.fixture(scope="module")
def atlas():
    return build_atlas(variants=1)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_cameras_stand_clear_and_overlap(atlas, kind):
    """Over several scenes and both orientations: rotations are proper, zoom is in range, nobody stands in a wall,
    neighbours overlap."""
    config, cameras = SceneConfig(atlas.catalog, weights={kind: 1.0}), CameraConfig(shuffled=0.0)
    for seed in range(6):
        height, width = ((75, 113), (113, 75))[seed % 2]
        scene, K, pose = sample_posed(np.random.default_rng(seed), config, cameras, 5, height, width)
        rotation, coarse = pose[:, :, :3].astype(float), CoarseScene(scene)
        assert (
            np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3), atol=1e-5)
            and (np.linalg.det(rotation) > 0).all()
        )
        field = np.degrees(2 * np.arctan(0.5 * max(height, width) / K[:, 0, 0]))
        assert (field > 24).all() and (field < 106).all() and (K[:, 0, 2] == width / 2).all()
        centers = -np.einsum("sij,si->sj", rotation, pose[:, :, 3].astype(float))
        assert coarse.clearance(centers).min() > 0.02
        z, points = coarse_views(coarse, K.astype(float), pose.astype(float), height, width)
        assert overlaps(z, points, K, pose, height, width).min() > 0.18
        assert (centers[:, 1] > scene.stage.low[1] - 1e-3).all() and len(scene) <= MAX_PRIMITIVES
        assert rotation[:, 1, 1].mean() < 0  # image y points down where world y points up


def test_narrow_views_are_as_frequent_as_drawn_and_not_all_close_together(atlas):
    """Below 30 of 15 to 100 degrees lie 0.37 of the draws; a refused path must not lead to another lens."""
    config, cameras = SceneConfig(atlas.catalog), CameraConfig(any_lens=1.0)
    posed = [sample_posed(np.random.default_rng([3, i]), config, cameras, 2, 75, 113) for i in range(80)]
    narrow = [(scene, K, pose) for scene, K, pose in posed if K[0, 0, 0] > 0.5 * 113 / np.tan(np.radians(15))]
    assert len(narrow) > 0.25 * len(posed)
    apart = []
    for scene, K, pose in narrow:
        z, _ = coarse_views(CoarseScene(scene), K.astype(float), pose.astype(float), 75, 113)
        centres = -np.einsum("sij,si->sj", pose[:, :, :3], pose[:, :, 3])
        apart.append(np.linalg.norm(centres[0] - centres[1]) / np.median(z[np.isfinite(z)]))
    assert np.percentile(apart, 75) > 0.15


def test_a_partition_ends_at_the_walls_and_its_doorways_are_open(atlas):
    half, axes, clear = (
        np.array([4.0, 1.4, 2.0]),
        set(),
        [],
    )  # longer one way: a wall turned wrongly ends too early or too late
    for seed in range(30):
        d, b = Draw(np.random.default_rng(seed)), Builder()
        doorways = partition(b, d, Looks(d, atlas.catalog), half)
        extents = np.abs(b.centers) + [np.abs(turn) @ size for turn, size in zip(b.rotations, b.sizes)]
        reach = (extents.max(0) / half)[[0, 2]]
        axes.add(int(reach.argmax()))
        assert 1 < reach.max() < 1.12
        if len(doorways):
            scene = b.finish(environment([]), Stage(-half, half, doorways, {}), "partition")
            clear.append(CoarseScene(scene).clearance(doorways).min() > 0.3)
    assert axes == {0, 1} and len(clear) > 10 and np.mean(clear) > 0.6  # some have a door in them


def test_batches_do_not_depend_on_the_workers(atlas):
    config = SceneConfig(atlas.catalog)
    draw = StepDraw(Schedule(), config, [], seed=5, rank=0)
    pickle.dumps(draw)  # as processes that are started anew need it
    alone = list(islice(load_steps(draw, first=3), 4))
    shared = list(islice(load_steps(draw, first=3, workers=2), 4))
    assert [b.step for b in shared] == [3, 4, 5, 6] == [b.step for b in alone]
    assert all(torch.equal(a.rows, b.rows) and a.seed == b.seed for a, b in zip(alone, shared))
    other = replace(draw, rank=1)(3)
    assert other.seed != alone[0].seed and other.cameras[0].shape == (2, 3, 3, 3)
    assert not torch.equal(other.cameras[1], alone[0].cameras[1])


class Schedule:
    """The shapes of the steps; picklable."""

    def __call__(self, step: int) -> Shape:
        return Shape(2, 2 + step % 2, 42, 70)


def test_packing_pads_without_changing_the_picture(atlas):
    """A scene looks the same alone and beside a longer one."""
    config = SceneConfig(atlas.catalog)
    batch = sample_batch(config, CameraConfig(), (3, 2, 37, 53), 0, 0, 0)
    lengths = batch.scenes.counts.tolist()
    shortest = int(np.argmin(lengths))
    assert lengths[shortest] < max(lengths)
    images, depth, K, pose = render_batch(batch, atlas, samples=1)
    assert (
        images.shape == (3, 2, 3, 37, 53)
        and depth.shape == (3, 2, 37, 53)
        and K.shape == (3, 2, 3, 3)
        and pose.shape == (3, 2, 3, 4)
    )
    assert (
        torch.isfinite(images).all()
        and 0 <= float(images.min())
        and float(images.max()) <= 1
        and float(images.std()) > 0.02
    )
    scene = sample_posed(np.random.default_rng([0, 0, 0, shortest]), config, CameraConfig(), 2, 37, 53)[0]
    assert np.array_equal(batch.scenes.geometry[shortest, : len(scene)].numpy(), scene.geometry)
    assert not batch.scenes.geometry[shortest, len(scene) :].any()


def test_unknown_kind_is_refused(atlas):
    with pytest.raises(UsageError, match="choose from"):
        SceneConfig(atlas.catalog, weights={"opera": 1.0})


def test_same_seed_same_scene(atlas):
    config = SceneConfig(atlas.catalog)
    a, b = (sample_scene(np.random.default_rng(9), config) for _ in range(2))
    assert a.name == b.name and np.array_equal(a.geometry, b.geometry) and np.array_equal(a.material, b.material)
