"""The point cloud as binary PLY: `x y z` float32 (double in the frame of a map), `red green blue` uchar, and
`confidence` float32.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from plyfile import PlyData, PlyElement

from ..errors import InputError
from ..scene.frame import FIRST_CAMERA
from ..scene.posed_view import PointCloud
from .files import write_bytes
from .names import header_line
from .regular import BadImage, open_regular

VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
# in a map frame single precision would round to decimetres
FAR_VERTEX = np.dtype([(field[0], "<f8" if field[0] in "xyz" else field[1]) for field in VERTEX.descr])


MOST_LISTS = 100_000  # of other elements


def write_ply(path: Path, cloud: PointCloud, comments: Sequence[str] = FIRST_CAMERA.comments()) -> None:
    """Write `cloud` (may be empty) as little-endian PLY; float64 coordinates are written as doubles.

    `comments` in the header state frame and units.

    Raises OutputError.
    """
    vertices = np.empty(len(cloud), dtype=VERTEX if cloud.points.dtype != np.float64 else FAR_VERTEX)
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colors[:, channel]
    vertices["confidence"] = cloud.confidence
    lines = [header_line(comment) for comment in comments]
    head = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=lines).header
    write_bytes(path, f"{head}\n".encode("ascii"), vertices.view(np.uint8).data)


def read_ply(path: Path) -> PointCloud:
    """Read a cloud that `write_ply` wrote (or any PLY with the same vertex properties). Raises InputError."""
    try:
        with open_regular(Path(path)) as stream:
            _require_quick(stream)
            ply = PlyData.read(stream, mmap="r")  # otherwise values are read one by one
    except BadImage as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # the parser raises many types for a hostile header
        why = "no text at its start" if isinstance(error, UnicodeError) else " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a valid PLY file: {why}") from error
    if "vertex" not in ply:
        raise InputError(f"{path}: has no element `vertex`")
    vertices = ply["vertex"].data
    missing = [name for name in VERTEX.names or () if name not in (vertices.dtype.names or ())]
    if missing:
        raise InputError(f"{path}: its vertices lack {', '.join(missing)}")
    colors = np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1)
    if colors.dtype.kind not in "iu" or colors.min(initial=0) < 0 or colors.max(initial=0) > 255:
        raise InputError(f"{path}: its colours are no whole numbers from 0 to 255")
    with np.errstate(over="ignore"):  # a double beyond single precision becomes infinite
        points = np.stack([vertices[name] for name in "xyz"], axis=1).astype(np.float32)
    return PointCloud(
        points=points,
        colors=colors.astype(np.uint8),
        confidence=np.array(vertices["confidence"], dtype=np.float32),
    )


def _require_quick(stream: BinaryIO) -> None:
    """Raises BadImage for a header with more elements than the file has bytes, because they would be allocated, and
    for vertices with lists or many faces, which would be read one by one.
    """
    size = os.fstat(stream.fileno()).st_size
    head = stream.read(1 << 16).partition(b"end_header")[0]
    elements = re.findall(rb"element\s+(\S+)\s+(\d+)((?:(?!element\s).)*)", head, re.DOTALL)
    if any(len(count) > 18 for _, count, _ in elements) or sum(int(count) for _, count, _ in elements) > size:
        raise BadImage("its header promises more than the file holds")
    for name, count, properties in elements:
        if re.search(rb"property\s+list\s", properties):
            if name == b"vertex":
                raise BadImage("its vertices hold lists, not numbers")
            if int(count) > MOST_LISTS:
                raise BadImage(f"it holds {int(count)} lists, e.g. of faces; save it as points alone")
    stream.seek(0)
