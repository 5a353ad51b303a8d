"""Long walks in chunks: drift, memory and speed over rendered walks with exact cameras (benchmarks/walk_scenes.py), a
set that fits taken both ways, and what each part is worth.

    python benchmarks/long_walk.py --json long-walk.json [--work DIR] [--frames 300 1000 3000] [--seconds 240]
    python benchmarks/long_walk.py --json small.json --frames 120 --height 168 --width 224 --device cpu --chunk 24

With `--keep DIR` what is rendered and the finished chunks stay in DIR: stopped and started again with the same options,
it goes on where it was, and leaves out rows that the JSON file has already.

Every walk runs in a process of its own, so that peak memory is its own. The JSON file is written after each row; the
log beside it has a line for each chunk and stage, also of a run that was stopped, and with `--stacks N` every N seconds
what all threads do. `frames_per_second` is of `reconstruct` alone, from the first image to the last file. Rows are
`walk` (one for each number of frames, with and without loops), `one pass` and `chunks` (the same 100 frames), `part`
(the walk of 300 frames, or the longest up to that, without one part each), and `refined` (the longest walk of up to
1,000 frames with --refine; pycolmap is needed).

`--model vggt-lite` is VGGT-1B with random weights, converted as in benchmarks/end_to_end.py: only its speed and memory
say something.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
ABLATED = 300  # frames of the walk that parts are left out on
BOTH_WAYS = 100
SHARES = 12  # of the frames, one for each process that draws: the noise of a frame depends on its place in its share


def main() -> None:
    options = _options()
    if options.one is not None:
        if options.stacks:
            faulthandler.dump_traceback_later(options.stacks, repeat=True)
        print(json.dumps(ONE[options.one](options)))
        return
    began, rows, named = time.monotonic(), [], options.model
    if options.keep and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"]
    done = {(row.get("task"), row["frames"], row["loops"]) for row in rows}
    with nullcontext(options.keep) if options.keep else tempfile.TemporaryDirectory(dir=options.work) as scratch:
        Path(scratch).mkdir(parents=True, exist_ok=True)
        options.model = _network(options, Path(scratch))
        for what, frames, loops in _agenda(options):
            if (what, frames, loops) in done or what not in options.tasks:
                continue
            left = options.seconds - (time.monotonic() - began)
            name = f"{what} {frames}{' loops' if loops else ''}"
            if left < 15:
                print(f"{name}: no time is left", flush=True)
                continue
            folder = Path(scratch) / f"walk-{frames}-{int(loops)}"
            rows += _child(options, folder, what, frames, loops, left)
            document = {"benchmark": "long walk", "machine": _machine(options.device), "seed": options.seed,
                        "size": [options.height, options.width], "model": named, "rows": rows}  # fmt: skip
            options.json.write_text(json.dumps(document, indent=1) + "\n")


def _agenda(options) -> list[tuple[str, int, bool]]:
    """The order of the rows: the most important first."""
    frames = sorted(options.frames)
    parts = ([n for n in frames if n <= ABLATED] or frames[:1])[-1]
    agenda = [("walk", n, True) for n in frames if n <= 1000]
    agenda += [("parts", parts, True), ("both", min(BOTH_WAYS, frames[0]), True)]
    agenda += [("walk", n, False) for n in frames if 300 < n <= 1000 or len(frames) == 1]
    agenda += [("walk", n, True) for n in frames if n > 1000]
    return agenda + [("refined", ([n for n in frames if n <= 1000] or frames[:1])[-1], True)]


def _network(options, folder: Path) -> str:
    """What `--model` of lite3r takes."""
    if options.model != "vggt-lite":
        return options.model
    from end_to_end import Checkout, make_networks

    made = folder.resolve() / "vggt-lite.safetensors"
    if made.exists():
        return str(made)
    return make_networks([options.model], folder.resolve(), Checkout("here", HERE.parent, folder), options.device)[
        options.model
    ]


def _child(options, folder: Path, what: str, frames: int, loops: bool, left: float) -> list[dict[str, Any]]:
    """Render missing frames, run the process of one row and print its output."""
    from lite3r_cli.cli import LARGE_PAGES, THREADS

    start = time.monotonic()
    if not (folder / "walk.json").exists():
        _render(options, folder, frames, loops)
    rendered = time.monotonic() - start
    print(f"{what} {frames}: rendered in {rendered:.0f} s", flush=True)
    given = ["--one", what, "--folder", str(folder), "--model", options.model, "--device", options.device,
             "--chunk", options.chunk, "--stacks", str(options.stacks),
             *(["--keep", str(options.keep)] if options.keep else [])]  # fmt: skip
    log = options.json.with_suffix(".log")
    with open(log, "a") as lines:
        print(f"--- {what} {frames}{' loops' if loops else ''}", file=lines, flush=True)
        try:
            done = subprocess.run(
                [sys.executable, __file__, *given],
                stdout=subprocess.PIPE,
                stderr=lines,
                text=True,
                timeout=max(left - rendered, 5),
                env={**THREADS, **LARGE_PAGES, **os.environ},  # as the command sets it before torch is imported
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{what} {frames}: stopped, the time is over; {log} ends: {_end_of(log, 200)}", flush=True)
            return []
    if done.returncode:
        print(f"{what} {frames}: failed: {_end_of(log, 1500)}", flush=True)
        return []
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    for row in rows:
        row |= {"task": what, "frames": frames, "loops": loops}
        print(json.dumps(row), f"(rendered in {rendered:.0f} s, all {time.monotonic() - start:.0f} s)", flush=True)
    return rows


def _end_of(log: Path, length: int) -> str:
    return log.read_text(errors="replace").strip()[-length:]


# --- rendering --------------------------------------------------------------------------------------------------------


def _render(options, folder: Path, frames: int, loops: bool) -> None:
    """By several processes: the ray caster in torch is thousands of short operations a frame."""
    import multiprocessing

    from walk_scenes import make_walk

    from lite3r_cli.data.procedural.textures import build_atlas

    atlas_file = folder.parent / "atlas.npz"
    if not atlas_file.exists():
        atlas = build_atlas(None)
        names = {name: [r.start, r.stop] for name, r in atlas.catalog.groups.items()}
        np.savez(atlas_file, texels=atlas.texels.numpy(), names=json.dumps(names))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    how = (str(atlas_file), str(folder), frames, loops, options.seed, options.height, options.width, options.device)
    with context.Pool(options.renderers) as pool:
        pool.map(_render_part, [(*how, k, SHARES, options.samples) for k in range(SHARES)])
    walk = make_walk(frames, loops, options.seed, options.height, options.width, _atlas(str(atlas_file)))
    poses = {f"{i:05d}.jpg": pose.tolist() for i, pose in enumerate(walk.cam_from_world)}
    (folder / "walk.json").write_text(json.dumps({"K": walk.K.tolist(), "cam_from_world": poses}))


def _atlas(file: str):
    import torch

    from lite3r_cli.data.procedural.textures import Atlas, Catalog

    with np.load(file) as data:
        groups = {name: range(*ends) for name, ends in json.loads(str(data["names"])).items()}
        return Atlas(torch.from_numpy(data["texels"]), Catalog(groups))


def _render_part(given) -> None:
    file, folder, frames, loops, seed, height, width, device, part, parts, samples = given
    import cv2
    import torch
    from walk_scenes import exposure_of, make_walk, render_walk

    torch.set_num_threads(1)
    atlas = _atlas(file)
    walk = make_walk(frames, loops, seed, height, width, atlas)
    mine = list(range(part, frames, parts))
    exposure = exposure_of(walk, atlas, height, width, device)
    some = replace(walk, cam_from_world=walk.cam_from_world[mine])
    for i, (rgb, _) in zip(mine, render_walk(some, atlas, height, width, device, samples, exposure)):
        if not cv2.imwrite(f"{folder}/images/{i:05d}.jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise SystemExit(f"{folder}: OpenCV cannot write picture {i}")


# --- one row ----------------------------------------------------------------------------------------------------------


def walk_row(options, chunk: str | None = None, name: str = "walk", refine: bool = False) -> list[dict[str, Any]]:
    """Run the command as a user does, with its output captured."""
    from walk_scores import checked, score

    from lite3r_cli import runtime
    from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
    from lite3r_cli.config.sequence import LongConfig
    from lite3r_cli.console import PlainProgress, info
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.long import work_folder
    from lite3r_cli.pipelines.reconstruct_scene import reconstruct

    disk = []
    done = work_folder.WorkFolder.done

    def measured(self) -> None:
        disk.append(work_folder.bytes_below(self.path))
        done(self)

    work_folder.WorkFolder.done = measured  # type: ignore[method-assign]
    chunk = chunk or options.chunk
    kept = options.folder / f"out-{name.replace(' ', '-')}"
    with nullcontext(kept) if options.keep else tempfile.TemporaryDirectory(dir=options.folder.parent) as out:
        config = ReconstructConfig(
            InputConfig((options.folder / "images",), keep_unrelated=True),
            PredictConfig(model=options.model, device=options.device, refine=refine),
            output=f"{out}/scene.ply",
            long=LongConfig(chunk, resume=options.keep is not None),
            overwrite=options.keep is not None,
        )
        start, used = time.perf_counter(), time.process_time()
        report = reconstruct(config, PlainProgress(), info)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        views = read_cameras_json(Path(out) / "scene" / "cameras.json", load_depth=False)
        run = json.loads((Path(out) / "scene" / "run.json").read_text())
    poses = {view.name: view.cam_from_world for view in views}
    chunks = run.get("chunks", {})
    memory = runtime.peak_memory(_device(options.device))
    row = {"row": name, **score(options.folder, poses), "views": len(views), "points": report.points}
    row |= {"seconds": round(seconds, 2), "frames_per_second": round(len(views) / seconds, 2)}
    row |= {"processor_seconds_per_frame": round(used / len(views), 4)}  # of this process: less where it was resumed
    row["stages"] = {stage: round(value, 2) for stage, value in report.seconds.items()}
    row |= {name.replace("bytes", "gib"): round(value / 2**30, 3) for name, value in memory.items()}
    row |= {"disk_mb_per_frame": round(sum(disk) / len(views) / 1e6, 3), "chunk": chunks.get("size")}
    row |= {"passes": len(chunks.get("passes", [1])), "scenes": len(chunks.get("scenes", [1]))}
    loops = chunks.get("loops", [])
    row |= {"found": [loop["verdict"] for loop in loops]}
    return [row | {"loops_checked": [checked(options.folder, loop) for loop in loops]}]


def both_rows(options) -> list[dict[str, Any]]:
    """The same frames in one pass and in chunks."""
    count = len(json.loads((options.folder / "walk.json").read_text())["cam_from_world"])
    size = options.chunk if options.chunk.isdigit() else str(max(8, count * 2 // 5))
    return walk_row(options, "off", "one pass") + walk_row(options, size, "chunks")


def part_rows(options) -> list[dict[str, Any]]:
    """Chunks, coarse passes and loops are predicted once; then the scene is put together without one part each."""
    from walk_scores import score

    from lite3r_cli.config import PredictConfig
    from lite3r_cli.io.images import discover
    from lite3r_cli.long.assembly import AssemblyConfig
    from lite3r_cli.long.chunk_plan import coarse_passes, overlap_of, plan_chunks
    from lite3r_cli.long.loop_search import AGREE, SEEN, find_candidates, is_loop, joint_pass, look_at
    from lite3r_cli.long.pass_store import PassStore
    from lite3r_cli.long.sim3_fit import FitConfig
    from lite3r_cli.pipelines.long_loops import judge
    from lite3r_cli.pipelines.predict import Predictor

    images = discover([options.folder / "images"])
    predictor = Predictor(PredictConfig(model=options.model, device=options.device))
    size = int(options.chunk) if options.chunk.isdigit() else 60 if options.device != "cpu" else 24
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as scratch:

        def predicted(name: str, passes, candidates=()) -> tuple[PassStore, list[bool]]:
            """The passes on disk, and whether the last ones, of the `candidates`, are loops."""
            store, loops = PassStore(Path(scratch) / name), []
            store.folder.mkdir()
            for k, each in enumerate(passes, len(candidates) - len(passes)):
                found = predictor.predict(images, indices=each.views)
                facts = {}
                if k >= 0:
                    facts = dict(zip((SEEN, AGREE), judge(found, candidates[k], predictor.runtime.torch_device)))
                    loops.append(is_loop(*facts.values()))
                store.write(k + len(passes) - len(candidates), each, found.indices, found.views, found.colors, facts)
            return store, loops

        def row(name: str, store, passes, used, config=AssemblyConfig()) -> None:
            start = time.perf_counter()
            poses, facts = assembled(store, passes, used, images, config)
            seconds = round(time.perf_counter() - start, 2)
            rows.append({"row": "part", "part": name, **score(options.folder, poses), **facts, "seconds": seconds})

        plan = plan_chunks(len(images), size, "")
        candidates = find_candidates(plan, lambda i: look_at(images.read(i)))
        passes = [*plan.chunks, *coarse_passes(plan), *(joint_pass(c, plan) for c in candidates)]
        store, loops = predicted("all", passes, candidates)
        chunks, coarse = [True] * len(plan.chunks), len(coarse_passes(plan))
        usual = [*chunks, *[False] * coarse, *loops]
        row("all", store, passes, usual)
        row("no loops", store, passes, [*chunks, *[False] * (coarse + len(loops))])
        row("every candidate is a loop", store, passes, [*chunks, *[False] * coarse, *[True] * len(loops)])
        row("with coarse passes", store, passes, [*chunks, *[True] * coarse, *loops])
        row("coarse passes, no loops", store, passes, [*chunks, *[True] * coarse, *[False] * len(loops)])
        usual_config = AssemblyConfig()
        for name, config in {
            "no graph": replace(usual_config, graph=False),
            "no common focal length": replace(usual_config, focal=not usual_config.focal),
            "one fit, not robust": replace(usual_config, fit=FitConfig(robust=False)),
            "confidence does not weigh": replace(usual_config, fit=FitConfig(weighted=False)),
            "cameras do not count": replace(usual_config, fit=FitConfig(cameras=False)),
            "poses change at once": replace(usual_config, blend=False),
            "all loops count alike": replace(usual_config, doubt=False),
        }.items():
            row(name, store, passes, usual, config)
        for name, (length, overlap) in {
            "overlap of a sixth": (size, max(2, overlap_of(size) // 2)),
            "overlap of a half": (size, size // 2),
            "chunks of half the size": (size // 2, overlap_of(size // 2)),
        }.items():
            other = plan_chunks(len(images), length, "", overlap)
            row(f"{name}, no loops", predicted(name, other.chunks)[0], other.chunks, [True] * len(other.chunks))
    return rows


def assembled(store, passes, used, images, config) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Poses by name of the largest scene."""
    from lite3r_cli.long.assembly import Passes, assemble, place_views
    from lite3r_cli.pipelines.long_predict import bare_view

    read = Passes(store, passes, lambda position: bare_view(images, position), config.focal, used)
    scenes = assemble(read, config)
    placed = place_views(scenes[0], read, len(images), config.blend)
    edges = [edge.verdict for edge in scenes[0].edges]
    facts = {"scenes": len(scenes), "edges": {verdict: edges.count(verdict) for verdict in sorted(set(edges))}}
    return {camera.name: camera.cam_from_world for camera in placed.cameras}, facts


