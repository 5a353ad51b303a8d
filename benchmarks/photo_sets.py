"""Photographs in any order: the same cameras as in order, in one pass and in subsets, and foreign ones left out.

    python benchmarks/photo_sets.py SCENE … --json photo-sets.json [--chunk 8] [--foreign SCENE] [--device cpu]

SCENE is a folder with images/ and cameras.json. Each is reconstructed four times: in the order of its file names and
shuffled (copied under names without order), in one pass and with `--chunk`. AUC@5 and AUC@30 are those of all pairs.
With `--foreign`, ten of its photographs are mixed among the first thirty of each scene; told are those that were left
out of the cloud. The task `hubs` leaves out the preference for views that several subsets share. The JSON file is
written after each row; rows that it has already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
from lite3r_cli.long import photo_order  # noqa: E402

FOREIGN, AMONG = 10, 30


def main() -> None:
    options = _options()
    document = (
        json.loads(options.json.read_text()) if options.json.exists() else {"benchmark": "photo sets", "rows": []}
    )
    done = {(row["scene"], row["row"]) for row in document["rows"]}
    tasks = [
        (scene, shuffled, chunk) for scene in options.scenes for chunk in (False, True) for shuffled in (False, True)
    ]
    for scene, shuffled, chunk in tasks:
        name = f"{'shuffled' if shuffled else 'in order'}, {f'subsets of {options.chunk}' if chunk else 'one pass'}"
        if (scene.name, name) not in done and "order" in options.tasks:
            names = _names(scene, shuffled, options.seed)
            _keep(document, options, {"scene": scene.name, "row": name, **_measure(options, names, chunk)})
    for scene in options.scenes if "hubs" in options.tasks else ():
        name = f"shuffled, subsets of {options.chunk}, hubs not preferred"
        if (scene.name, name) not in done:
            photo_order._HUB = 1.0
            row = _measure(options, _names(scene, True, options.seed), True)
            _keep(document, options, {"scene": scene.name, "row": name, **row})
    for scene in options.scenes if options.foreign and "foreign" in options.tasks else ():
        if (scene.name, "foreign") not in done:
            _keep(document, options, {"scene": scene.name, "row": "foreign", **_foreign(options, scene)})


def _keep(document, options, row) -> None:
    print(json.dumps(row), flush=True)
    document["rows"].append(row)
    options.json.write_text(json.dumps(document, indent=1) + "\n")


def _names(scene: Path, shuffled: bool, seed: int, most: int | None = None) -> dict[str, Path]:
    """New name → photograph; shuffled ones have names that sort in another order and have no numbers in a row."""
    files = sorted((scene / "images").iterdir())[:most]
    if not shuffled:
        return {file.name: file for file in files}
    order = np.random.default_rng(seed).permutation(len(files))
    codes = np.random.default_rng(seed + 1).permutation(9000)[: len(files)] + 1000
    return {f"img{code}-{scene.name}{files[k].suffix}": files[k] for code, k in zip(sorted(codes.tolist()), order)}


def _run(options, names: dict[str, Path], chunk: bool, keep_unrelated: bool):
    from lite3r_cli.config import FusionConfig, InputConfig, PredictConfig, ReconstructConfig
    from lite3r_cli.config.sequence import LongConfig
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.pipelines.reconstruct_scene import reconstruct

    with tempfile.TemporaryDirectory() as scratch:
        photos = Path(scratch) / "photos"
        photos.mkdir()
        for name, source in names.items():
            shutil.copy(source, photos / name)
        config = ReconstructConfig(
            InputConfig((photos,), keep_unrelated=keep_unrelated),
            PredictConfig(options.model, device=options.device, resolution=options.resolution),
            FusionConfig(max_points=100_000),
            output=f"{scratch}/out/scene.ply",
            long=LongConfig(str(options.chunk) if chunk else "off"),
        )
        start = time.process_time()
        reconstruct(config)
        used = time.process_time() - start
        views = read_cameras_json(Path(scratch) / "out" / "scene" / "cameras.json", load_depth=False)
        run = json.loads((Path(scratch) / "out" / "scene" / "run.json").read_text())
    return {view.name: view.cam_from_world for view in views}, run, used


def _measure(options, names: dict[str, Path], chunk: bool) -> dict:
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.scene.metrics import auc, pair_errors

    poses, run, used = _run(options, names, chunk, keep_unrelated=True)
    scene = next(iter(names.values())).parents[1]
    truth = {view.name: view.cam_from_world for view in read_cameras_json(scene / "cameras.json", load_depth=False)}
    known = [name for name, source in names.items() if name in poses and source.name in truth]
    true = np.stack([truth[names[name].name] for name in known])
    errors = pair_errors(np.stack([poses[name] for name in known]), true, 1e-6).larger
    kinds = {each["kind"] for each in run["chunks"]["passes"]} if "chunks" in run else {"one pass"}
    return {
        "auc5": round(auc(errors, 5), 4), "auc30": round(auc(errors, 30), 4), "placed": len(known), "of": len(names),
        "passes": sorted(kinds), "processor_seconds": round(used, 1),
    }  # fmt: skip


def _foreign(options, scene: Path) -> dict:
    """Own photographs lost and foreign ones kept, in the subsets of a mixed set."""
    own, others = (
        _names(each, True, options.seed, most) for each, most in ((scene, AMONG), (options.foreign, FOREIGN))
    )
    poses, run, used = _run(options, own | others, True, keep_unrelated=False)
    left_out = sum(image["verdict"] == "left out" for image in run["images"])
    return {
        "own": len(own), "foreign": len(others), "foreign_set": options.foreign.name,
        "own_placed": len(own.keys() & poses.keys()), "foreign_placed": len(others.keys() & poses.keys()),
        "left_out": left_out, "processor_seconds": round(used, 1),
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, default=Path("photo-sets.json"))
    parser.add_argument("--tasks", nargs="+", choices=("order", "hubs", "foreign"), default=["order", "foreign"])
    parser.add_argument("--foreign", type=Path, help="a scene whose photographs are mixed among the others")
    parser.add_argument("--chunk", type=int, default=8, help="views of a subset")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resolution", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
