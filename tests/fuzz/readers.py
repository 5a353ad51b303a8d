"""The fuzzed readers: valid files of each, how they are mutated, and what must hold for accepted ones.

A reader may refuse with an error of lite3r_cli.errors; anything else that it raises is a fault, as is an answer that is
not what it promises.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from cases import Files, Reader, corpus
from mutate import json_bytes, mutated, words
from network_readers import network_readers
from picture_readers import picture_readers
from record_readers import record_readers
from scene_readers import scene_readers
from set_readers import set_readers
from structure import png_changed


def _depth() -> Reader:
    import cv2

    array = io.BytesIO()
    np.save(array, np.ones((36, 48), np.float32))
    deep = cv2.imencode(".png", np.arange(48 * 36, dtype=np.uint16).reshape(36, 48) * 30)[1].tobytes()

    def make(r: random.Random) -> Files:
        if r.random() < 0.3:
            return {"d.npy": mutated(r, array.getvalue(), (array.getvalue(),))}
        return {"d.png": mutated(r, deep, corpus("PNG"), (png_changed,))}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.archives import read_npy
        from lite3r_cli.io.depth_files import read_depth_png

        if (folder / "d.npy").exists():
            return None if read_npy(folder / "d.npy").dtype.kind in "fiub" else "an array that is not of numbers"
        return None if np.isfinite(read_depth_png(folder / "d.png", 100.0)).all() else "depth that is not finite"

    return Reader(make, read)


def _clouds() -> Reader:
    names = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]
    head = "\n".join(
        ["ply", "format binary_little_endian 1.0", "element vertex 20", *names, "property float confidence"]
    )
    body = np.zeros(20, "<f4,<f4,<f4,u1,u1,u1,<f4").tobytes()
    binary = head.encode() + b"\nend_header\n" + body
    text = head.replace("binary_little_endian", "ascii").encode() + b"\nend_header\n" + b"1 2 3 4 5 6 0.5\n" * 20
    lists = head.replace("property float conf", "property list uchar int q\nproperty float conf").encode()
    gaussians = [f"property float {name}" for name in ("f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "rot_0")]
    splats = "\n".join(["ply", "format binary_little_endian 1.0", "element vertex 20", *names[:3], *gaussians])
    splats_file = splats.encode() + b"\nend_header\n" + bytes(20 * 36)
    sound = (binary, text, lists + b"\nend_header\n" + body, splats_file)

    def header(r: random.Random, data: bytes) -> bytes:
        first, mark, rest = data.partition(b"end_header\n")
        return words(r, first) + mark + rest

    def make(r: random.Random) -> Files:
        return {"a.ply": mutated(r, r.choice(sound), sound, (header,))}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.ply import read_ply

        cloud = read_ply(folder / "a.ply")
        return None if cloud.points.shape == cloud.colors.shape == (len(cloud), 3) else "arrays of different lengths"

    return Reader(make, read)


def _unsound(views) -> str | None:
    """What every reader of cameras promises."""
    for view in views:
        K, pose = np.asarray(view.K), np.asarray(view.cam_from_world)
        if K.shape != (3, 3) or pose.shape != (3, 4) or not (np.isfinite(K).all() and np.isfinite(pose).all()):
            return "K or pose not finite"
        if K[0, 0] <= 0 or K[1, 1] <= 0 or view.width < 1 or view.height < 1:
            return "focal length or size not positive"
        if np.abs(pose[:, :3] @ pose[:, :3].T - np.eye(3)).max() > 2e-3 or np.linalg.det(pose[:, :3]) < 0:
            return "not a rotation"
    return None


def _read_cameras(folder: Path) -> str | None:
    from lite3r_cli.io.foreign_cameras import read_known_cameras

    return _unsound(read_known_cameras(folder))


def _own_cameras() -> Reader:
    eye, K = np.eye(4)[:3].tolist(), [[50.0, 0, 24], [0, 50, 18], [0, 0, 1]]
    entry = {"K": K, "cam_from_world": eye, "width": 48, "height": 36, "depth_scale": 100.0}
    document = {"convention": "x", "images": {f"{i}.jpg": entry | {"depth": f"depth/{i}.png"} for i in range(3)}}

    def make(r: random.Random) -> Files:
        import cv2

        deep = cv2.imencode(".png", np.ones((36, 48), np.uint16))[1].tobytes()
        return {"cameras.json": json_bytes(r, document), "depth/0.png": deep, "depth/1.png": deep}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.cameras_json import read_cameras_json

        return _read_cameras(folder) or _unsound(read_cameras_json(folder))

    return Reader(make, read)


def _transforms() -> Reader:
    frames = [{"file_path": f"images/{i}.jpg", "transform_matrix": np.eye(4).tolist()} for i in range(3)]
    top = {"camera_model": "PINHOLE", "fl_x": 50.0, "fl_y": 50.0, "cx": 24, "cy": 18, "w": 48, "h": 36, "k1": 0.0}
    documents = [top | {"frames": frames}, {"frames": [top | frame for frame in frames], "ply_file_path": "x.ply"}]
    return Reader(lambda r: {"transforms.json": json_bytes(r, r.choice(documents))}, _read_cameras, 2)


@cache
def _model() -> Mapping[str, bytes]:
    """A COLMAP model as we write it."""
    import tempfile

    from lite3r_cli.io.colmap import write_colmap
    from lite3r_cli.io.scene_export import SceneExport
    from lite3r_cli.scene.posed_view import PointCloud, View

    K = np.array([[50.0, 0, 24], [0, 50, 18], [0, 0, 1]])
    views = [View(f"{i}.jpg", 48, 36 + i, K, np.eye(4)[:3]) for i in range(3)]
    cloud = PointCloud(np.zeros((8, 3), np.float32), np.zeros((8, 3), np.uint8), np.zeros(8, np.float32))
    with tempfile.TemporaryDirectory() as folder:
        write_colmap(SceneExport(Path(folder), views, cloud))
        return {path.name: path.read_bytes() for path in Path(folder, "sparse/0").iterdir()}


def _colmap(suffix: str) -> Reader:
    def make(r: random.Random) -> Files:
        files = {name: data for name, data in _model().items() if name.endswith(suffix)}
        for _ in range(r.choice((1, 1, 2))):
            name = r.choice(sorted(files))
            files[name] = mutated(r, files[name], list(files.values()), (words,) * (suffix == "txt"))
        if r.random() < 0.05:
            del files[r.choice(sorted(files))]
        return files

    def read(folder: Path) -> str | None:
        return _read_cameras(folder) if (folder / f"images.{suffix}").is_file() else None

    return Reader(make, read, 2)


def _run_json() -> Reader:
    listing = {"scene.ply": {"bytes": 3}, "scene/depth/a.png": {"bytes": 4}}

    def make(r: random.Random) -> Files:
        data = json_bytes(r, {"versions": {}, "files": listing})
        if r.random() < 0.1:
            data = json.dumps({"files": {"scene/" + "y/" * r.choice((2, 2000)) + "a": {"bytes": 1}}}).encode()
        return {"scene/run.json": data, "a.jpg": corpus("JPEG")[0]}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.images import discover
        from lite3r_cli.io.output_layout import files_of_run, is_complete, output_layout

        files_of_run(output_layout(folder / "scene.ply"))
        is_complete(folder / "scene.ply")
        return None if len(discover([folder])) == 1 else "the image is lost"

    return Reader(make, read)


@cache
def _weights() -> bytes:
    """A very small `mini` as it is saved."""
    import dataclasses

    import torch
    from safetensors.torch import save

    from lite3r_cli.networks.mini.network import Mini, MiniConfig

    torch.manual_seed(1)
    config = MiniConfig(
        24, 2, 1, taps=(0, 0, 1, 1), head_features=8, head_stages=(8,) * 4, camera_hidden=8, position_grid=3
    )
    state = {name: tensor.half() for name, tensor in Mini(config).state_dict().items()}
    attention = {"layers": ["blocks.1.attn"], "keep_ratio": 0.5, "keep_ratios": [0.5]}
    told = {"model": "mini", "config": dataclasses.asdict(config), "attention": attention, "distillation": {"a": 1}}
    return save(state, {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()})


def _header(r: random.Random, data: bytes) -> bytes:
    """Another header of a safetensors file, of the length that it says, or other metadata in it."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if r.random() < 0.6:
        told = header["__metadata__"]
        name = r.choice([key for key, text in told.items() if key != "model" and isinstance(text, str)])
        told[name] = json_bytes(r, json.loads(told[name])).decode("utf-8", "replace")
        new = json.dumps(header).encode()
    else:
        new = json_bytes(r, header)
    return len(new).to_bytes(8, "little") + new + data[8 + size :]