ONE = {
    "walk": walk_row,
    "both": both_rows,
    "parts": part_rows,
    "refined": lambda options: walk_row(options, name="refined", refine=True),
}


def _device(name: str):
    import torch

    return torch.device(name)


def _machine(device: str) -> dict[str, Any]:
    import torch

    gpu = {"gpu": torch.cuda.get_device_name(0)} if device != "cpu" else {}
    return {**gpu, "torch": torch.__version__, "cores": os.cpu_count()}


def _options() -> argparse.Namespace:
    import torch

    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("long-walk.json"))
    parser.add_argument("--work", type=Path, default=None, help="folder for what is rendered and written")
    parser.add_argument("--tasks", nargs="+", choices=ONE, default=list(ONE), help="which rows")
    parser.add_argument("--keep", type=Path, default=None, help="folder that stays: a stopped run goes on with it")
    parser.add_argument("--frames", type=int, nargs="+", default=[300, 1000, 3000] if cuda else [100])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--chunk", default="auto", help="views of a chunk")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--renderers", type=int, default=6 if cuda else 1, help="processes that render")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--stacks", type=float, default=0.0, help="seconds between stacks of all threads in the log")
    parser.add_argument("--one", choices=ONE, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    for name, default in (("seed", 0), ("height", 392), ("width", 518), ("samples", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
