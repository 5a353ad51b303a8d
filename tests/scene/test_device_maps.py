"""Maps that stay on the device which predicted them: fusion takes them, and nothing else in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_fusion import grey, two_planes

from lite3r_cli.config import FusionConfig
from lite3r_cli.io.images import ImageRecord, ImageSet
from lite3r_cli.networks.base import Prediction
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines import as_views
from lite3r_cli.scene.device_maps import DeviceMaps
from lite3r_cli.scene.frame import move_views, translation
from lite3r_cli.scene.fusion import fuse_with_statistics
from lite3r_cli.scene.geometry import Similarity

META = torch.device("meta")  # a device that computes nothing and is on every machine


def test_only_the_array_itself_has_its_tensor():
    held, array, tensor = DeviceMaps(), np.ones((3, 4), np.float32), torch.empty(3, 4, device=META)
    held.hold(array, tensor)
    assert held.of(array, META) is tensor
    assert held.of(array.copy(), META) is not tensor  # a view that was refined has another array
    assert torch.equal(held.of(array, "cpu"), torch.ones(3, 4))
    held.release()
    assert held.of(array, META) is not tensor


def test_moving_a_scene_keeps_its_maps_unless_lengths_change():
    view = two_planes(0.0)
    moved, scaled = move_views([view], translation(np.ones(3))), Similarity(2.0, np.eye(3), np.zeros(3))
    assert moved[0].depth is view.depth
    assert np.array_equal(move_views([view], scaled)[0].depth, 2 * view.depth)


def test_what_says_nothing_is_zero_in_both_maps():
    shapes = [(4, 6), (4, 6), (5, 6), (4, 6)]
    made = torch.Generator().manual_seed(0)
    depth, confidence = ([1 + torch.rand(shape, generator=made) for shape in shapes] for _ in range(2))
    depth[0][0, 0], depth[1][1, 1], confidence[2][2, 2] = torch.nan, -1.0, torch.inf
    hidden = np.zeros(shapes[3], bool)
    hidden[3] = True
    inputs = [NetworkInput(np.zeros((*shape, 3), np.uint8), shape) for shape in shapes]
    inputs[3] = replace(inputs[3], masked=hidden)
    records = [ImageRecord(f"{i}.jpg", None, width, height) for i, (height, width) in enumerate(shapes)]
    K = torch.tensor([[5.0, 0, 3], [0, 5, 2], [0, 0, 1]]).expand(4, 3, 3)
    prediction = Prediction(depth, confidence, torch.eye(3, 4).expand(4, 3, 4), K)
    expected = [(d.isfinite() & (d > 0) & c.isfinite()).numpy() for d, c in zip(depth, confidence)]
    expected[3] &= ~hidden
    views = as_views.to_views(ImageSet(records), range(4), inputs, prediction)
    for view, known, d, c in zip(views, expected, depth, confidence):
        assert np.array_equal(view.depth, np.where(known, d, 0)) and np.array_equal(
            view.confidence, np.where(known, c, 0)
        )


def test_a_gpu_takes_neighbours_of_one_shape_together(monkeypatch):
    monkeypatch.setattr(as_views, "TOGETHER", 2)
    shapes = [(2, 3), (2, 3), (2, 3), (3, 3), (2, 3)]
    assert list(as_views._runs_of_one_shape([torch.empty(s, device=META) for s in shapes])) == [[0, 1], [2], [3], [4]]
    assert list(as_views._runs_of_one_shape([torch.empty(s) for s in shapes])) == [[i] for i in range(5)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_maps_on_a_gpu_give_the_cloud_of_the_cpu():
    rng = np.random.default_rng(0)
    views = [two_planes(x) for x in (0.0, 0.1, 0.2, 0.3)]
    views = [replace(v, depth=v.depth * rng.normal(1, 0.01, v.depth.shape).astype(np.float32)) for v in views]
    held = DeviceMaps()
    for view in views:
        held.hold(view.depth, torch.from_numpy(view.depth).cuda())
    config = FusionConfig(0)
    expected, counts = fuse_with_statistics(views, grey, config=config)
    for maps in (held, DeviceMaps()):
        cloud, found = fuse_with_statistics(views, grey, config=config, device=torch.device("cuda:0"), held=maps)
        for name, count in counts.to_dict().items():
            assert getattr(found, name) == pytest.approx(count, abs=2), (
                name
            )  # a pixel at a threshold may fall either way
        if len(cloud) == len(expected):
            np.testing.assert_allclose(cloud.points, expected.points, atol=1e-4)
