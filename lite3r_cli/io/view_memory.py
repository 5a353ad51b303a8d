"""memory/NAME.safetensors: data of a view for later runs, besides its camera and depth map.

    metadata    {"about": JSON of {"format": "lite3r-view-memory", "version": 1, "source": file of the picture}}
    confidence  (n) uint8, an 8-bit grey PNG of the depth map's size: 0 = no depth or masked, else logarithmic
    range       (2) float32, the confidence of the values 1 and 255
    points      (N, 2) float32, SIFT features in pixels of the picture at `size`; from here on only with --keep-memory
    descriptors (N, 128) uint8
    size        (2) int32, height and width
    thumbnail   (16, 16) float32, zero mean and unit norm

Files are untrusted: everything is checked before use.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from ..errors import InputError
from .codecs import png
from .files import write_bytes
from .names import can_be_a_path, printable
from .probe import probe
from .quick_png import quick_png
from .regular import BadImage, guarded, open_regular

FORMAT, VERSION = "lite3r-view-memory", 1
LEVELS = 255  # number of confidence values
MOST_BYTES, MOST_FEATURES, MOST_SIDE = 1 << 26, 100_000, 1 << 16
HASHED = 1 << 26  # bytes that enter the checksum: all of a photograph, the beginning of a video
_TYPES = {"F32": np.float32, "U8": np.uint8, "I32": np.int32}
_SHAPES: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "confidence": (np.uint8, (None,)), "range": (np.float32, (2,)), "points": (np.float32, (None, 2)),
    "descriptors": (np.uint8, (None, 128)), "size": (np.int32, (2,)), "thumbnail": (np.float32, (16, 16)),
}  # fmt: skip
_ALWAYS, _FEATURES = ("confidence", "range"), ("points", "descriptors", "size", "thumbnail")


@dataclass(frozen=True)
class Features:
    """Local features of one picture at the size (height, width) at which they were found."""

    points: np.ndarray  # (N, 2) float32
    descriptors: np.ndarray  # (N, 128) uint8, from SIFT
    size: tuple[int, int]
    thumbnail: np.ndarray  # (16, 16) float32, zero mean and unit norm


@dataclass(frozen=True)
class Source:
    """The source file of a view's picture."""

    path: str  # absolute
    bytes: int
    sha256: str  # of its first `HASHED` bytes
    frame: int | None = None  # of a video
    time: float | None = None  # of the frame: seconds from the start of the video
    stamp: tuple[int, int] | None = None  # of the file: time of the last change (nanoseconds since 1970), inode
    recorded: int | None = field(default=None, compare=False)  # when the file it was read from was written

    @property
    def identity(self) -> tuple[str, int, int | None]:
        """Identity of a picture, independent of its path: checksum, bytes, and number of a video frame."""
        return self.sha256, self.bytes, self.frame

    def unchanged(self, path: Path) -> bool:
        """Whether the file at `path` is unchanged. A file with the same stamp that nothing has touched since the record
        was written is not read, because checksums of thousands of photographs take minutes. A copy has another stamp
        and the same checksum. The time of the last touch itself (ctime) is not in the stamp: a hard link changes it,
        and two runs of the same photos write the same bytes.
        """
        try:
            now = path.stat()
            untouched = self.recorded is not None and now.st_ctime_ns < self.recorded
            same = untouched and _stamp(now) == self.stamp
            return now.st_size == self.bytes and (same or checksum(path) == self.sha256)
        except OSError:
            return False


@dataclass(frozen=True)
class ViewMemory:
    """The content of one file."""

    confidence: np.ndarray  # (h, w) float32, 0 where depth is unknown or masked
    source: Source | None = None  # None: the picture was an array
    features: Features | None = None


