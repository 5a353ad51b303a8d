"""Check what `lite3r reconstruct` wrote: python check_scene.py SCENE.ply|FOLDER [MINIMUM_POINTS]."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from plyfile import PlyData


def main(output: Path, minimum: int) -> None:
    ply = output / "scene.ply" if output.is_dir() else output
    folder = output if output.is_dir() else output.with_suffix("")
    run = json.loads((folder / "run.json").read_text())
    assert ply.name in run["files"], f"{ply.name} is not among the files that run.json lists"
    for name, entry in run["files"].items():
        found = hashlib.sha256((ply.parent / name).read_bytes()).hexdigest()
        assert found == entry["sha256"], f"{name} is not the file that run.json describes"
    vertices = PlyData.read(ply)["vertex"]
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    assert len(points) >= minimum, f"{len(points)} points, expected at least {minimum}"
    assert np.isfinite(points).all(), "points that are not finite"
    cameras = json.loads((folder / "cameras.json").read_text())["images"]
    assert len(cameras) >= 2 and all((folder / camera["depth"]).is_file() for camera in cameras.values())
    print(f"{len(points):,} points, {len(cameras)} cameras and {len(run['files'])} files are what run.json says")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
