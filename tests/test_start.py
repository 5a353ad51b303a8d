"""Modules that `lite3r reconstruct` must not import at start, because each takes half a second or more."""

from __future__ import annotations

import json
import subprocess
import sys

FORBIDDEN = (
    "IPython",
    "cupy",
    "huggingface_hub",
    "lite3r_cli.pipelines.long_run",
    "lite3r_cli.refine.pipeline",
    "matplotlib",
    "pandas",
    "pycolmap",
    "scipy",
    "sympy",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torch.fx.experimental.symbolic_shapes",
    "torch.onnx",
    "torch.testing",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "transformer_engine",
    "trimesh",
    "triton",
)

RECONSTRUCT = """
import json, sys
import torch
before = set(sys.modules)
from lite3r_cli.cli import main
code = main(json.loads(sys.argv[1]))
print(json.dumps([code, sorted(set(sys.modules) - before)]))
"""

BUILD_ALL = """
import json, sys
import torch
before = set(sys.modules)
from lite3r_cli.attention.module import attach
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks.family import families
for family in families().values():
    for k, (name, config) in enumerate(family.sizes.items()):
        with unfilled():
            model = family.build(config, name)
            layers = family.global_layers(config)
            if layers:
                attach(model, SparseConfig(tuple(layers), 0.5, mix=("sum", "convex")[k % 2]))
        assert all(tensor.is_meta for tensor in model.state_dict().values()), name
print(json.dumps([0, sorted(set(sys.modules) - before)]))
"""


def imported(program: str, *arguments: str) -> set[str]:
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    code, modules = json.loads(run.stdout.splitlines()[-1])
    assert code == 0, run.stderr[-2000:]
    return {name for name in modules if name in FORBIDDEN or name.split(".")[0] in FORBIDDEN}


def test_a_wrong_path_is_told_before_torch_is_imported(tmp_path):
    program = """
import sys
from lite3r_cli.cli import main
code = main([*sys.argv[1:], "-q"])
print(code, "torch" in sys.modules)
"""
    for command in ("reconstruct", "batch"):
        arguments = [command, str(tmp_path / "none"), "-o", str(tmp_path / "out")]
        run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert run.stdout == "2 False\n" and run.stderr.count("\n") == 1, run.stderr


def test_nothing_heavy_is_imported_on_the_way_of_reconstruct(photographs, tmp_path):
    out = str(tmp_path / "scene.ply")
    arguments = ["reconstruct", str(photographs(2)), "-o", out, "--resolution", "112", "--device", "cpu", "-q"]
    assert imported(RECONSTRUCT, json.dumps(arguments)) == set()


def test_no_network_imports_the_compiler_when_it_is_built_for_loading():
    assert imported(BUILD_ALL) == set()
