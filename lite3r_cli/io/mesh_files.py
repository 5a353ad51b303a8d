"""A surface with vertex colours as PLY, OBJ and GLB.

PLY and OBJ have the frame of the cloud. The GLB is for viewers: glTF axes, upright if the up direction is known, unlit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from ..scene.geometry import Similarity
from ..scene.surface_nets import Mesh
from .files import write_bytes
from .glb import Buffer, linear
from .mesh_glb import USHORT, Look, write_surface_glb
from .scene_export import SceneExport

FACE = np.dtype([("count", "u1"), ("vertex_indices", "<i4", 3)])


def write_mesh(scene: SceneExport) -> list[Path]:
    """Write mesh.ply, mesh.obj and mesh.glb and return them. Raises OutputError."""
    mesh = scene.make_mesh() if scene.make_mesh is not None else empty()
    write_mesh_ply(scene.directory / "mesh.ply", mesh, scene.comments)
    write_mesh_obj(scene.directory / "mesh.obj", mesh, scene.comments)
    write_mesh_glb(scene.directory / "mesh.glb", mesh, scene.look)
    return [scene.directory / f"mesh.{suffix}" for suffix in ("ply", "obj", "glb")]


def empty() -> Mesh:
    return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.uint8))


def write_mesh_ply(path: Path, mesh: Mesh, comments: Sequence[str]) -> None:
    """Binary PLY: x y z, red green blue, faces. Raises OutputError."""
    kind = "<f8" if mesh.vertices.dtype == np.float64 else "<f4"
    names = [(name, kind) for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(mesh.vertices), names)
    for axis in range(3):
        vertices["xyz"[axis]] = mesh.vertices[:, axis]
        vertices[("red", "green", "blue")[axis]] = mesh.colors[:, axis]
    head = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=list(comments)).header
    head += f"\nelement face {len(mesh.triangles)}\nproperty list uchar int vertex_indices\nend_header\n"
    faces = np.empty(len(mesh.triangles), FACE)
    faces["count"], faces["vertex_indices"] = 3, mesh.triangles
    head = head.replace("\nend_header\nelement face", "\nelement face")
    write_bytes(path, head.encode("ascii"), vertices.view(np.uint8).data, faces.view(np.uint8).data)


def write_mesh_obj(path: Path, mesh: Mesh, comments: Sequence[str]) -> None:
    """Text: `v x y z r g b` with colours from 0 to 1, as MeshLab and Blender read them. Raises OutputError."""
    lines = [f"# {text}" for text in ("lite3r: vertex colours follow the coordinates", *comments)]
    colors, digits = (mesh.colors / 255).round(4), decimals(mesh.vertices)
    for (x, y, z), (r, g, b) in zip(mesh.vertices.tolist(), colors.tolist()):
        lines.append(f"v {x:.{digits}g} {y:.{digits}g} {z:.{digits}g} {r:g} {g:g} {b:g}")
    lines += [f"f {a} {b} {c}" for a, b, c in (mesh.triangles + 1).tolist()]
    write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))


def decimals(vertices: np.ndarray) -> int:
    """Significant digits of coordinates (N, 3) as text: more in a frame whose origin is far away."""
    return 12 if vertices.dtype == np.float64 else 7


def write_mesh_glb(path: Path, mesh: Mesh, to_viewers: Similarity | None) -> None:
    """glTF 2.0 with linear colours of the vertices. Raises OutputError."""

    def looks(buffer: Buffer) -> Look:
        return Look({"COLOR_0": buffer.add(linear(mesh.colors), USHORT, "VEC3", normalized=True, stride=8)})

    write_surface_glb(path, mesh.vertices, mesh.triangles, to_viewers, looks)
