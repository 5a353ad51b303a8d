"""A GLB of points and cameras for model viewers, browsers and Blender (glTF 2.0).

glTF axes: +x right, +y up, +z towards the viewer; so the world of the PLY file is rotated by 180° about x. Vertex
colours are linear in glTF and sRGB in images: they are converted and stored in 16 bits, because 8 bits would give bands
in dark tones. Materials are unlit. Each camera is a node with the name of the image, a drawing of its frustum and a
glTF camera; it looks along its -z axis with +y up. Positions are quantised to 16 bits (KHR_mesh_quantization).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..scene.geometry import camera_centres, invert_pose
from ..scene.posed_view import PointCloud, View
from .files import write_bytes
from .frusta import ACCENT, EDGES, frustum, frustum_depth
from .scene_export import SceneExport

GLTF_AXES = np.array([1.0, -1.0, -1.0])  # relative to OpenCV's
MOST_POINTS = 300_000  # 16 bytes each
FAR = 3.0  # points beyond this many boxes of 98 % of the points are left out: viewers show the whole box
POINTS, LINES = 0, 1  # modes of a primitive
USHORT, FLOAT = 5123, 5126  # types of a component
LEVELS = 65535


class Buffer:
    """Accessors over one binary chunk."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(
        self,
        values: np.ndarray,
        kind: int,
        shape: str,
        *,
        normalized: bool = False,
        stride: int = 0,
        target: int = 34962,
    ) -> int:
        """An accessor of `values` (N, n), each row at `stride` bytes; returns its index."""
        rows = np.zeros((len(values), stride or values.dtype.itemsize * values.shape[1]), np.uint8)
        packed = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        rows[:, : packed.shape[1]] = packed
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": rows.size, "target": target}
        if stride:
            view["byteStride"] = stride
        self.data += rows.tobytes() + bytes(-rows.size % 4)
        self.views.append(view)
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": kind,
            "count": len(values),
            "type": shape,
            **({"normalized": True} if normalized else {}),
        }
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def raw(self, data: bytes) -> int:
        """A view of bytes that no accessor uses, such as an image; returns its index."""
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)})
        self.data += data + bytes(-len(data) % 4)
        return len(self.views) - 1

    def bounds(self, accessor: int, values: np.ndarray) -> None:
        """Minimum and maximum of positions, which glTF requires."""
        numbers = float if values.dtype.kind == "f" else int
        self.accessors[accessor]["min"] = [numbers(v) for v in values.min(0)]
        self.accessors[accessor]["max"] = [numbers(v) for v in values.max(0)]


def write_glb(scene: SceneExport) -> list[Path]:
    """Write scene.glb and return it. Raises OutputError."""
    buffer = Buffer()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "lite3r"},
        "scene": 0,
        "scenes": [{"nodes": []}],
        "nodes": [],
        "materials": [{"name": "unlit", "extensions": {"KHR_materials_unlit": {}}}],
        "extensionsUsed": ["KHR_materials_unlit"],
    }
    cloud = for_viewing(scene.cloud, scene.views)
    if len(cloud):
        _add_points(document, buffer, cloud)
    _add_cameras(document, buffer, scene.views, frustum_depth(scene.views, cloud))
    children = {child for node in document["nodes"] for child in node.get("children", ())}
    document["scenes"][0]["nodes"] = [i for i in range(len(document["nodes"])) if i not in children]
    if buffer.data:
        document |= {"buffers": [{"byteLength": len(buffer.data)}], "bufferViews": buffer.views}
        document["accessors"] = buffer.accessors
    path = scene.directory / "scene.glb"
    write_bytes(path, container(document, bytes(buffer.data)))
    return [path]


