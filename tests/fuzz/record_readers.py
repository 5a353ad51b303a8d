"""Readers of what the program itself writes and finds again, and of what trains it: states, checkpoints of torch,
journals, records of a batch, chunks, data sets. Same rules as in readers.py, whose table takes them in.
"""

from __future__ import annotations

import io
import json
import os
import random
from functools import cache
from pathlib import Path

import numpy as np
from cases import Files, Reader
from mutate import json_bytes, mutated, words


@cache
def _tiny():
    """A very small `mini`, its average and its optimiser, after a step."""
    import torch

    from lite3r_cli.networks.mini.network import Mini, MiniConfig
    from lite3r_cli.training.optimiser import WeightAverage

    torch.manual_seed(1)
    model = Mini(MiniConfig(24, 1, 1, taps=(0, 0, 0, 0), head_features=8, head_stages=(8,) * 4, camera_hidden=8,
                            position_grid=3))  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    return model, WeightAverage(model, 0.9), [optimiser]


@cache
def _torch_files() -> tuple[bytes, ...]:
    import torch

    weights = {name: tensor.half() for name, tensor in _tiny()[0].state_dict().items()}
    small = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    found = []
    for content, options in (
        (weights, {}),
        ({"model": small, "step": 3}, {}),
        (small, {"_use_new_zipfile_serialization": False}),
    ):
        stream = io.BytesIO()
        torch.save(content, stream, **options)
        found.append(stream.getvalue())
    return tuple(found)


def _pt() -> Reader:
    def make(r: random.Random) -> Files:
        return {"a.pt": mutated(r, r.choice(_torch_files()), _torch_files())}

    def read(folder: Path) -> str | None:
        from lite3r_cli.checkpoints.torch_files import open_torch_file

        source = open_torch_file(folder / "a.pt")
        for name in source.entries:
            tensor = source.read(name)
            if tuple(tensor.shape) != tuple(source.entries[name].shape):
                return f"{name} has another shape than it says"
        return None

    return Reader(make, read)


@cache
def _state() -> bytes:
    import tempfile

    from lite3r_cli.training.state import Dependencies, save_training_state

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.safetensors")
        save_training_state(path, *_tiny(), 7, 3.5, Dependencies("train", {"recipe": {"lr": 0.001, "seed": 3}}))
        return path.read_bytes()


def _header(r: random.Random, data: bytes) -> bytes:
    """Another header of a safetensors file, of the length that it says."""
    size = int.from_bytes(data[:8], "little")
    new = json_bytes(r, json.loads(data[8 : 8 + size]))
    return len(new).to_bytes(8, "little") + new + data[8 + size :]


def _states() -> Reader:
    def make(r: random.Random) -> Files:
        return {"state.safetensors": mutated(r, _state(), [_state()], (_header, _header))}

    def read(folder: Path) -> str | None:
        from lite3r_cli.errors import WeightsError
        from lite3r_cli.training.state import Dependencies, load_training_state

        path = folder / "state.safetensors"
        Dependencies("train", {"recipe": {"lr": 0.001, "seed": 3}}, anyway=True).check(path, lambda text: None)
        model, average, optimisers = _tiny()
        try:
            step, elapsed = load_training_state(path, model, average, optimisers)
        except WeightsError as error:
            return "a state is called a checkpoint" if "get it again" in str(error) else None
        sound = type(step) is int and step >= 0 and 0 <= elapsed < float("inf")
        return None if sound else f"step {step} after {elapsed} s"

    return Reader(make, read)


@cache
def _pass() -> Files:
    import tempfile

    from lite3r_cli.long.chunk_plan import plan_chunks
    from lite3r_cli.long.pass_store import PassStore

    with tempfile.TemporaryDirectory() as folder:
        views, place = _views(2), PassStore(Path(folder)).place(0)
        PassStore(Path(folder)).write(0, plan_chunks(2, 2, "").chunks[0], [0, 1], views, [None, None], {"ms": 3.0})
        return {path.name: path.read_bytes() for path in place.iterdir()}


def _views(count: int) -> list:
    from lite3r_cli.scene.posed_view import View

    depth = np.linspace(1, 9, 7 * 9, dtype=np.float32).reshape(7, 9)
    return [View(f"{i}.jpg", 9, 7, np.diag([9.0, 9, 1]), np.eye(3, 4), depth, depth) for i in range(count)]


def _chunks() -> Reader:
    def make(r: random.Random) -> Files:
        files = dict(_pass())
        name = r.choice(["pass.json", *files])
        data = json_bytes(r, json.loads(files[name])) if name == "pass.json" and r.random() < 0.8 else None
        files[name] = data or mutated(r, files[name], list(files.values()))
        return {f"pass-00000/{name}": data for name, data in files.items()}

    def read(folder: Path) -> str | None:
        from lite3r_cli.long.chunk_plan import plan_chunks
        from lite3r_cli.long.pass_store import PassStore

        store = PassStore(folder)
        if not store.has(0, plan_chunks(2, 2, "").chunks[0]) or store.views(0) != [0, 1]:
            return None
        store.cameras(0), store.facts(0), store.confidences(0, [0, 1])
        for position, bare in enumerate(_views(2)):
            view = store.read(0, position, bare)
            if view.depth.shape != view.confidence.shape or not np.isfinite(view.depth).all():
                return "depth and confidence of different shapes, or depth that is not finite"
        return None

    return Reader(make, read)


