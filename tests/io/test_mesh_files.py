"""A mesh as PLY, OBJ and GLB: the same triangles and colours for whoever opens it."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from odd_scene import odd_cloud, odd_views  # noqa: F401

from lite3r_cli.io.glb import linear
from lite3r_cli.io.mesh_files import write_mesh
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.io.textured_mesh import write_textured_mesh
from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.scene.surface_nets import Mesh, TexturedMesh

TURN = Similarity(1.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))


def surface_where_it_belongs(scene, vertices):
    """The surface of a GLB as trimesh read it: upright, on glTF's axes, within a step of 16 bits."""
    pose, name = scene.graph.get("surface")
    found = scene.geometry[name]
    placed = found.vertices @ pose[:3, :3].T + pose[:3, 3]
    wanted = TURN.apply(vertices) * [1, -1, -1]
    assert np.abs(placed - wanted).max() <= 1.1 * np.ptp(wanted, axis=0).max() / 65535
    return found


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_every_program_finds_the_same_mesh(tmp_path, odd_views, odd_cloud, kind: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    rng = np.random.default_rng(7)
    far = 1e6 if kind == "f8" else 0
    vertices = (rng.normal(size=(41, 3)) + far).astype(kind)
    triangles = np.array([rng.choice(41, 3, replace=False) for _ in range(65)], np.int32)
    mesh = Mesh(vertices, triangles, rng.integers(0, 256, (41, 3), dtype=np.uint8))
    scene = SceneExport(tmp_path, odd_views, odd_cloud, look=TURN, make_mesh=lambda: mesh)
    assert [path.name for path in write_mesh(scene)] == ["mesh.ply", "mesh.obj", "mesh.glb"]

    ply = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert np.array_equal(ply.vertices, vertices) and np.array_equal(ply.faces, triangles)
    assert np.array_equal(ply.visual.vertex_colors[:, :3], mesh.colors)
    if not far:
        obj = trimesh.load(tmp_path / "mesh.obj", process=False, maintain_order=True)
        assert np.allclose(obj.vertices, vertices, atol=1e-5) and np.array_equal(obj.faces, triangles)
        assert np.abs(obj.visual.vertex_colors[:, :3].astype(int) - mesh.colors).max() <= 1
    scene = trimesh.load(tmp_path / "mesh.glb", process=False)
    glb = surface_where_it_belongs(scene, vertices)
    assert np.array_equal(glb.faces, triangles)
    data = (tmp_path / "mesh.glb").read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    offset = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    colors = np.frombuffer(binary, np.uint16, 41 * 4, offset).reshape(-1, 4)[:, :3]
    assert accessor["normalized"] and np.array_equal(colors, linear(mesh.colors))


def test_an_empty_mesh_is_a_valid_file(tmp_path, odd_views, odd_cloud) -> None:
    assert len(write_mesh(SceneExport(tmp_path, odd_views, odd_cloud))) == 3
    assert b"element vertex 0" in (tmp_path / "mesh.ply").read_bytes()


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_texture_is_found_from_the_obj_and_from_the_glb(tmp_path, odd_views, odd_cloud, kind: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    rng = np.random.default_rng(8)
    vertices = (rng.normal(size=(9, 3)) + (1e6 if kind == "f8" else 0)).astype(kind)
    triangles = np.array([rng.choice(9, 3, replace=False) for _ in range(12)], np.int32)
    texture = np.zeros((40, 56, 3), np.uint8)
    texture[:20, :, 0], texture[20:, :, 2], texture[:, 28:, 1] = 200, 150, 90
    uv = rng.uniform(0.05, 0.95, (9, 2)).astype("f4")
    mesh = TexturedMesh(vertices, triangles, uv, texture)
    files = write_textured_mesh(SceneExport(tmp_path, odd_views, odd_cloud, look=TURN, make_textured=lambda: mesh))
    assert [path.suffix for path in files] == [".obj", ".mtl", ".jpg", ".glb"]

    obj = trimesh.load(tmp_path / "textured-mesh.obj", process=False, maintain_order=True)
    glb = trimesh.load(tmp_path / "textured-mesh.glb", process=False)
    glb = surface_where_it_belongs(glb, vertices)
    for found, image in ((obj, obj.visual.material.image), (glb, glb.visual.material.baseColorTexture)):
        assert np.array_equal(found.faces, triangles)
        assert np.abs(found.visual.uv * [1, -1] + [0, 1] - uv).max() < 2e-5  # trimesh counts v from below
        assert np.abs(np.asarray(image).astype(int) - texture)[5::10, 5::10].max() < 20
    assert np.abs(obj.vertices - vertices).max() < 1e-4


def test_an_empty_textured_mesh_is_a_valid_file(tmp_path, odd_views, odd_cloud) -> None:
    assert len(write_textured_mesh(SceneExport(tmp_path, odd_views, odd_cloud))) == 4
