"""Photo sets that fit into one pass, forced into small chunks: what the assembly of the chunks loses.

    python benchmarks/small_chunks.py SCENE … --json small-chunks.json [--chunks 5 8] [--keep FOLDER]

SCENE is a folder with images/ and cameras.json. Its photographs are predicted in one pass and in chunks, in the order
of their names or shuffled, and the chunks are put together as they are, and by their depth without their cameras.
AUC@5 and AUC@30 are those of all pairs. `--keep` keeps the predictions for the next run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
ORDERS = ("in order", "shuffled")
ASSEMBLIES = {"assembled": True, "assembled, cameras do not count": False}


def main() -> None:
    options = _options()
    rows = []
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory() as work:
        for scene in options.scenes:
            for order in options.orders:
                for row in _rows(options, scene, order, Path(work) / scene.name / order.replace(" ", "-")):
                    rows.append({"scene": scene.name, "order": order, **row})
                    print(json.dumps(rows[-1]), flush=True)
                    document = {"benchmark": "small chunks", "model": options.model, "rows": rows}
                    options.json.write_text(json.dumps(document, indent=1) + "\n")


def _rows(options, scene: Path, order: str, work: Path):
    from photo_sets import _names

    from lite3r_cli.config import InputConfig, PredictConfig
    from lite3r_cli.console import PlainProgress
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.io.images import discover
    from lite3r_cli.long.chunk_plan import plan_chunks
    from lite3r_cli.long.pass_store import PassStore
    from lite3r_cli.pipelines.long_order import arrange
    from lite3r_cli.pipelines.predict import Predictor

    names = _names(scene, order == "shuffled", options.seed)
    photos = work / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for name, source in names.items():
        shutil.copy(source, photos / name)
    known = {view.name: view.cam_from_world for view in read_cameras_json(scene / "cameras.json", load_depth=False)}
    predictor = Predictor(PredictConfig(options.model, device=options.device))
    for size in (len(names), *options.chunks):
        images = discover([photos])
        plan = plan_chunks(len(images), size, "")
        if order == "shuffled" and len(plan.chunks) > 1:
            asked = InputConfig((photos,), keep_unrelated=True)
            arranged = arrange(asked, images, size, "", PlainProgress(), print)
            assert arranged is not None
            images, plan = arranged.images, arranged.subsets.plan
        store = PassStore(work / f"chunks-{size}")
        store.folder.mkdir(exist_ok=True)
        for number, each in enumerate(plan.chunks):
            if not store.has(number, each):
                found = predictor.predict(images, indices=each.views)
                store.write(number, each, found.indices, found.views, found.colors, {})
        true = np.stack([known[names[Path(record.name).name].name] for record in images.records])
        alone = [_score(store.cameras(k)[1], true[store.views(k)]) for k in range(len(plan.chunks))]
        if len(plan.chunks) == 1:
            yield {"row": "one pass", **alone[0]}
            continue
        yield {"row": "chunks alone", "chunk": size, **{key: _mean(alone, key) for key in alone[0]}}
        for name, cameras in ASSEMBLIES.items():
            yield {"row": name, "chunk": size, **_assembled(store, plan, images, true, cameras)}


def _assembled(store, plan, images, true: np.ndarray, cameras: bool) -> dict[str, float]:
    from lite3r_cli.long.assembly import AssemblyConfig, Passes, assemble, place_views
    from lite3r_cli.long.sim3_fit import FitConfig
    from lite3r_cli.pipelines.long_predict import bare_view

    read = Passes(store, plan.chunks, lambda position: bare_view(images, position))
    placed = place_views(assemble(read, AssemblyConfig(FitConfig(cameras=cameras)))[0], read, len(images))
    poses = np.stack([camera.cam_from_world for camera in placed.cameras])
    return {**_score(poses, true[placed.positions]), "placed": len(poses), "of": len(true)}


def _score(poses: np.ndarray, true: np.ndarray) -> dict[str, float]:
    from lite3r_cli.scene.metrics import auc, pair_errors

    errors = pair_errors(poses, true, 1e-6).larger
    return {"auc5": round(auc(errors, 5), 4), "auc30": round(auc(errors, 30), 4)}


def _mean(rows, key: str) -> float:
    return round(float(np.mean([row[key] for row in rows])), 4)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, default=Path("small-chunks.json"))
    parser.add_argument("--chunks", type=int, nargs="+", default=[5, 8], help="views of a chunk")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--keep", type=Path, help="folder for the predictions")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