def for_viewing(cloud: PointCloud, views: Sequence[View], most: int = MOST_POINTS) -> PointCloud:
    """At most `most` points, evenly by index, without outliers that would make a viewer zoom out."""
    if len(cloud) == 0:
        return cloud
    low, high = np.percentile(cloud.points[:: max(1, len(cloud) // 100_000)], (1, 99), axis=0)
    centres = camera_centres(np.stack([view.cam_from_world for view in views]))
    low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    reach = FAR * (high - low).max() / 2
    near = np.flatnonzero((np.abs(cloud.points - (low + high) / 2) <= reach).all(1))
    count = min(len(near), most)
    kept = near[np.arange(count) * len(near) // max(count, 1)]
    return PointCloud(cloud.points[kept], cloud.colors[kept], cloud.confidence[kept])


def linear(colors: np.ndarray) -> np.ndarray:
    """sRGB (N, 3) uint8 → linear light, uint16 (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return np.round(table * LEVELS).astype(np.uint16)[colors]


def _add_points(document: dict[str, Any], buffer: Buffer, cloud: PointCloud) -> None:
    points = cloud.points.astype(np.float64) * GLTF_AXES
    low, size = points.min(0), float((points.max(0) - points.min(0)).max()) or 1.0
    places = np.round((points - low) / size * LEVELS).astype(np.uint16)
    position = buffer.add(places, USHORT, "VEC3", stride=8)
    buffer.bounds(position, places)
    color = buffer.add(linear(cloud.colors), USHORT, "VEC3", normalized=True, stride=8)
    primitive = {"attributes": {"POSITION": position, "COLOR_0": color}, "mode": POINTS, "material": 0}
    document["meshes"] = [{"name": "points", "primitives": [primitive]}]
    scale = size / LEVELS
    document["nodes"].append({"name": "points", "mesh": 0, "translation": low.tolist(), "scale": [scale] * 3})
    document["extensionsUsed"].append("KHR_mesh_quantization")
    document["extensionsRequired"] = ["KHR_mesh_quantization"]


def _add_cameras(document: dict[str, Any], buffer: Buffer, views: Sequence[View], depth: float) -> None:
    document["cameras"] = []
    meshes = document.setdefault("meshes", [])
    accent = linear(np.array([ACCENT], np.uint8))
    for index, view in enumerate(views):
        corners = (frustum(view, depth) * GLTF_AXES)[EDGES].reshape(-1, 3).astype(np.float32)
        position = buffer.add(corners, FLOAT, "VEC3")
        buffer.bounds(position, corners)
        color = buffer.add(np.repeat(accent, len(corners), 0), USHORT, "VEC3", normalized=True, stride=8)
        primitive = {"attributes": {"POSITION": position, "COLOR_0": color}, "mode": LINES, "material": 0}
        meshes.append({"name": f"frustum {index}", "primitives": [primitive]})
        lens = {
            "yfov": 2 * math.atan(view.height / 2 / float(view.K[1, 1])),
            "aspectRatio": view.width / view.height * float(view.K[1, 1] / view.K[0, 0]),
            "znear": depth * 1e-3,
        }
        document["cameras"].append({"type": "perspective", "perspective": lens})
        pose = np.eye(4)
        pose[:3] = GLTF_AXES[:, None] * invert_pose(view.cam_from_world) * [*GLTF_AXES, 1.0]
        node = {
            "name": f"camera {view.name}",
            "mesh": len(meshes) - 1,
            "matrix": pose.T.ravel().tolist(),
        }  # column-major
        # the lens is a separate node, because some readers rename a node that has one
        lens_node = {"name": f"lens {view.name}", "camera": index}
        node["children"] = [len(document["nodes"]) + 1]
        document["nodes"] += [node, lens_node]


def container(document: dict[str, Any], binary: bytes) -> bytes:
    """Header, JSON chunk padded with blanks, binary chunk padded with zeros."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
    chunks = [(b"JSON", text + b" " * (-len(text) % 4))]
    if binary:
        chunks.append((b"BIN\0", binary + bytes(-len(binary) % 4)))
    body = b"".join(struct.pack("<I", len(data)) + kind + data for kind, data in chunks)
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body
