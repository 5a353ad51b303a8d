"""Readers of what is given beside the photos (depth, poses, lenses, control points), of data sets, and of caches of the
user. Same rules as in readers.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from pathlib import Path

import numpy as np
from cases import Files, Reader, corpus
from mutate import json_bytes, mutated, words
from record_readers import _views
from scene_readers import _changed
from structure import png_changed


def _given_depth() -> Reader:
    """--depth: files of a camera beside the photos."""
    import cv2

    deep = cv2.imencode(".png", np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 30)[1].tobytes()
    arrays = []
    for dtype in (np.float32, np.float64, np.uint16, np.int64):
        stream = io.BytesIO()
        np.save(stream, np.arange(48 * 36).reshape(36, 48).astype(dtype))
        arrays.append(stream.getvalue())

    def make(r: random.Random) -> Files:
        if r.random() < 0.5:
            return {"0.png": mutated(r, deep, corpus("PNG"), (png_changed,))}
        return {"0.npy": mutated(r, r.choice(arrays), arrays)}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.given_depth import GivenDepth
        from lite3r_cli.io.images import ImageRecord

        record = ImageRecord("0.jpg", folder / "0.jpg", 96, 72)
        given = GivenDepth(folder)
        path = given.find([record])[0]
        depth = given.read(path, record) if path is not None else np.zeros((1, 1))
        return None if depth.ndim == 2 and np.isfinite(depth).all() and (depth >= 0).all() else "depth that is none"

    return Reader(make, read)


def _trajectories() -> Reader:
    """--cameras with poses alone, --intrinsics and --gcp, matched with photos, as the commands use them."""
    walk = b"# a walk\n0 0 0 0 0 0 0 1\n1 0.1 0 0 0 0 0 1\n"
    named = b"0.jpg 0 0 0 0 0 0 1\n1.jpg 0.1 0 0 0 0 0 1\n"
    lenses = b'[{"name": "0.jpg", "K": [[50, 0, 24], [0, 50, 18], [0, 0, 1]], "width": 48, "height": 36}]'
    points = b"".join(f"{k} {k * k} 1 {k + 2} {k + 1} {i}.jpg p{k}\n".encode() for k in range(4) for i in range(2))

    def make(r: random.Random) -> Files:
        files = {
            "walk.txt": r.choice((walk, named)),
            "K.json": lenses,
            "points.txt": r.choice((b"WGS84\n", b"")) + points,
        }
        name = r.choice(list(files))
        if name == "K.json" and r.random() < 0.6:
            return files | {name: json_bytes(r, json.loads(lenses))}
        return files | {name: words(r, files[name]) if r.random() < 0.6 else mutated(r, files[name], [walk, points])}

    def read(folder: Path) -> str | None:
        from lite3r_cli.errors import InputError
        from lite3r_cli.io.control_points import read_control_points
        from lite3r_cli.io.images import ImageRecord
        from lite3r_cli.io.intrinsics import find_intrinsics, read_intrinsics
        from lite3r_cli.pipelines.anchoring import _triangulated
        from lite3r_cli.pipelines.predict import Predictions  # noqa: F401 (the annotation below names it)
        from lite3r_cli.pipelines.stated_cameras import stated_cameras

        views = _views(2)
        photos = [ImageRecord(f"{i}.jpg", folder / f"{i}.jpg", 9, 7) for i in range(2)]
        found: list[np.ndarray] = []
        with contextlib.suppress(InputError):
            for view in stated_cameras(folder / "walk.txt", photos, views).values():
                found += [view.K, view.cam_from_world]
        with contextlib.suppress(InputError):
            lens = find_intrinsics(read_intrinsics(folder / "K.json"), "0.jpg")
            found += [] if lens is None else [lens.K]
        with contextlib.suppress(InputError):
            answer = type("Answer", (), {"views": views})
            for point in read_control_points(folder / "points.txt").points:
                place = _triangulated(point, answer, {})
                found += [] if place is None else [place]
        return None if all(np.isfinite(array).all() for array in found) else "numbers that are not finite"

    return Reader(make, read)


def _caches() -> Reader:
    """The user's own caches: checksums of checkpoints, references of the hub, the log of a training run."""
    record = {"step": 3, "seconds": 2.5, "total": 0.5, "lr": 1e-3}

    def make(r: random.Random) -> Files:
        sums = {"/a.safetensors": {"marks": [[3, 4, 5]], "sha256": "0" * 64}}
        commit = b"0123456789abcdef0123456789abcdef01234567"
        log = b"\n".join(json_bytes(r, record) for _ in range(2)) + b"\n"
        hub = "hub/models--a--b"
        return {"cache/lite3r/fingerprints.json": json_bytes(r, sums), "log.jsonl": log,
                f"{hub}/refs/main": mutated(r, commit, [commit]),
                f"{hub}/snapshots/{commit.decode()}/model.safetensors": b"x"}  # fmt: skip

    def read(folder: Path) -> str | None:
        from lite3r_cli.checkpoints import fingerprint, hub
        from lite3r_cli.training.loss_plot import _records

        before = dict(os.environ)
        os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_CACHE": str(folder / "hub")}
        try:
            if fingerprint.fingerprint(folder / "log.jsonl") == "0" * 64:
                return "a checksum of another file"
            found = hub.find_cached("a/b", "main")
            if found is not None and not found.is_file():
                return "a checkpoint that is not there"
        finally:
            os.environ.clear()
            os.environ.update(before)
        for row in _records(folder / "log.jsonl"):
            row["seconds"] / 60, float(row.get("total", 0.0))
        return None

    return Reader(make, read)


