"""Cameras and poses of a COLMAP model, binary or text. Points are not read.

Every count in a file is compared with the remaining size of the file before it is used. Names are bytes.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from ..scene.distortion import MODELS
from ..scene.geometry import matrix_from_quaternion
from ..scene.posed_view import View
from . import camera_fields as fields
from .documents import UTF16, read_text
from .names import printable
from .regular import BadImage, open_regular

MODEL_NAMES = (  # in the order of COLMAP's ids
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE", "SIMPLE_DIVISION",
    "DIVISION", "SIMPLE_FISHEYE", "FISHEYE", "EUCM", "EQUIRECTANGULAR",
)  # fmt: skip
_COUNTS = {name: MODELS[name].count if name in MODELS else 2 for name in MODEL_NAMES}
_MAX_NAME = 4096  # bytes, the longest path of common systems
_LONGEST_LINE = 1 << 26  # of text: all observations of an image are in one line
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LARGEST_ID = 2**32 - 1  # the binary files hold ids in 32 bits
_QUATERNION_TOLERANCE = 1e-2


@dataclass(frozen=True)
class _Camera:
    model: str
    width: int
    height: int
    params: tuple[float, ...]


def read_colmap_model(folder: Path) -> list[View]:
    """The registered images of a model, with their folders in the names. Raises InputError that names
    file and record.
    """
    suffix = "bin" if (folder / "images.bin").is_file() else "txt"
    cameras_file, images_file = folder / f"cameras.{suffix}", folder / f"images.{suffix}"
    read_cameras, read_images = (_cameras, _images) if suffix == "bin" else (_text_cameras, _text_images)
    with _opened(cameras_file) as stream:
        cameras = dict(read_cameras(_Reader(cameras_file, stream)))
    with _opened(images_file) as stream:
        return [_view(images_file, cameras, *image) for image in read_images(_Reader(images_file, stream))]


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error


def _view(path: Path, cameras: dict[int, _Camera], name: bytes, pose: tuple[float, ...], camera_id: int) -> View:
    text = printable(os.fsdecode(name))
    where = f"{printable(path)}: {text[:80]}"
    camera = cameras.get(camera_id)
    if camera is None:
        raise InputError(f"{where}: its camera {camera_id} is not in the model")
    size = camera.width, camera.height
    fields.require_size(where, size)
    K, lens = fields.lens(where, camera.model, camera.params, size)
    w, x, y, z, *translation = pose
    quaternion = np.array([x, y, z, w])
    norm = np.linalg.norm(np.clip(quaternion, -2, 2))
    if not (np.isfinite(pose).all() and abs(norm - 1) < _QUATERNION_TOLERANCE):
        raise InputError(f"{where}: its rotation is no unit quaternion")
    rotation = matrix_from_quaternion(quaternion / norm)
    cam_from_world = np.hstack([rotation, np.array(translation)[:, None]])
    return fields.camera(where, text, size, K, cam_from_world, lens)


def _made(where: str, model: str, width: int, height: int, values: tuple[float, ...]) -> _Camera:
    if len(values) != _COUNTS[model]:
        raise InputError(f"{where}: a {model} camera has {_COUNTS[model]} parameters, not {len(values)}")
    return _Camera(model, width, height, values)


class _Reader:
    """A stream that knows its remaining size, and names its file in errors."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.where, self.stream = path, printable(path), stream
        self.size = os.fstat(stream.fileno()).st_size

    @property
    def left(self) -> int:
        return self.size - self.stream.tell()

    def unpack(self, layout: str) -> tuple:
        length = struct.calcsize(layout)
        data = self.stream.read(length)
        if len(data) < length:
            raise InputError(f"{self.where}: ends inside a record: not a whole COLMAP model")
        return struct.unpack(layout, data)

    def count(self, smallest: int) -> int:
        """A number of records of at least `smallest` bytes each. Raises InputError if they do not fit in the file."""
        (count,) = self.unpack("<Q")
        if count * smallest > self.left:
            raise InputError(f"{self.where}: promises {count} records, for which it is too short: damaged")
        return count

    def name(self) -> bytes:
        start = self.stream.tell()
        data = self.stream.read(_MAX_NAME + 1)
        end = data.find(b"\0")
        if end < 1:
            raise InputError(f"{self.where}: a record without the name of its image: damaged")
        self.stream.seek(start + end + 1)
        return data[:end]

    def lines(self) -> Iterator[bytes]:
        """The lines without their ends, including comments and empty lines."""
        stream = self.stream
        if stream.read(2) in UTF16:
            stream = io.BytesIO(read_text(self.path).encode())
        stream.seek(0)
        while line := stream.readline(_LONGEST_LINE).removeprefix(_BYTE_ORDER_MARK):
            if len(line) == _LONGEST_LINE:
                raise InputError(f"{self.where}: a line is longer than {_LONGEST_LINE >> 20} MB")
            yield line.rstrip(b"\r\n")


