"""More GPUs than one: the second one by name, and one scene on both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lite3r_cli.cli import main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
DESK = Path(__file__).parents[2] / "sample_scenes/desk/images"


def depth(folder: Path) -> np.ndarray:
    return np.stack([np.load(path) for path in sorted((folder / "depth").glob("*.npy"))])


@pytest.mark.parametrize("options", [["--engine", "fast", "--attention", "sla"], ["--engine", "ordinary"]])
def test_the_second_gpu_and_both_together_answer_as_the_first(tmp_path, options):
    """Kernels launch where their tensors are, whichever device a thread began with."""
    given = ["--keep-unrelated", "--save-npy", "-q", *options]
    found = {}
    for name, more in (
        ("first", ["--device", "cuda:0"]),
        ("second", ["--device", "cuda:1"]),
        ("both", ["--gpus", "2"]),
    ):
        assert main(["reconstruct", str(DESK), "-o", f"{tmp_path / name}/", *given, *more]) == 0
        found[name] = depth(tmp_path / name)
    assert json.loads((tmp_path / "second/run.json").read_text())["runtime"]["device"]["chosen"] == "cuda:1"
    scale = np.linalg.norm(found["first"])
    assert np.linalg.norm(found["second"] - found["first"]) <= 1e-3 * scale
    assert np.linalg.norm(found["both"] - found["first"]) <= 0.03 * scale