def _photo_sets() -> Reader:
    """Scenes of `train --photos`, `distill` and `eval`: cameras, points, pictures."""
    eye, K = np.eye(4)[:3].tolist(), [[50.0, 0, 24], [0, 50, 18], [0, 0, 1]]
    entry = {"K": K, "cam_from_world": eye, "width": 48, "height": 36}
    stream, names = io.BytesIO(), [f"{i}.jpg" for i in range(2)]
    np.savez(stream, **{name: np.array([[10.0, 10, 3], [20, 20, 4]]) for name in names})

    def make(r: random.Random) -> Files:
        files = {"set/a/cameras.json": json.dumps({"images": dict.fromkeys(names, entry)}).encode(),
                 "set/a/points.npz": stream.getvalue(),
                 **{f"set/a/images/{name}": corpus("JPEG")[0] for name in names}}  # fmt: skip
        return _changed(r, files, r.choice(["set/a/cameras.json", *files]))

    def read(folder: Path) -> str | None:
        from lite3r_cli.data.photos import load_scenes
        from lite3r_cli.errors import Lite3RError
        from lite3r_cli.pipelines.evaluate_scenes import open_scene

        with contextlib.suppress(Lite3RError):
            scene = load_scenes(folder / "set", [])[0]
            if not (np.isfinite(scene.overlap).all() and np.isfinite(scene.K).all()):
                return "numbers that are not finite"
        scored = open_scene(folder / "set/a")
        return None if len(scored.indices) >= 1 else "a scene without images"

    return Reader(make, read)


def _dtu() -> Reader:
    camera = b"extrinsic\n1 0 0 0.1\n0 1 0 0\n0 0 1 0\n0 0 0 1\n\nintrinsic\n50 0 24\n0 50 18\n0 0 1\n\n1 0.1\n"
    pairs = b"3\n0\n2 1 9.5 2 3.5\n1\n1 0 9.5\n2\n1 0 3.5\n"

    def make(r: random.Random) -> Files:
        texts = {"Cameras/pair.txt": pairs, **{f"Cameras/{i:08}_cam.txt": camera for i in range(3)}}
        pictures = {f"scan2/image/{i:06}.png": corpus("PNG")[0] for i in range(3)}
        name = r.choice([*texts, *texts, *pictures])
        if name in texts:
            texts[name] = words(r, texts[name]) if r.random() < 0.7 else mutated(r, texts[name], [camera, pairs])
        else:
            pictures[name] = mutated(r, pictures[name], corpus("PNG"), (png_changed,))
        return texts | pictures

    def read(folder: Path) -> str | None:
        from lite3r_cli.data.dtu import load_dtu

        for scan in load_dtu(folder).train:
            if any(n not in range(len(scan.shots)) for row in scan.partners for n in row):
                return "partners that are not there"
            if not all(np.isfinite(shot.K).all() and np.isfinite(shot.cam_from_world).all() for shot in scan.shots):
                return "numbers that are not finite"
        return None

    return Reader(make, read)


def set_readers() -> dict[str, Reader]:
    """By name."""
    return {
        "given_depth": _given_depth(), "trajectory": _trajectories(), "cache": _caches(), "photo_set": _photo_sets(),
        "dtu": _dtu(),
    }  # fmt: skip
