"""Work done while the network runs: which images are connected, and their edges."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
from lite3r_cli.console import Progress
from lite3r_cli.errors import MemoryLimitError
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines import grouping
from lite3r_cli.pipelines.ahead import NO_EDGES, Ahead, Edges
from lite3r_cli.pipelines.grouping import Grouping
from lite3r_cli.pipelines.later import Later
from lite3r_cli.pipelines.reconstruct_scene import _group
from lite3r_cli.world import gravity
from lite3r_cli.world.ties import Groups

WHOLE, PARTS = Grouping([[0, 1, 2, 3]], []), Grouping([[0, 1], [2, 3]], [])


class Network:
    """Notes when it predicts, and may run out of memory."""

    def __init__(self, device: str, too_large: bool = False) -> None:
        self.runtime = SimpleNamespace(torch_device=torch.device(device))
        self.too_large, self.predicted, self.ended = too_large, 0, 0

    def predict_pictures(self, images, pictures, progress):
        self.predicted += 1
        if self.too_large:
            raise MemoryLimitError("full")
        return SimpleNamespace(views=[], of=pictures, early=SimpleNamespace(end=self._end))

    def _end(self) -> None:
        self.ended += 1


def group(network: Network, found: Grouping, monkeypatch, tied=lambda: Groups(4)):
    """What `_group` gives where the comparison ends with `found`, which asks for no prediction by itself."""
    monkeypatch.setattr(grouping, "settle", lambda groups, pictures, predict: found)
    pictures = SimpleNamespace(indices=[0, 1, 2, 3], inputs=[])
    images = SimpleNamespace(records=[SimpleNamespace(name=f"{i}.jpg") for i in range(4)])
    config = ReconstructConfig(InputConfig((Path("photos"),)), PredictConfig())
    return _group(config, images, network, pictures, Later(tied, "ties"), Progress(), lambda text: None)


def test_a_gpu_predicts_while_pictures_are_compared(monkeypatch):
    network = Network("cuda")

    def tied() -> Groups:
        while not network.predicted:  # for ever, should the network wait for this
            pass
        return Groups(4)

    assert group(network, WHOLE, monkeypatch, tied)[1] is not None and network.predicted == 1 and not network.ended
    network = Network("cuda")
    assert group(network, PARTS, monkeypatch) == (PARTS, None)  # each scene is predicted by itself
    assert network.ended == 1  # so are its matches


def test_a_cpu_predicts_nothing_that_may_be_thrown_away(monkeypatch):
    network = Network("cpu")
    assert group(network, WHOLE, monkeypatch) == (WHOLE, None) and network.predicted == 0


def test_what_fits_by_scenes_need_not_fit_as_a_whole(monkeypatch):
    assert group(Network("cuda", too_large=True), PARTS, monkeypatch) == (PARTS, None)
    with pytest.raises(MemoryLimitError):
        group(Network("cuda", too_large=True), WHOLE, monkeypatch)


def test_edges_are_those_that_would_be_found_later():
    rgb = np.full((120, 160, 3), 200, np.uint8)
    rgb[:, 60:] = 30
    whole, window = NetworkInput(rgb, (120, 160)), NetworkInput(rgb.copy(), (140, 160), (10, 0))
    edges = Edges([whole, window])
    segments, diagonal = gravity.find_edges(rgb[..., 0])
    assert len(segments) and diagonal == 200
    assert np.array_equal(edges.of(whole)[0], segments)
    assert edges.of(window) is None  # it is looked at as a part of the whole picture
    assert edges.of(NetworkInput(rgb.copy(), (120, 160))) is None and NO_EDGES.of(whole) is None


def test_nothing_is_looked_for_that_nobody_asks_about():
    pictures = SimpleNamespace(indices=[0], inputs=[NetworkInput(np.zeros((4, 4, 3), np.uint8), (4, 4))])
    config = ReconstructConfig(InputConfig((Path("photos"),)), PredictConfig(refine=True))
    ahead = Ahead(config, SimpleNamespace(records=[]), SimpleNamespace(streams=False), pictures)
    assert ahead.ties is None and ahead.edges.of(pictures.inputs[0]) is None
