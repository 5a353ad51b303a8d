"""`scene.las` and `scene.laz`: the cloud for survey software, LAS 1.4 (ASPRS), point format 7.

Heights are along +z. A georeferenced cloud is in its UTM zone (polar stereographic beyond 84° N and 80° S), which the
file names as WKT; another one is in the frame of the scene, rotated so that z is up.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from .files import write_bytes
from .scene_export import SceneExport

if TYPE_CHECKING:
    import laspy

FINEST = 1e-4  # metres, the step of coordinates
STEPS = 1e9  # the scene's extent must fit in this number of steps, because coordinates have 32 bits
UTM_NORTH, UTM_SOUTH, UPS_NORTH, UPS_SOUTH = 32600, 32700, 5041, 5042  # EPSG, the UTM's plus the zone
CHUNK = 1_000_000  # points that are converted at a time


def write_las(scene: SceneExport) -> list[Path]:
    """Write scene.las and return it. Raises OutputError."""
    return [_write(scene, "scene.las", compressed=False)]


def write_laz(scene: SceneExport) -> list[Path]:
    """Write scene.laz and return it. Raises OutputError."""
    return [_write(scene, "scene.laz", compressed=True)]


def utm_code(latitude: float, longitude: float) -> int:
    """EPSG code of the UTM zone of a place in degrees, or of the polar projections."""
    if latitude >= 84:
        return UPS_NORTH
    if latitude < -80:
        return UPS_SOUTH
    zone = int((longitude + 180) // 6) % 60 + 1
    return (UTM_NORTH if latitude >= 0 else UTM_SOUTH) + zone


def _write(scene: SceneExport, name: str, compressed: bool) -> Path:
    import io

    import laspy

    points, code = _placed(scene)
    header = _header(points, scene.frame.metric, code)
    stream = io.BytesIO()
    with laspy.open(stream, mode="w", header=header, do_compress=compressed, closefd=False) as writer:
        for start in range(0, len(points), CHUNK):
            part = slice(start, start + CHUNK)
            record = laspy.ScaleAwarePointRecord.zeros(len(points[part]), header=header)
            record.x, record.y, record.z = points[part].T
            red, green, blue = scene.cloud.colors[part].astype(np.uint16).T * 257  # LAS has 16 bits a channel
            record.red, record.green, record.blue = red, green, blue
            record.confidence = scene.cloud.confidence[part]
            writer.write_points(record)
    path = scene.directory / name
    write_bytes(path, stream.getbuffer())
    return path


def _placed(scene: SceneExport) -> tuple[np.ndarray, int | None]:
    """(N, 3) float64 points with z up, and the EPSG code of their coordinates if they have a location on Earth."""
    points = scene.cloud.points.astype(np.float64)
    if scene.geographic is not None:
        import pyproj

        latitude, longitude, _ = scene.geographic(np.zeros((1, 3)))[0]  # of the frame's origin
        code = utm_code(latitude, longitude)
        places = scene.geographic(points)
        project = pyproj.Transformer.from_crs("EPSG:4326", f"EPSG:{code}", always_xy=True)
        east, north = project.transform(places[:, 1], places[:, 0])
        return np.column_stack([east, north, places[:, 2]]), code
    return points if scene.upright is None else scene.upright.apply(points), None


def _header(points: np.ndarray, metric: bool, code: int | None) -> laspy.LasHeader:
    import laspy

    header = laspy.LasHeader(version="1.4", point_format=7)
    low, high = (points.min(axis=0), points.max(axis=0)) if len(points) else (np.zeros(3), np.ones(3))
    step = 10.0 ** math.ceil(math.log10(max(float((high - low).max()), 1e-12) / STEPS))
    step = max(step, FINEST) if metric else step
    header.scales = np.full(3, step)
    header.offsets = np.floor(low / (1e6 * step)) * (1e6 * step)  # round numbers
    header.generating_software = f"lite3r {__version__}"
    header.system_identifier = "photogrammetry"
    header.add_extra_dim(laspy.ExtraBytesParams("confidence", np.float32, "of the network, 1 and more"))
    if code is not None:
        import pyproj

        header.add_crs(pyproj.CRS.from_epsg(code), keep_compatibility=False)
    return header
