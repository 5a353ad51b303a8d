"""Measures file sizes and peak memory of `lite3r convert`, in a process of its own, on synthetic weights of a published
shape.

    python benchmarks/convert_memory.py tests/fixtures/keys/vggt-1b.json.gz … [--folder /tmp] [--json FILE]

For each list of shapes (JSON, plain or gzipped: tensor name → shape): write the stand-in file in float32, convert it,
print one line; both files are removed. An entry of an earlier run in FILE is replaced, the others stay.
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
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from lite3r_cli.networks.standin import tensor_for

ROOT = Path(__file__).resolve().parent.parent


def shapes_of(keys: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name → shape. Lists may have the type beside the shape."""
    stored = keys.read_bytes()
    found = json.loads(gzip.decompress(stored) if keys.suffix == ".gz" else stored)
    return {name: tuple(entry[0] if entry and isinstance(entry[0], list) else entry) for name, entry in found.items()}


def write_standin(keys: Path, target: Path) -> None:
    save_file({name: tensor_for(name, shape, 0) for name, shape in shapes_of(keys).items()}, target)


def measure(keys: Path, folder: Path | None) -> dict[str, object]:
    """Sizes in bytes before and after, and the peak of the conversion."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        source, target = Path(inside, "dense.safetensors"), Path(inside, "lite.safetensors")
        # elsewhere, because a process starts with the peak of the one that started it
        maker = multiprocessing.get_context("spawn").Process(target=write_standin, args=(keys, source))
        maker.start()
        maker.join()
        command = [sys.executable, "-m", "lite3r_cli.cli", "convert", str(source), "-o", str(target), "--quiet"]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        start = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{keys.name}: the conversion failed")
        before, after = source.stat().st_size, target.stat().st_size
    return {
        "model": keys.name.removesuffix(".gz").removesuffix(".json").removesuffix(".keys"),
        "values": sum(torch.Size(shape).numel() for shape in shapes_of(keys).values()),
        "before": before, "after": after, "peak_bytes": usage.ru_maxrss * 1024, "seconds": time.monotonic() - start,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", type=Path, nargs="+", help="JSON, plain or gzipped: tensor name -> shape")
    parser.add_argument("--folder", type=Path, help="where the files may lie (a few GB)")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    document: dict[str, object] = {"benchmark": "convert_memory", "torch": torch.__version__, "rows": []}
    if asked.json is not None and asked.json.is_file():
        document = json.loads(asked.json.read_text(encoding="utf-8"))
    for keys in asked.keys:
        row = measure(keys, asked.folder)
        others = [other for other in document["rows"] if other["model"] != row["model"]]
        document["rows"] = [*others, row]
        print(f"{row['model']}: {row['before'] / 1e6:,.0f} MB -> {row['after'] / 1e6:,.0f} MB, "
              f"peak memory {row['peak_bytes'] / 1e9:.2f} GB", flush=True)  # fmt: skip
        if asked.json is not None:
            asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