def _leftovers() -> Reader:
    """What a stopped run left beside an output: another user's file next to it stays as it is."""
    journal = {
        "last": "scene/run.json",
        "files": {"scene/depth/a.png": [3, 5], "scene.ply": [4, 6]},
        "folders": ["scene", "scene/depth"],
    }
    journal["decider"] = {"path": "scene/run.json", "size": 2, "time_ns": 7}
    journal["follower"] = {"root": "films", "name": "f.mp4", "hidden": ".f.mp4.lite3r-0123456789ab"}
    record = {"seed": 1, "files": {"images/0.jpg": {"bytes": 3}, "cameras.json": {"bytes": 2}}}

    def make(r: random.Random) -> Files:
        hidden = ".scene.ply.lite3r-0123456789ab"
        files = {f"{hidden}/journal.json": json_bytes(r, journal), f"{hidden}/made-by-lite3r": b"", "mine.txt": b"mine"}
        files |= {
            f"{hidden}/new/scene/run.json": b"{}",
            f"{hidden}/old/scene/depth/b.png": b"old",
            "scene/depth/a.png": b"new",
        }
        files |= {"s/synth.json": json_bytes(r, record), "s/images/0.jpg": b"jpg", "s/cameras.json": b"{}"}
        return files

    def read(folder: Path) -> str | None:
        from lite3r_cli.errors import OutputError
        from lite3r_cli.io.atomic import bring_right
        from lite3r_cli.io.own_record import require_as_written

        os.chmod(folder / ".scene.ply.lite3r-0123456789ab", 0o700)
        for look in (
            lambda: bring_right(folder / "scene.ply"),
            lambda: require_as_written(folder / "s", "synth.json", "lite3r synth", bool),
        ):
            try:
                look()
            except OutputError:
                continue
        return None if (folder / "mine.txt").read_bytes() == b"mine" else "a file of somebody else's is gone"

    return Reader(make, read)


def _batch() -> Reader:
    facts = {"views": 3, "points": 70, "wall_seconds": 2.5, "warnings": ["a"], "seconds": {"Fuse": 1.0}, "reason": None}
    record = {"name": "a", "status": "done", "attempts": 1, "time": 1.5, "facts": facts}

    def read(folder: Path) -> str | None:
        from lite3r_cli.batch.claims import Claims
        from lite3r_cli.batch.job import THERE
        from lite3r_cli.batch.manifest import SceneInput
        from lite3r_cli.batch.past import Past
        from lite3r_cli.config import InputConfig, ReconstructConfig

        found = Claims(folder).record("a")
        if found is None:
            return None
        past = Past(ReconstructConfig(InputConfig((folder,)), output=str(folder)), 0.0)
        outcome = past.outcome(SceneInput("a", folder / "a"), THERE, found.facts)
        json.dumps(vars(outcome), allow_nan=False)
        return None if outcome.points is None or f"{outcome.points:,}" else "no count"

    return Reader(lambda r: {".batch/a.json": json_bytes(r, record)}, read)


def _archives() -> Reader:
    stream = io.BytesIO()
    np.savez(stream, data=np.arange(90, dtype=np.uint8), offsets=np.array([0, 40, 90]), K=np.eye(3))
    packed = io.BytesIO()
    np.savez_compressed(packed, data=np.arange(90, dtype=np.uint8), offsets=np.array([0, 40, 90]))
    sound = (stream.getvalue(), packed.getvalue())

    def read(folder: Path) -> str | None:
        from lite3r_cli.data.procedural.textures import load_photos
        from lite3r_cli.io.archives import read_npz

        for array in read_npz(folder / "a.npz").values():
            if array.dtype.hasobject:
                return "objects out of a file"
        load_photos(folder / "a.npz")
        return None

    return Reader(lambda r: {"a.npz": mutated(r, r.choice(sound), sound)}, read)


def _training_sets() -> Reader:
    camera = b"extrinsic\n1 0 0 0.1\n0 1 0 0\n0 0 1 0\n0 0 0 1\n\nintrinsic\n50 0 24\n0 50 18\n0 0 1\n\n1 0.1 20 3\n"
    pairs = b"3\n0\n2 1 9.5 2 3.5\n1\n1 0 9.5\n2\n1 0 3.5\n"
    depth = b"Pf\n4 3\n-1\n" + np.arange(12, dtype="<f4").tobytes()

    def make(r: random.Random) -> Files:
        files = {"0_cam.txt": camera, "pair.txt": pairs, "0.pfm": depth}
        name = r.choice(list(files))
        change = words if name != "0.pfm" and r.random() < 0.7 else lambda r, d: mutated(r, d, list(files.values()))
        return files | {name: change(r, files[name])}

    def read(folder: Path) -> str | None:
        from lite3r_cli.data.blendedmvs import read_camera, read_depth_pfm, read_partners

        K, pose = read_camera(folder / "0_cam.txt")
        partners = read_partners(folder / "pair.txt", [0, 1, 2])
        if any(n not in (0, 1, 2) for row in partners for n in row):
            return "partners that are not there"
        sound = np.isfinite(read_depth_pfm(folder / "0.pfm")).all() and np.isfinite(K).all() and np.isfinite(pose).all()
        return None if sound else "numbers that are not finite"

    return Reader(make, read)


