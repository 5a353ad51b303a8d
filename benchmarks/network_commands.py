"""The commands of the networks of others from start to end, with stand-in weights: do they run, and what do they write?

    python benchmarks/network_commands.py [--full] [--only bench reconstruct stream] [--json FILE]

`bench` measures pi3 on eight views; `reconstruct` takes one file of each network and two photos; `stream` sends 300
rendered frames of a walk, as a video, through LingBot-Map. Networks are tiny unless `--full` (files of 4 to 5 GB, a
network at a time). Says of each command its exit code, seconds, and the frames and points of the scene.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import torch

import lite3r_cli as lite3r
from lite3r_cli import runtime
from lite3r_cli.bench.subjects import network
from lite3r_cli.networks import standin
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import family_named

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("vggt-omega", "pi3", "pi3x", "map-anything", "map-anything-v1")
FRAMES, HEIGHT, WIDTH = 300, 126, 168
# random weights answer with rough depth, of which the filters would leave nothing
KEEP_ALL = ("--confidence-percentile", 0, "--no-edge-filter", "--no-consistency")
LESS = {
    "dim": 64, "depth": 6, "pairs": 4, "heads": 1, "encoder_depth": 1, "encoder_heads": 1, "encoder_dim": 64,
    "head_dim": 64, "head_heads": 1, "head_depth": 1, "head_out": 32, "camera_out": 32, "conv_channels": (32, 32),
    "conv_last": 8, "metric_dim": 64, "metric_heads": 1, "metric_out": 16, "inject_after": (1,), "head_features": 16,
    "head_stages": (8, 8, 8, 8), "camera_depth": 1, "camera_heads": 2, "register_pairs": (1,),
    "dense_widths": (8, 8, 8), "global_widths": (8, 8, 8), "position_grid": 5,
}  # fmt: skip


def made(name: str, full: bool, device: str) -> Network:
    """A network of a family with stand-in weights; a full one is made on the device, which takes a second on a GPU."""
    if full:
        model, _ = network(name, runtime.choose(device, "float32").torch_device, 0)
    else:
        family = family_named(name)
        assert family is not None
        config = family.sizes[name]
        taps = {"taps": (0, 1, 2, 3) if hasattr(config, "pairs") else (2, 4)}
        config = replace(config, **{k: v for k, v in (LESS | taps).items() if hasattr(config, k)})
        model = family.build(config, name)
        standin.fill(model, 0, model.constants())
    if name == "lingbot-map":  # a usable rotation and field of view
        model.camera_head.pose_branch.fc2.bias.data[6:] = 1.0
    return model.eval()


def command(*arguments: str | Path) -> dict[str, object]:
    """Run `lite3r` with these arguments: exit code, seconds, the last line of its messages."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "lite3r_cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    said = [line for line in (run.stderr or run.stdout).splitlines() if line.strip()]
    return {
        "exit": run.returncode,
        "seconds": time.monotonic() - start,
        "peak_bytes_so_far": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "last": " / ".join(said[-12:])[:1500] if said else "",
    }


def scene_of(folder: Path) -> dict[str, object]:
    """What a scene beside `folder`/scene.ply holds."""
    report = json.loads((folder / "scene" / "run.json").read_text(encoding="utf-8"))
    cameras = json.loads((folder / "scene" / "cameras.json").read_text(encoding="utf-8"))
    header = (folder / "scene.ply").read_bytes()[:2000].decode("latin-1")
    points = next(int(line.split()[-1]) for line in header.splitlines() if line.startswith("element vertex"))
    frames = cameras.get("images", cameras.get("frames", []))
    told = report["model"]
    return {"frames": len(frames), "points": points, "model": told["name"] if isinstance(told, dict) else told}


def clip(folder: Path) -> Path:
    """A video of a rendered walk."""
    walk = folder / "walk"
    maker = [sys.executable, ROOT / "benchmarks" / "walk_scenes.py", walk, "--frames", FRAMES, "--height", HEIGHT,
             "--width", WIDTH]  # fmt: skip
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    subprocess.run(list(map(str, maker)), check=True, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    target = folder / "clip.mp4"
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for image in sorted((walk / "images").iterdir()):
        writer.write(cv2.imread(str(image)))
    writer.release()
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the published sizes")
    parser.add_argument("--only", nargs="+", choices=("bench", "reconstruct", "stream"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resolution", type=int, default=140)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    steps = asked.only or ["bench", "reconstruct", "stream"]
    document: dict = {"benchmark": "network_commands", "torch": torch.__version__, "rows": []}
    if asked.json is not None and asked.json.is_file():
        document = json.loads(asked.json.read_text(encoding="utf-8"))

    def keep(what: str, row: dict[str, object]) -> None:
        row = {"command": what, "full": asked.full or what.startswith("bench"), "device": asked.device, **row}
        same = ("command", "full", "device")
        others = [r for r in document["rows"] if any(r[key] != row[key] for key in same)]
        document["rows"] = [*others, row]
        print(row, flush=True)
        if asked.json is not None:
            asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    size = ("--resolution", asked.resolution, "--device", asked.device)
    if "bench" in steps:
        keep("bench --model pi3 --views 8", command("bench", "--model", "pi3", "--views", 8, *size, "--repeats", 1))
    for name in asked.networks if "reconstruct" in steps else ():
        with tempfile.TemporaryDirectory() as inside:
            file = Path(inside, "network.safetensors")
            lite3r.export(made(name, asked.full, asked.device), file, licence="stand-in weights", weights="float32")
            found = command(
                "reconstruct", ROOT / "sample_scenes/facade/images", "-o", Path(inside, "out", "scene.ply"),
                "--max-views", 2, "--model", file, *KEEP_ALL, *size,
            )  # fmt: skip
            keep(f"reconstruct --model {name}", found | (scene_of(Path(inside, "out")) if found["exit"] == 0 else {}))
    if "stream" in steps:
        with tempfile.TemporaryDirectory() as inside:
            file = Path(inside, "network.safetensors")
            lite3r.export(
                made("lingbot-map", asked.full, asked.device), file, licence="stand-in weights", weights="float32"
            )
            found = command(
                "reconstruct", clip(Path(inside)), "-o", Path(inside, "out", "scene.ply"), "--model", file,
                *KEEP_ALL, *size,
            )  # fmt: skip
            keep("reconstruct clip.mp4 --model lingbot-map", found | (
                scene_of(Path(inside, "out")) if found["exit"] == 0 else {}))  # fmt: skip
    return int(any(row["exit"] != 0 for row in document["rows"]))


if __name__ == "__main__":
    sys.exit(main())
