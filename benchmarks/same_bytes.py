"""`lite3r reconstruct --refine` gives the same bytes whatever the machine does, and what it costs beside pycolmap.

Each set is reconstructed by whole commands, in turn with pycolmap alone, the second of them beside programs that keep
all cores busy. Written down: the hashes of cameras.json, AUC@5, and the seconds of the stages; the ratio of times is
that of the runs in turn, so that both sides meet the same machine. A set is a folder with images/ and cameras.json. A
table, then one JSON line.

    python benchmarks/same_bytes.py SET... [--runs 3] [--busy 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from refine import auc5, colmap_alone

from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import open_scene
from lite3r_cli.scene.posed_view import View

BURN = "x = 1.0\nwhile True: x = x * 1.0000001 % 7.0"


def reconstruct(folder: Path, truth: list[View], target: Path) -> dict[str, object]:
    """One whole command."""
    command = [sys.executable, "-m", "lite3r_cli", "reconstruct", str(folder / "images"), "-o", str(target)]
    options = ["--refine", "--device", "cpu", "--keep-unrelated", "--quiet"]
    subprocess.run([*command, *options], check=True)
    run = json.loads((target / "run.json").read_text(encoding="utf-8"))
    found = {view.name: view.cam_from_world for view in read_cameras_json(target / "cameras.json", load_depth=False)}
    poses = {i: found[view.name] for i, view in enumerate(truth) if view.name in found}
    return {
        "sha256": hashlib.sha256((target / "cameras.json").read_bytes()).hexdigest(),
        "auc5": auc5(poses, truth),
        "refined": sum(item.get("refinement", {}).get("cameras") == "refined" for item in run["images"]),
        "seconds": {name: run["seconds"][name] for name in ("Predict", "Refine cameras", "Refine depth")},
    }


def judge(folder: Path, runs: int, busy: int, alone: bool) -> dict[str, object]:
    scene, truth = open_scene(folder), read_cameras_json(folder, load_depth=False)
    mine, theirs = [], []
    for turn in range(runs):
        beside = busy if turn == 1 else 0
        burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(beside)]
        try:
            with tempfile.TemporaryDirectory() as scratch:
                mine.append({"busy_programs": beside, **reconstruct(folder, truth, Path(scratch) / "out")})
            if not alone:
                theirs.append(colmap_alone(scene, truth))
        finally:
            for program in burning:
                program.kill()
        print(f"{folder.name:14} run {turn + 1}  {mine[-1]['sha256'][:12]}  AUC@5 {mine[-1]['auc5']:.3f}", flush=True)
    same = len({row["sha256"] for row in mine}) == 1
    if alone:
        print(f"{folder.name:14} {'equal bytes' if same else 'DIFFERENT BYTES'}", flush=True)
        return {"same_bytes": same, "refine": mine}
    ratios = []
    for one, other in zip(mine, theirs, strict=True):
        stages = one["seconds"]
        ratios.append((stages["Predict"] + stages["Refine cameras"]) / max(other["seconds"], 0.1))
    print(
        f"{folder.name:14} {'equal bytes' if same else 'DIFFERENT BYTES'}; network and cameras take "
        f"{median(ratios):.2f} × pycolmap (AUC@5 {median(row['auc5'] for row in theirs):.3f})",
        flush=True,
    )
    return {"same_bytes": same, "times_pycolmap": round(median(ratios), 2), "refine": mine, "pycolmap": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2, help="busy programs beside the second run")
    parser.add_argument("--alone", action="store_true", help="leave out pycolmap")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, object] = {}
    for folder in options.sets:
        results[folder.name] = judge(folder, options.runs, options.busy, options.alone)
        machine = {
            "cores": os.cpu_count(),
            "load_1min": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
        }
        document = json.dumps({"benchmark": "same_bytes", **machine, "sets": results})
        if options.json is not None:
            options.json.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
