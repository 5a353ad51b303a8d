"""A surface with a texture as OBJ (with MTL and JPEG) and GLB.

The OBJ has the frame of the cloud. The GLB is for viewers: glTF axes, upright if the up direction is known, unlit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..errors import OutputError
from ..scene.geometry import Similarity
from ..scene.surface_nets import TexturedMesh
from .files import write_bytes
from .glb import FLOAT, Buffer
from .mesh_files import decimals
from .mesh_glb import Look, write_surface_glb
from .scene_export import SceneExport

QUALITY = 92  # of the JPEG
STEM = "textured-mesh"


def write_textured_mesh(scene: SceneExport) -> list[Path]:
    """Write textured-mesh.obj, .mtl, .jpg and .glb and return them. Raises OutputError."""
    mesh = scene.make_textured() if scene.make_textured is not None else _empty()
    paths = [scene.directory / f"{STEM}.{suffix}" for suffix in ("obj", "mtl", "jpg", "glb")]
    picture = _encoded(mesh.texture, paths[2])
    _write_obj(paths[0], mesh, scene.comments)
    write_bytes(paths[1], f"newmtl texture\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {STEM}.jpg\n".encode())
    write_bytes(paths[2], picture)
    _write_glb(paths[3], mesh, picture, scene.look)
    return paths


def _empty() -> TexturedMesh:
    nothing = np.zeros((1, 1, 3), np.uint8)
    return TexturedMesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 2), np.float32), nothing)


def _encoded(texture: np.ndarray, path: Path) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(texture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise OutputError(f"{path}: this texture cannot be encoded as JPEG")
    return bytes(data)


def _write_obj(path: Path, mesh: TexturedMesh, comments: Sequence[str]) -> None:
    digits = decimals(mesh.vertices)
    lines = ["# lite3r", *(f"# {text}" for text in comments), f"mtllib {STEM}.mtl", "usemtl texture"]
    lines += [f"v {x:.{digits}g} {y:.{digits}g} {z:.{digits}g}" for x, y, z in mesh.vertices.tolist()]
    lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in mesh.uv.tolist()]
    lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in (mesh.triangles + 1).tolist()]
    write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))


def _write_glb(path: Path, mesh: TexturedMesh, picture: bytes, to_viewers: Similarity | None) -> None:
    def looks(buffer: Buffer) -> Look:
        place = buffer.add(mesh.uv, FLOAT, "VEC2")  # some readers do not divide normalised integers
        document = {
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],  # linear, clamped
            "images": [{"mimeType": "image/jpeg", "bufferView": buffer.raw(picture)}],
        }
        textured = {"baseColorTexture": {"index": 0}, "metallicFactor": 0}
        return Look({"TEXCOORD_0": place}, {"pbrMetallicRoughness": textured}, document)

    write_surface_glb(path, mesh.vertices, mesh.triangles, to_viewers, looks)