def _checkpoints() -> Reader:
    def make(r: random.Random) -> Files:
        names = list(json.loads(_weights()[8 : 8 + int.from_bytes(_weights()[:8], "little")]))
        weight_map = {name: "a.safetensors" for name in names if name != "__metadata__"}
        if r.random() < 0.3:
            index = json_bytes(r, {"metadata": {"total_size": 10}, "weight_map": weight_map})
            return {"a.safetensors": _weights(), "a.safetensors.index.json": index}
        return {"a.safetensors": mutated(r, _weights(), [_weights()], (_header,))}

    def read(folder: Path) -> str | None:
        from lite3r_cli.networks.checkpoint import open_checkpoint

        index = folder / "a.safetensors.index.json"
        with open_checkpoint(index if index.exists() else folder / "a.safetensors") as checkpoint:
            model = checkpoint.load()
            values = list(model.state_dict().values())
        return None if all(v.isfinite().all() for v in values) else "weights that are not finite"

    return Reader(make, read)


@dataclass(frozen=True)
class _TextCase:
    """Readers of small text files beside the pictures."""

    samples: tuple[bytes, ...] = field(
        default=(
            b"0 1 2 3 0 0 0 1\n1 1 2 3 0 0 0 1\n",
            b"50 0 24\n0 50 18\n0 0 1\n",
            b'{"K": [[50, 0, 24], [0, 50, 18], [0, 0, 1]]}',
            b"WGS84\n8.5 47.3 400 10 20 a.jpg p1\n8.6 47.3 400 11 20 a.jpg p2\n",
        )
    )

    def make(self, r: random.Random) -> Files:
        sample = r.choice(self.samples)
        return {"a.txt": words(r, sample) if r.random() < 0.7 else mutated(r, sample, self.samples)}

    def read(self, folder: Path) -> str | None:
        from lite3r_cli.errors import Lite3RError
        from lite3r_cli.io.control_points import read_control_points
        from lite3r_cli.io.intrinsics import read_intrinsics
        from lite3r_cli.io.tum import read_tum

        for reader in (read_tum, read_intrinsics, read_control_points):
            try:
                reader(folder / "a.txt")
            except Lite3RError:
                continue
        return None


def readers() -> dict[str, Reader]:
    """All readers by name. Building them imports the package."""
    text = _TextCase()
    return {
        **picture_readers(),
        "depth": _depth(),
        "cloud": _clouds(),
        "cameras": _own_cameras(),
        "transforms": _transforms(),
        "colmap_text": _colmap("txt"),
        "colmap_binary": _colmap("bin"),
        "run_json": _run_json(),
        "checkpoint": _checkpoints(),
        "text": Reader(text.make, text.read),
        **record_readers(),
        **scene_readers(),
        **set_readers(),
        **network_readers(),
    }


def write(folder: Path, files: Files) -> None:
    """Put the files of a case into an empty folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
