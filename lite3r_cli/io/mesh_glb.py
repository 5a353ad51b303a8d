"""A surface as GLB for viewers: glTF axes, 16-bit positions, unlit, upright if the up direction is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..scene.geometry import Similarity
from .files import write_bytes
from .glb import GLTF_AXES, LEVELS, Buffer, container

TRIANGLES, UINT, USHORT = 4, 5125, 5123  # of glTF


@dataclass(frozen=True)
class Look:
    """What a surface looks like: accessors of its vertices, its material, and what else the document then needs."""

    attributes: dict[str, int]
    material: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)


def write_surface_glb(
    path: Path,
    vertices: np.ndarray,
    triangles: np.ndarray,
    to_viewers: Similarity | None,
    looks: Callable[[Buffer], Look],
) -> None:
    """glTF 2.0 of vertices (N, 3) and triangles (M, 3); `looks` adds colours or a texture to the buffer. Raises
    OutputError.
    """
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "lite3r"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "surface"}],
    }
    buffer = Buffer()
    if len(triangles):
        places, low, size = _placed(vertices, to_viewers)
        position = buffer.add(places, USHORT, "VEC3", stride=8)
        buffer.bounds(position, places)
        look = looks(buffer)
        indices = buffer.add(triangles.reshape(-1, 1).astype(np.uint32), UINT, "SCALAR", target=34963)
        primitive = {"attributes": {"POSITION": position, **look.attributes}, "indices": indices, "material": 0}
        unlit = {"name": "unlit", "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
        document |= {
            "meshes": [{"name": "surface", "primitives": [{**primitive, "mode": TRIANGLES}]}],
            "materials": [unlit | look.material],
            **look.document,
            "extensionsUsed": ["KHR_materials_unlit", "KHR_mesh_quantization"],
            "extensionsRequired": ["KHR_mesh_quantization"],
            "buffers": [{"byteLength": len(buffer.data)}],
            "bufferViews": buffer.views,
            "accessors": buffer.accessors,
        }
        document["nodes"][0] |= {"mesh": 0, "translation": low.tolist(), "scale": [size / LEVELS] * 3}
    write_bytes(path, container(document, bytes(buffer.data)))


def _placed(vertices: np.ndarray, to_viewers: Similarity | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Vertices (N, 3) on glTF's axes as uint16 steps from `low` (3,) to `low` + `size`."""
    points = (vertices.astype(np.float64) if to_viewers is None else to_viewers.apply(vertices)) * GLTF_AXES
    low = points.min(axis=0)
    size = float((points.max(axis=0) - low).max()) or 1.0
    return np.round((points - low) / size * LEVELS).astype(np.uint16), low, size