def _cameras(reader: _Reader) -> Iterator[tuple[int, _Camera]]:
    for _ in range(reader.count(24)):
        number, model_id, width, height = reader.unpack("<IiQQ")
        where = f"{reader.where}: camera {number}"
        model = MODEL_NAMES[model_id] if 0 <= model_id < len(MODEL_NAMES) else None
        if model is None:
            raise InputError(f"{where}: is of model {model_id}, which COLMAP does not have: damaged, or too new")
        yield number, _made(where, model, width, height, reader.unpack(f"<{_COUNTS[model]}d"))


def _images(reader: _Reader) -> Iterator[tuple[bytes, tuple[float, ...], int]]:
    for _ in range(reader.count(74)):
        _, *pose, camera = reader.unpack("<I7dI")
        name = reader.name()
        observations = reader.count(24)
        reader.stream.seek(24 * observations, os.SEEK_CUR)
        yield name, tuple(pose), camera


def _text_cameras(reader: _Reader) -> Iterator[tuple[int, _Camera]]:
    for line in reader.lines():
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        number, name, width, height, *values = _words(reader.where, line, 4)
        camera_id = _whole(reader.where, "a camera's id", number)
        where = f"{reader.where}: camera {camera_id}"
        model = name.decode("latin-1")
        if model not in _COUNTS:
            raise InputError(f"{where}: is of model {printable(model)[:40]}, which COLMAP does not have")
        size = _whole(where, "its width", width), _whole(where, "its height", height)
        yield camera_id, _made(where, model, *size, tuple(_float(where, value) for value in values))


def _text_images(reader: _Reader) -> Iterator[tuple[bytes, tuple[float, ...], int]]:
    """Two lines per image: its camera and pose, then its observations, which may be empty."""
    numbered = enumerate(reader.lines(), 1)
    lines = ((number, line) for number, line in numbered if not line.lstrip().startswith(b"#"))
    for _, line in lines:
        if not line.strip():
            continue
        _, *pose, camera, name = _words(reader.where, line, 10, 9)
        where = f"{reader.where}: {printable(os.fsdecode(name))[:80]}"
        yield name.strip(), tuple(_float(where, value) for value in pose), _whole(where, "its camera", camera)
        number, points = next(lines, (0, b""))
        if not _are_observations(points.split()):
            raise InputError(
                f"{reader.where}: line {number}: has to be the points of the image above (x y id each): an image takes"
                " two lines, the second is empty without points; put the empty lines back, or export the model anew"
            )


def _are_observations(words: list[bytes]) -> bool:
    """Whether words can be the triples x, y, point; in long lists only the ends are checked."""
    try:
        return len(words) % 3 == 0 and all(map(np.isfinite, map(float, words[:30] + words[-3:])))
    except ValueError:
        return False


def _words(where: str, line: bytes, least: int, most: int = -1) -> list[bytes]:
    words = line.split(None, most)
    if len(words) < least:
        raise InputError(f"{where}: a line of {len(words)} words where COLMAP writes {least} or more")
    return words


def _whole(where: str, what: str, word: bytes) -> int:
    if not word.isdigit() or len(word) > 19 or int(word) > _LARGEST_ID:
        found = printable(word[:40].decode("latin-1"))
        raise InputError(f"{where}: {what} has to be a whole number from 0 to {_LARGEST_ID}, not {found}")
    return int(word)


def _float(where: str, word: bytes) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise InputError(f"{where}: {printable(word[:40].decode('latin-1'))} is no number") from error
