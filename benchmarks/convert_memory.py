"""Sizes and peak memory of `lite3r convert`, in a process of its own, on stand-in weights of a published shape.

    python benchmarks/convert_memory.py tests/fixtures/keys/vggt-1b.json.gz [--folder /tmp]

Writes the stand-in file in float32, converts it, prints one line and one JSON line; both files are removed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from lite3r_cli.networks.standin import tensor_for


def write_standin(keys: Path, target: Path) -> None:
    shapes = json.loads(gzip.decompress(keys.read_bytes()))
    save_file({name: tensor_for(name, tuple(shape), 0) for name, shape in shapes.items()}, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", type=Path, help="gzipped JSON: tensor name -> shape")
    parser.add_argument("--folder", type=Path, help="where the files may lie (a few GB)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        source, target = Path(folder, "dense.safetensors"), Path(folder, "lite.safetensors")
        # elsewhere, because a process starts with the peak of the one that started it
        maker = multiprocessing.get_context("spawn").Process(target=write_standin, args=(arguments.keys, source))
        maker.start()
        maker.join()
        command = [sys.executable, "-m", "lite3r_cli.cli", "convert", str(source), "-o", str(target), "--quiet"]
        _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
        if status:
            raise SystemExit("the conversion failed")
        peak = usage.ru_maxrss * 1024
        sizes = source.stat().st_size, target.stat().st_size
    name = arguments.keys.name.split(".")[0]
    print(f"{name}: {sizes[0] / 1e6:,.0f} MB -> {sizes[1] / 1e6:,.0f} MB, peak memory {peak / 1e9:.2f} GB")
    print(json.dumps({"benchmark": "convert_memory", "model": name, "torch": torch.__version__, "before": sizes[0],
                      "after": sizes[1], "peak_bytes": peak}))  # fmt: skip


if __name__ == "__main__":
    main()
