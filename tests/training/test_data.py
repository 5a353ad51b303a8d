"""What reaches the loop: rendered scenes and photographs of the step's shape, the same for the same seed, step and
rank.
"""

import numpy as np
import pytest
import torch

from lite3r_cli.training import shape_schedule as schedule
from lite3r_cli.training.shape_schedule import ShapeSchedule
from lite3r_cli.training.train_data import TrainingData


@pytest.fixture
def tiny_shapes(monkeypatch, small_atlas):
    monkeypatch.setattr(schedule, "SMALL", {(56, 42): 1.0})
    monkeypatch.setattr(schedule, "VIEWS", {4: 1.0})
    return ShapeSchedule(tokens=2048, low_resolution_steps=100, portrait=0.0, seed=4)


def test_scenes_are_rendered_the_same_for_the_same_step_and_differ_between_ranks(tiny_shapes, monkeypatch):
    monkeypatch.setattr(ShapeSchedule, "__call__", lambda self, step: schedule.Shape(2, 3, 42, 56))

    def first(rank, step):
        data = TrainingData(tiny_shapes, torch.device("cpu"), rank, 0, None, None, seed=1)
        return next(data.batches(step))

    batch, again, other = first(0, 3), first(0, 3), first(1, 3)
    assert batch.images.shape == (2, 3, 3, 42, 56) and batch.targets.depth.shape == (2, 3, 42, 56)
    assert 0 <= batch.images.min() and batch.images.max() <= 1
    assert torch.equal(batch.images, again.images) and torch.equal(batch.targets.K, again.targets.K)
    assert not torch.equal(batch.targets.cam_from_world, other.targets.cam_from_world)
    assert len(batch.decoded) == 2 and batch.targets.reference.max() < 3


def test_photographs_come_with_sparse_depth(tiny_shapes, tmp_path, posed_photos):
    shapes = ShapeSchedule(tokens=2048, low_resolution_steps=100, photos=1.0, seed=4)
    data = TrainingData(shapes, torch.device("cpu"), 0, 0, None, posed_photos, seed=1)
    batch = next(data.batches(0))
    known = (batch.targets.depth > 0).float().mean()
    assert batch.targets.sparse and 0.001 < known < 0.5
    assert batch.images.shape[2:4] == (3, 42) or batch.images.shape[2:4] == (3, 56)
    assert np.isfinite(batch.images.numpy()).all()
