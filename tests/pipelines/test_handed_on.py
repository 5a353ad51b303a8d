"""A video, turned photos of a phone, and two sub-folders with equal names: what COLMAP, nerfstudio, a GLB viewer and a
browser are given of each. All of them read pixels without EXIF.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.cli import main
from lite3r_cli.io.foreign_cameras import read_known_cameras

WIDTH, HEIGHT = 96, 128  # upright
SKY, GROUND = (60, 90, 220), (200, 60, 40)  # RGB of the upper and of the lower half
LINEAR_SKY, LINEAR_GROUND = (0.045, 0.102, 0.716), (0.578, 0.045, 0.021)  # the same as linear light (IEC 61966-2-1)


def upright() -> np.ndarray:
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    picture[: HEIGHT // 2], picture[HEIGHT // 2 :] = SKY, GROUND
    return picture


def a_video(folder: Path) -> Path:
    writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    for _ in range(6):
        writer.write(upright()[..., ::-1].copy())
    writer.release()
    return folder / "clip.mp4"


def turned_photos(folder: Path) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    for orientation, turns in ((1, 0), (6, 1), (8, 3), (3, 2)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.rot90(upright(), turns).copy())
        suffix = "heic" if orientation != 3 else "jpg"
        (folder / "phone").mkdir(exist_ok=True)
        stored.save(folder / "phone" / f"IMG_{orientation}.{suffix}", exif=exif.tobytes(), quality=95)
    return folder / "phone"


def equal_names(folder: Path) -> Path:
    for place in ("left", "right"):
        (folder / "both" / place).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(upright()).save(folder / "both" / place / f"000{k}.png")
    return folder / "both"


@pytest.mark.parametrize("made", [a_video, turned_photos, equal_names])
def test_every_program_gets_upright_pictures_that_fit(made: Callable[[Path], Path], tmp_path, plane_backbone) -> None:
    out = tmp_path / "out"
    words = ["reconstruct", made(tmp_path), "-o", f"{out}/", "--resolution", "112", "--recursive", "--max-views", "4"]
    for name in ("colmap", "nerfstudio", "glb", "html"):
        words += ["-f", name]
    assert main([str(word) for word in [*words, "--keep-unrelated", "-q"]]) == 0

    cameras = read_known_cameras(out / "sparse/0")
    names = sorted(camera.name for camera in cameras)
    assert len(cameras) >= 3
    for camera in cameras:
        check_picture(out / "images" / camera.name, camera.width, camera.height)
    if made is equal_names:
        assert names == ["left/0000.png", "left/0001.png", "right/0000.png", "right/0001.png"]

    transforms = json.loads((out / "transforms.json").read_text())
    assert len(transforms["frames"]) == len(cameras)
    for frame in transforms["frames"]:
        assert not Path(frame["file_path"]).is_absolute() and ".." not in Path(frame["file_path"]).parts
        check_picture(out / frame["file_path"], *(frame.get(key, transforms.get(key)) for key in ("w", "h")))

    distance = np.linalg.norm(light_of(out / "scene.glb")[:, None] - [LINEAR_SKY, LINEAR_GROUND], axis=-1).min(axis=1)
    assert np.median(distance) < 0.03

    page = re.findall(r'id="scene">(.*?)</script>', (out / "view.html").read_text(), re.S)[0]
    shown = json.loads(page)["cameras"]
    assert {camera["name"] for camera in shown} == set(json.loads((out / "cameras.json").read_text())["images"])
    assert all(camera["picture"] for camera in shown)


def light_of(path: Path) -> np.ndarray:
    """The points' colours (N, 3) in a GLB, from 0 to 1."""
    data = path.read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    (points,) = (mesh["primitives"][0] for mesh in document["meshes"] if mesh["name"] == "points")
    accessor = document["accessors"][points["attributes"]["COLOR_0"]]
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    return np.frombuffer(binary, np.uint16, accessor["count"] * 4, start).reshape(-1, 4)[:, :3] / 65535


def check_picture(path: Path, width: int, height: int) -> None:
    """The file has the camera's size, and sky above."""
    assert path.suffix.lower() in (".jpg", ".png")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape == (height, width, 3) == (HEIGHT, WIDTH, 3), path
    for rows, colour in ((slice(4, 40), SKY), (slice(-40, -4), GROUND)):
        assert np.abs(pixels[rows].mean((0, 1)) - colour).max() < 25, path