def checksum(path: Path) -> str:
    """SHA-256 of a file's first `HASHED` bytes. Raises OSError."""
    digest, left = hashlib.sha256(), HASHED
    with open(path, "rb") as stream:
        while left > 0 and (block := stream.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def source_of(path: Path, frame: int | None = None, time: float | None = None) -> Source | None:
    """The record of a picture's file; None if it is missing."""
    try:
        seen = path.stat()
        return Source(os.path.abspath(path), seen.st_size, checksum(path), frame, time, _stamp(seen))
    except OSError:
        return None


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ino


def write_memory(path: Path, memory: ViewMemory) -> None:
    """Write the file. Raises OutputError."""
    codes, span = _coded(memory.confidence)
    arrays: dict[str, np.ndarray] = {
        "confidence": np.frombuffer(quick_png(codes), np.uint8),
        "range": np.array(span, np.float32),
    }
    if (found := memory.features) is not None:
        arrays |= {
            "points": np.ascontiguousarray(found.points, np.float32),
            "descriptors": np.ascontiguousarray(found.descriptors, np.uint8),
            "size": np.array(found.size, np.int32),
            "thumbnail": np.ascontiguousarray(found.thumbnail, np.float32),
        }
    source = None if memory.source is None else asdict(memory.source)
    if source is not None:
        del source["recorded"]
    about = {"format": FORMAT, "version": VERSION, "source": source}  # one text: their order is random
    write_bytes(path, save(arrays, {"about": json.dumps(about)}))


def read_memory(path: Path, shape: tuple[int, int]) -> ViewMemory:
    """The memory of a view whose depth map is of `shape` (h, w). Raises InputError that names the file."""
    try:
        data, written = _bytes(path)
        about, arrays = _parsed(data)
        span = arrays["range"]
        if not (np.isfinite(span).all() and 0 < span[0] <= span[1]):
            raise BadImage("its range of confidence is none")
        codes = _picture(arrays["confidence"].tobytes(), shape)
        features = _features(arrays) if "points" in arrays else None
        return ViewMemory(_decoded(codes, span), _source(about.get("source"), written), features)
    except BadImage as error:
        raise InputError(
            f"{printable(path)}: cannot be used: {error}; remove it, or reconstruct the scene again"
        ) from error


# --- inside -----------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> tuple[bytes, int]:
    """The content of a file, and when it was written (nanoseconds since 1970)."""
    with guarded("cannot be read"), open_regular(path) as stream:
        status = os.fstat(stream.fileno())
        if status.st_size > MOST_BYTES:
            raise BadImage(f"larger than {MOST_BYTES >> 20} MB")
        return stream.read(), status.st_mtime_ns


def _parsed(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and the arrays, with checked types and shapes."""
    try:
        found = deserialize(data)
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = json.loads((head.get("__metadata__") or {}).get("about", "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise BadImage("it is damaged, or no safetensors file") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise BadImage("it is no memory of a view")
    if about.get("version") != VERSION:
        raise BadImage(f"it is of version {printable(about.get('version'))[:20]}, known is {VERSION}")
    arrays = {}
    for name, entry in found:
        kind, shape = _SHAPES.get(name, (None, ()))
        size = tuple(entry["shape"])
        fits = len(size) == len(shape) and all(b is None or a == b for a, b in zip(size, shape))
        if kind is None or _TYPES.get(entry["dtype"]) is not kind or not fits:
            raise BadImage(f"{printable(name)[:40]} is no array that belongs there")
        arrays[name] = np.frombuffer(entry["data"], kind).reshape(size).copy()
    some = [name in arrays for name in _FEATURES]
    if not all(name in arrays for name in _ALWAYS) or any(some) != all(some):
        raise BadImage("arrays are missing")
    return about, arrays


def _features(arrays: dict[str, np.ndarray]) -> Features:
    points, descriptors, thumbnail = arrays["points"], arrays["descriptors"], arrays["thumbnail"]
    height, width = (int(side) for side in arrays["size"])
    if len(points) != len(descriptors) or len(points) > MOST_FEATURES:
        raise BadImage("its features are not as many as their places")
    if not (0 < height <= MOST_SIDE and 0 < width <= MOST_SIDE and np.isfinite(thumbnail).all()):
        raise BadImage("its features are of no image")
    if not (np.isfinite(points).all() and (points >= -1).all() and (points <= [width, height]).all()):
        raise BadImage("its features lie outside of the image")
    return Features(points, descriptors, (height, width), thumbnail)


def _source(found: Any, written: int) -> Source | None:
    if found is None:
        return None
    try:
        stamp = found.get("stamp")  # missing in files of earlier versions
        known = None if stamp is None else (stamp[0], stamp[1])
        source = Source(found["path"], found["bytes"], found["sha256"], found["frame"], found["time"], known, written)
    except (AttributeError, IndexError, TypeError, KeyError) as error:
        raise BadImage("it does not say where the image came from") from error
    numbers = type(source.bytes) is int and type(source.frame) in (int, type(None))
    numbers = numbers and all(type(value) is int for value in source.stamp or ())
    numbers = numbers and (source.time is None or (type(source.time) in (int, float) and math.isfinite(source.time)))
    if not (numbers and isinstance(source.path, str) and can_be_a_path(source.path) and isinstance(source.sha256, str)):
        raise BadImage("it does not say where the image came from")
    return source


def _picture(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    """The decoded picture; its header is checked first."""
    header = probe(io.BytesIO(data))
    if header.format != "png" or (header.detail.depth, header.detail.colour) != (8, png.GREY):
        raise BadImage("its confidence is another kind of image")
    if (header.height, header.width) != shape:
        raise BadImage(f"its confidence has {header.width}x{header.height} pixels, its depth {shape[1]}x{shape[0]}")
    with guarded("its confidence is damaged"):
        return png.decode(data, header)


def _coded(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Positive values as 1 … LEVELS on a logarithmic scale, 0 = none; the values of 1 and LEVELS."""
    known = np.isfinite(values) & (values > 0)
    if not known.any():
        return np.zeros(values.shape, np.uint8), (1.0, 1.0)
    some = values[known]
    low, high = float(some.min()), float(some.max())
    step = max(np.log(high / low), 1e-12) / (LEVELS - 1)
    logs = np.where(known, values, np.float32(low))
    logs *= np.float32(1 / low)
    np.log(logs, out=logs)
    logs *= np.float32(1 / step)
    codes = np.clip(np.rint(logs, out=logs) + 1, 1, LEVELS).astype(np.uint8)
    codes *= known
    return codes, (low, high)


def _decoded(codes: np.ndarray, span: np.ndarray) -> np.ndarray:
    low, high = (float(value) for value in span)
    table = np.concatenate([[0.0], low * np.exp(np.linspace(0, np.log(high / low), LEVELS))]).astype(np.float32)
    return table[codes]
