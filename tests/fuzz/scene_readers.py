"""Readers of a whole written scene (add, merge), of a run that still goes on (view --serve, --resume), of the lists and
records of a batch, and of a page. Same rules as in readers.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from functools import cache
from pathlib import Path

import numpy as np
from cases import Files, Reader, picture
from mutate import json_bytes, mutated, words
from record_readers import _header, _pass
from structure import png_changed

HIDDEN = ".scene.ply.lite3r-chunks"


def _quiet(text: str) -> None:
    pass


@cache
def _scene() -> Files:
    """A scene of two photos that `reconstruct` wrote with a network of random values. Paths in it are relative."""
    import dataclasses
    import tempfile

    import cv2
    import torch

    from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
    from lite3r_cli.io.view_memory import Source, checksum, read_memory, write_memory
    from lite3r_cli.networks import standin
    from lite3r_cli.networks.mini.network import Mini, MiniConfig
    from lite3r_cli.pipelines.reconstruct_scene import reconstruct
    from lite3r_cli.training.state import save_weights

    config = MiniConfig(32, 4, 2, alternate_from=1, taps=(0, 1, 2, 3), head_features=16, head_stages=(8, 8, 8, 8),
                        camera_hidden=16, position_grid=3)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        place, model = Path(os.path.realpath(folder)), Mini(config)
        standin.fill(model, 1)
        save_weights(place / "tiny.safetensors", model.state_dict(), model, torch.float16)
        for i in range(2):
            (place / "photos").mkdir(exist_ok=True)
            cv2.imwrite(str(place / f"photos/{i}.png"), np.roll(picture(width=56, height=42), 3 * i, 1))
        predict = PredictConfig(model=str(place / "tiny.safetensors"), device="cpu", resolution=56)
        given = InputConfig((place / "photos",))
        reconstruct(ReconstructConfig(given, predict, output=str(place / "scene.ply"), formats=("colmap",)))
        for memory in (place / "scene/memory").iterdir():
            photo = f"photos/{memory.stem}.png"
            source = Source(photo, (place / photo).stat().st_size, checksum(place / photo))
            write_memory(memory, dataclasses.replace(read_memory(memory, (42, 56)), source=source))
        run = place / "scene/run.json"
        run.write_text(run.read_text().replace(f"{place}/", ""))
        keep = ("photos", "scene", "scene.ply")
        files = {str(p.relative_to(place)): p for p in sorted(place.rglob("*")) if p.is_file()}
        return {name: path.read_bytes() for name, path in files.items() if name.split("/")[0] in keep}


def _changed(r: random.Random, files: Files, name: str) -> Files:
    """The files with one of them changed, by its kind."""
    data = files[name]
    if name.endswith(".json"):
        return files | {name: json_bytes(r, json.loads(data))}
    structured = {".png": (png_changed,), ".safetensors": (_header, _header)}.get(Path(name).suffix, ())
    return files | {name: mutated(r, data, [data], structured)}


def _written() -> Reader:
    """`add` and `merge`: everything of the old scene that is written again."""

    def make(r: random.Random) -> Files:
        files = {name: data for name, data in _scene().items() if not name.startswith("scene/images/")}
        if r.random() < 0.3:
            files |= {name: data for name, data in _scene().items() if name.startswith("scene/images/")}
        kinds = ("run.json", "run.json", "run.json", "run.json", "cameras.json", "0.safetensors", "depth/0.png")
        end = r.choice(kinds)
        return _changed(r, files, next(name for name in files if name.endswith(end)))

    def read(folder: Path) -> str | None:
        from lite3r_cli.config.adding import MergeConfig
        from lite3r_cli.pipelines import add_photos, merge_scenes, rewritten
        from lite3r_cli.pipelines.scene_members import members_of, stored_config
        from lite3r_cli.pipelines.written_scene import WrittenScene

        with contextlib.chdir(folder):
            place = add_photos.place_of(Path("scene.ply"))
            scene = WrittenScene.at(Path("scene"))
            merge_scenes._require_a_new_place(
                MergeConfig(first=Path("scene"), second=Path("scene.ply"), output="both.ply"), scene, scene
            )
            scene.require_record(), scene.require_not_in(Path("scene.html"))
            made = stored_config(scene)
            add_photos.network_of(made, "cpu", "auto", adjust=True)
            members = members_of(scene, made, _quiet)
            pictures = scene.photographs()
            for view in scene.views():
                pictures.read(view)
            plan = rewritten.Rewriting(made, members, scene.facts, scene.frame, scene.up, [], [], {"command": "add"})
            rewritten._predictions(plan), rewritten._images(plan)
            now = {"images": [{"name": member.record.name} for member in members]}
            json.dumps(rewritten._facts(plan, now), allow_nan=False)
        return None if place in ("scene.ply", str(folder / "scene.ply")) else f"another place: {place}"

    return Reader(make, read, 2)


def _parts() -> Reader:
    """A part of a run, whose facts are in the run.json of the whole."""
    whole = {"images": [{"name": "0.png", "path": "photos/0.png"}], "files": {},
             "parts": [{"folder": "part-1", "world": {"name": "first camera"}, "up": {"found": False}},
                       {"folder": "part-2"}]}  # fmt: skip

    def make(r: random.Random) -> Files:
        wanted = ("scene.ply", "scene/cameras.json")
        part = {f"part-1/{Path(name).name}": data for name, data in _scene().items() if name in wanted}
        return {"run.json": json_bytes(r, whole), **part}

    def read(folder: Path) -> str | None:
        from lite3r_cli.pipelines.written_scene import WrittenScene

        scene = WrittenScene.at(folder / "part-1")
        scene.frame, scene.up, scene.stems, scene.cloud(lambda text: None)
        scene.photographs().places, scene.require_record()
        return None if isinstance(scene.facts, dict) else "facts that are no object"

    return Reader(make, read)


def _ours(folder: Path) -> None:
    os.chmod(folder, 0o700)


def _live() -> Reader:
    """`view --serve` beside a run in chunks."""
    asked = {"model": "mini", "the images": [[f"{i}.jpg", 9, 7, 3, None] for i in range(2)]}

    def make(r: random.Random) -> Files:
        files = {"asked.json": json.dumps(asked).encode(), **{f"pass-00000/{n}": data for n, data in _pass().items()}}
        name = r.choice(["asked.json", "pass-00000/pass.json", *files])
        return {f"{HIDDEN}/{n}": data for n, data in _changed(r, files, name).items()} | {
            f"{HIDDEN}/made-by-lite3r": b""
        }

    def read(folder: Path) -> str | None:
        from lite3r_cli.pipelines.live_chunks import LiveChunks, running

        _ours(folder / HIDDEN)
        found = running(folder / "scene.ply")
        if found is None:
            return "a run is not seen"
        shown = LiveChunks(found, 1000).news()
        finite = shown is None or bool(np.isfinite(shown.cloud.points).all())
        return None if finite else "points that are not finite"

    return Reader(make, read)


def _resumed() -> Reader:
    """`reconstruct --resume`: the options of the stopped run."""
    asked = {"predict": {"model": "mini", "resolution": 56}, "chunk": 3, "the images": [["0.jpg", 9, 7, 3, None]]}

    def make(r: random.Random) -> Files:
        asked_then = {f"{HIDDEN}/asked.json": json_bytes(r, asked), f"{HIDDEN}/made-by-lite3r": b""}
        return asked_then | {f"{HIDDEN}/pass-00000/{n}": data for n, data in _pass().items()}

    def read(folder: Path) -> str | None:
        from lite3r_cli.errors import Lite3RError
        from lite3r_cli.long.work_folder import WorkFolder

        _ours(folder / HIDDEN)
        try:
            with WorkFolder(folder / HIDDEN, asked, True, _quiet) as work:
                whole = work.found
        except Lite3RError:
            return None if (folder / HIDDEN / "pass-00000/pass.json").exists() else "a refusal lost the chunks"
        return None if whole == 1 and (folder / HIDDEN).exists() else "chunks are lost"

    return Reader(make, read)


def _manifest() -> Reader:
    """A list of scenes, and run.json files of outputs among them."""
    text = b"# scenes\nred\nblue/\n./red\n../elsewhere\n~nobody/a\n/nowhere/film.mp4\n"
    run = {"files": {"scene.ply": {"bytes": 3}, "red/0.jpg": {"bytes": 4}}}

    def make(r: random.Random) -> Files:
        listed = words(r, text) if r.random() < 0.5 else mutated(r, text, [text])
        files = {"list.txt": listed, "red/0.jpg": b"1234", "blue/film.mp4": b"", "blue/green/1.png": b""}
        return files | {r.choice(("red/run.json", "blue/out/run.json", "blue/run.json")): json_bytes(r, run)}

    def read(folder: Path) -> str | None:
        from lite3r_cli.batch.manifest import find_scenes

        lines = [os.fsdecode(line.strip()) for line in (folder / "list.txt").read_bytes().splitlines()]
        real = [os.path.realpath(folder / os.path.expanduser(line)) for line in lines if "\0" not in line]
        if any(os.path.isdir(place) and not place.startswith(os.path.realpath(folder)) for place in real):
            return None  # all folders of this machine are no part of the case
        names = [scene.name for scene in find_scenes([folder / "list.txt", folder / "blue"], folder / "out")]
        apart = len(set(names)) == len(names) and not any(".." in name.split("/") or name[0] == "/" for name in names)
        return None if apart else f"names of scenes: {names}"

    return Reader(make, read)


def _older() -> Reader:
    """A batch that finds a complete scene: its run.json is compared with the options, its record is told."""
    from lite3r_cli.config import InputConfig, ReconstructConfig

    def made(folder: Path) -> ReconstructConfig:
        return ReconstructConfig(InputConfig((folder,)), output=str(folder))

    def make(r: random.Random) -> Files:
        from lite3r_cli.pipelines.result import plain

        run = {"arguments": plain(made(Path("in"))), "files": {"scene.ply": {"bytes": 3}}}
        record = {"name": "a", "status": "done", "attempts": 1, "time": 1.5, "facts": {"views": 2}}
        which = r.random() < 0.8
        return {"a/run.json": json_bytes(r, run) if which else json.dumps(run).encode(), "a/scene.ply": b"ply",
                ".batch/a.json": json.dumps(record).encode() if which else json_bytes(r, record)}  # fmt: skip

    def read(folder: Path) -> str | None:
        from lite3r_cli.batch.job import THERE
        from lite3r_cli.batch.manifest import SceneInput
        from lite3r_cli.batch.older_options import older_options, told
        from lite3r_cli.batch.past import Past

        past, scene = Past(made(folder), 0.0), SceneInput("a", folder / "in")
        outcome = past.settled(scene) or past.outcome(scene, THERE, {})
        found = older_options(past, [scene], [outcome])
        json.dumps(vars(outcome), allow_nan=False), found and told(found)
        return None

    return Reader(make, read)


def _pages() -> Reader:
    """`view -o` looks whether the file that is there is a page of its own."""
    sound = b'<!doctype html><meta name="generator" content="lite3r"><title>a</title>' + b"x" * 2000

    def read(folder: Path) -> str | None:
        from lite3r_cli.errors import OutputError
        from lite3r_cli.pipelines.view_scene import MARK, _require_ours

        path = folder / "a.html"
        try:
            _require_ours(path, overwrite=False)
        except OutputError:
            return None
        return None if MARK in path.read_bytes()[:1000] else "a foreign page would be replaced"

    return Reader(lambda r: {"a.html": mutated(r, sound, [sound])}, read)


def scene_readers() -> dict[str, Reader]:
    """By name."""
    return {
        "written": _written(), "parts": _parts(), "live": _live(), "resumed": _resumed(), "manifest": _manifest(),
        "older": _older(), "page": _pages(),
    }  # fmt: skip
