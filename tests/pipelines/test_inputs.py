"""Pictures on the way to the network."""

import numpy as np
import torch

from lite3r_cli.pipelines.streams import Inputs


def test_pictures_that_are_copied_together_are_those_copied_one_by_one():
    pictures = [np.random.default_rng(k).integers(0, 256, (28, 42, 3), dtype=np.uint8) for k in range(5)]
    found = Inputs(pictures, torch.device("cpu"))
    together = [*found.stacked(0, 3), *found.stacked(3, 6)]
    assert len(together) == 5
    for one, other in zip(found, together):
        assert torch.equal(one, other) and one.stride() == other.stride()
