"""Ground control points: OpenDroneMap's `gcp_list.txt`.

The first line names the coordinate system, every other line is `x y z u v image [name]`: a surveyed point, and its
pixel in an image. EPSG:4326 is longitude and latitude in degrees, LOCAL any metric frame with z up; other systems
(EPSG:…, WGS84 UTM 32N, +proj=…) need pyproj. Heights are not converted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..extras import require
from .documents import read_text, require_file
from .names import printable

_MOST = 100_000  # lines


@dataclass(frozen=True)
class ControlPoint:
    """A surveyed point and the images that show it."""

    name: str
    position: np.ndarray  # (3,) latitude, longitude and height, or x, y and z of a local frame
    marks: tuple[tuple[str, float, float], ...]  # picture, x and y in pixels


@dataclass(frozen=True)
class ControlPoints:
    points: list[ControlPoint]
    local: bool  # positions are in a metric frame without a location on the Earth


def read_control_points(path: Path) -> ControlPoints:
    """Raises UsageError for a missing file, InputError that names the line of malformed content, BackendError if
    pyproj is needed.
    """
    require_file(path, "it takes a gcp_list.txt of OpenDroneMap", "--gcp")
    lines = [line.split("#")[0].strip() for line in read_text(path).splitlines()[:_MOST]]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    if len(numbered) < 2:
        raise InputError(f"{printable(path)}: has to name the coordinates' system, then a line for each mark")
    system = numbered[0][1]
    marks: dict[tuple[str, float, float, float], list[tuple[str, float, float]]] = {}
    for number, line in numbered[1:]:
        words = line.split()
        where = f"{printable(path)}: line {number}"
        if len(words) < 6:
            raise InputError(f"{where}: has to be x y z u v image, then a name if wanted")
        x, y, z, u, v = (_number(where, word) for word in words[:5])
        name = words[6] if len(words) > 6 else f"{words[0]},{words[1]}"
        marks.setdefault((printable(name)[:60], x, y, z), []).append((words[5], u, v))
    xyz = np.array([key[1:] for key in marks])
    positions, local = _positions(path, system, xyz)
    points = [
        ControlPoint(key[0], position, tuple(seen))
        for (key, seen), position in zip(marks.items(), positions, strict=True)
    ]
    return ControlPoints(points, local)


def _number(where: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:
        raise InputError(f"{where}: {printable(word)[:40]} is no number that a coordinate could be")
    return value


def _positions(path: Path, system: str, xyz: np.ndarray) -> tuple[np.ndarray, bool]:
    """Latitude, longitude, height (N, 3) and False; or the unchanged coordinates and True."""
    plain = system.upper().replace(" ", "")
    if plain == "LOCAL":
        return xyz, True
    if plain not in ("EPSG:4326", "WGS84"):
        xyz = _to_degrees(path, system, xyz)
    if (np.abs(xyz[:, 1]) > 90).any() or (np.abs(xyz[:, 0]) > 360).any():
        raise InputError(
            f"{printable(path)}: {printable(system)[:40]} has longitude and latitude in degrees, in this order"
        )
    return xyz[:, [1, 0, 2]], False


def _to_degrees(path: Path, system: str, xyz: np.ndarray) -> np.ndarray:
    require("pyproj", f"{printable(path)}: the coordinates' system {printable(system)[:40]}")
    import pyproj

    zone = re.fullmatch(r"WGS84\s*UTM\s*(\d{1,2})\s*([NS])", system.strip(), re.IGNORECASE)
    code = f"EPSG:{32600 + 100 * (zone[2].upper() == 'S') + int(zone[1])}" if zone else system
    try:
        transformer = pyproj.Transformer.from_crs(pyproj.CRS.from_user_input(code), "EPSG:4326", always_xy=True)
    except pyproj.exceptions.CRSError as error:
        raise InputError(
            f"{printable(path)}: {printable(system)[:60]} is no coordinate system that is known"
        ) from error
    longitude, latitude = transformer.transform(xyz[:, 0], xyz[:, 1])
    return np.stack([longitude, latitude, xyz[:, 2]], axis=-1)