def _flights() -> Reader:
    camera = {"camera_to_world": np.eye(4).ravel().tolist(), "fov": 50, "aspect": 1.3}
    path = {"render_height": 48, "render_width": 64, "camera_path": [camera]}
    walk = b"# a walk\n0 0 0 0 0 0 0 1\n1 0.1 0 0 0 0 0 1\n"

    def make(r: random.Random) -> Files:
        if r.random() < 0.7:
            return {"a.json": json_bytes(r, path)}
        return {"a.txt": words(r, walk)}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.flight import read_flight

        for view in read_flight(next(folder.iterdir()), _views(2)):
            if not (np.isfinite(view.K).all() and np.isfinite(view.cam_from_world).all()) or view.K[0, 0] <= 0:
                return "K or pose not finite"
        return None

    return Reader(make, read)


def _scenes() -> Reader:
    """A scene that `view`, `render` and `locate` open: run.json and cameras.json that somebody else wrote."""
    image = {"name": "0.jpg", "path": "/nowhere/0.jpg"}
    run = {"world": {"name": "first camera", "units": "m", "metric": True},
           "up": {"found": True, "direction": [0, -1, 0]}, "images": [image],
           "arguments": {"predict": {"model": "mini", "resolution": 9}},
           "parts": [{"folder": "part-2"}], "files": {"scene.ply": {"bytes": 9}}}  # fmt: skip
    entry = {
        "K": [[9.0, 0, 4], [0, 9, 3], [0, 0, 1]],
        "cam_from_world": np.eye(4)[:3].tolist(),
        "width": 9,
        "height": 7,
    }
    cloud = (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\n"
        b"property float x\nproperty float y\nproperty float z\n"
        b"property uchar red\nproperty uchar green\nproperty uchar blue\nproperty float confidence\nend_header\n"
    )

    def make(r: random.Random) -> Files:
        cameras = {"convention": "x", "images": {"0.jpg": entry}}
        files = {"scene/run.json": json_bytes(r, run), "scene/cameras.json": json.dumps(cameras).encode()}
        return files | {"scene.ply": cloud + bytes(19)}

    def read(folder: Path) -> str | None:
        from lite3r_cli.config.locating import LocateConfig
        from lite3r_cli.pipelines.locate_photos import prediction_for
        from lite3r_cli.pipelines.written_scene import WrittenScene

        scene = WrittenScene.at(folder / "scene.ply")
        up, frame, pictures = scene.up, scene.frame, scene.photographs()
        if not isinstance(frame.description + frame.units + frame.name, str) or type(frame.metric) is not bool:
            return "a frame of other kinds"
        if up is not None and (up.shape != (3,) or abs(np.linalg.norm(up) - 1) > 1e-6):
            return "up is no direction"
        for view in scene.views():
            pictures.has(view), pictures.read(view)
        prediction_for(LocateConfig(scene=folder, inputs=(folder,)), scene)
        return None

    return Reader(make, read)


def _memories() -> Reader:
    """What `add` finds of a view: its confidence, its picture's file, its features."""
    import tempfile

    from lite3r_cli.io.view_memory import Features, Source, ViewMemory, read_memory, write_memory

    features = Features(np.ones((5, 2)), np.zeros((5, 128), np.uint8), (9, 7), np.zeros((16, 16), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        memory = ViewMemory(
            np.linspace(1, 9, 63, dtype=np.float32).reshape(7, 9), Source("/a.jpg", 9, "0" * 64), features
        )
        write_memory(Path(folder, "a"), memory)
        sound = Path(folder, "a").read_bytes()

    def read(folder: Path) -> str | None:
        memory = read_memory(folder / "a.safetensors", (7, 9))
        whole = memory.confidence.shape == (7, 9) and np.isfinite(memory.confidence).all()
        return None if whole else "confidence of another shape, or not finite"

    return Reader(lambda r: {"a.safetensors": mutated(r, sound, (sound,), (_header, _header))}, read)


def record_readers() -> dict[str, Reader]:
    """The readers of this file by name."""
    return {
        "pt": _pt(), "state": _states(), "chunks": _chunks(), "leftovers": _leftovers(), "batch": _batch(),
        "archive": _archives(), "training_set": _training_sets(), "flight": _flights(), "scene": _scenes(),
        "memory": _memories(),
    }  # fmt: skip
