"""Shared by the tests of the pipelines and of the command line: small photographs, and a network that knows its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

PLANE_DEPTH = 2.0
STEP = 0.1  # between two cameras, along x


class PlaneBackbone:
    """Sees the plane z = 2 from cameras on a line, whatever the images show: views agree with each other exactly.

    Focal length = image width; confidence grows from left to right.
    """

    name = "plane"
    patch_size = 14

    def predict(self, images: Sequence):
        import torch

        from lite3r_cli.backbones.base import Prediction

        poses = torch.eye(3, 4).repeat(len(images), 1, 1)
        poses[:, 0, 3] = -STEP * torch.arange(len(images)) - 1.0  # the first camera is not the identity
        K = torch.zeros(len(images), 3, 3)
        depth, confidence = [], []
        for j, image in enumerate(images):
            height, width = image.shape[-2:]
            K[j] = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
            depth.append(torch.full((height, width), PLANE_DEPTH))
            confidence.append(torch.linspace(1, 2, width).expand(height, width).clone())
        return Prediction(depth, confidence, poses, K)


def pytest_addoption(parser):
    parser.addoption("--fixture-dir", type=Path, metavar="DIR", help="folder of the larger parity fixtures (*.npz), for the slow tests")


@pytest.fixture
def plane_backbone(monkeypatch) -> type[PlaneBackbone]:
    """Make every model name load PlaneBackbone."""
    from lite3r_cli.backbones import registry

    monkeypatch.setattr(registry, "load", lambda name, **options: PlaneBackbone())
    return PlaneBackbone


def photograph(path: Path, width: int = 98, height: int = 70, seed: int = 0) -> Path:
    """Write a textured picture; the format follows from the suffix."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    assert ok
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture
def photographs(tmp_path) -> Callable[..., Path]:
    """photographs(3) → a folder `photos` with a0.jpg, a1.jpg, a2.jpg."""

    def make(count: int, width: int = 98, height: int = 70) -> Path:
        for i in range(count):
            photograph(tmp_path / "photos" / f"a{i}.jpg", width, height, seed=i)
        return tmp_path / "photos"

    return make
