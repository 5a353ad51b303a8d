"""Surfaces: from a field that is known exactly, and from depth maps of a scene that is known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.config import FusionConfig
from lite3r_cli.scene.fusion import clean_views, fuse
from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.scene.surface_nets import Mesh, surface_nets, without_small_parts
from lite3r_cli.scene.tsdf import mesh_of


def lattice(*size: int) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1).reshape(-1, 3)


def edges_of(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges as numbers, forwards and backwards."""
    a, b = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).T.astype(np.int64)
    return a * 10**7 + b, b * 10**7 + a


@pytest.mark.parametrize("size", [(24, 24, 24), (23, 31, 27)])
def test_a_sphere_is_closed_round_and_faces_outwards(size: tuple[int, int, int]) -> None:
    places, middle, radius = lattice(*size), np.array([11.3, 11.6, 11.9]), 8.2
    distance = np.linalg.norm(places - middle, axis=1) - radius
    mesh = surface_nets(places, distance.astype("f4"), np.ones(len(places), bool))
    away = mesh.vertices - middle
    assert np.abs(np.linalg.norm(away, axis=1) - radius).max() < 0.25
    forwards, backwards = edges_of(mesh.triangles)
    assert len(np.unique(forwards)) == len(forwards) and set(forwards) == set(backwards)  # closed, one side out
    corners = mesh.vertices[mesh.triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normal * (corners.mean(1) - middle)).sum(1) > 0).all()
    volume = (corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert abs(volume / (4 / 3 * np.pi * radius**3) - 1) < 0.02


def test_where_nothing_is_known_nothing_is_closed() -> None:
    places = lattice(12, 9, 7)
    height = (places[:, 2] - 3.4).astype("f4")
    known = places[:, 0] != 6
    mesh = surface_nets(places[known], height[known], np.ones(known.sum(), bool))
    assert np.allclose(mesh.vertices[:, 2], 3.4, atol=1e-5)
    assert not ((mesh.vertices[:, 0] > 5) & (mesh.vertices[:, 0] < 7)).any()
    assert len(mesh.vertices) == (5 + 4) * 8 and len(mesh.triangles) == 2 * (4 + 3) * 7
    assert len(surface_nets(places, height, np.zeros(len(places), bool)).vertices) == 0
    assert len(surface_nets(places, np.ones(len(places), "f4"), np.ones(len(places), bool)).triangles) == 0


def test_crumbs_go() -> None:
    places = lattice(30, 12, 12)
    large = np.linalg.norm(places - [7, 6, 6], axis=1) - 4.7
    small = np.linalg.norm(places - [22, 6, 6], axis=1) - 1.6
    mesh = surface_nets(places, np.minimum(large, small).astype("f4"), np.ones(len(places), bool))
    kept = without_small_parts(mesh, 200)
    assert mesh.vertices[:, 0].max() > 20 and kept.vertices[:, 0].max() < 13
    assert set(kept.triangles.ravel()) == set(range(len(kept.vertices)))
    assert len(without_small_parts(mesh, 10**6).vertices) == 0


def room(count: int = 4) -> tuple[list[View], np.ndarray]:
    """Views of a ball of radius 1 at (0, 0, 5) before a wall at z = 8, with exact depth, and the pictures."""
    K = np.array([[120.0, 0, 70], [0, 120, 52], [0, 0, 1]])
    views, pictures = [], []
    for shift in np.linspace(-1, 1, count):
        v, u = np.mgrid[:104, :140] + 0.5
        ray = np.stack([(u - 70) / 120, (v - 52) / 120, np.ones_like(u)], axis=-1)
        to_ball = np.array([-shift, 0, 5.0])
        b, c = ray @ to_ball, to_ball @ to_ball - 1
        a = (ray**2).sum(-1)
        inside = b**2 - a * c
        ball = inside > 0
        depth = np.where(ball, (b - np.sqrt(np.maximum(inside, 0))) / a, 8.0).astype("f4")
        pose = np.hstack([np.eye(3), [[-shift], [0], [0]]])
        views.append(View(f"{shift}.png", 140, 104, K, pose, depth, np.ones_like(depth)))
        pictures.append(np.where(ball[..., None], np.uint8([[200, 40, 40]]), np.uint8([[60, 60, 200]])))
    return views, np.stack(pictures)


@pytest.mark.parametrize("offset", [0.0, 5e5])
def test_a_scene_of_known_geometry(offset: float) -> None:
    views, pictures = room()
    config = FusionConfig(confidence_percentile=0)
    cloud = fuse(views, lambda i: pictures[i], None, config)
    clean = clean_views(views, None, config)
    if offset:  # in the frame of a map; the depth maps stay as they are
        move = np.array([offset, -2 * offset, offset])
        cloud = PointCloud(cloud.points + move, cloud.colors, cloud.confidence)
        for view in clean:
            view.cam_from_world[:, 3] -= view.cam_from_world[:, :3] @ move
    mesh = mesh_of(clean, cloud, lambda i: pictures[i])
    vertices = mesh.vertices - (move if offset else 0)
    assert mesh.vertices.dtype == (np.float64 if offset else np.float32) and len(mesh.triangles) > 10_000
    ball = np.linalg.norm(vertices - [0, 0, 5], axis=1)
    wall = np.abs(vertices[:, 2] - 8)
    error = np.minimum(np.abs(ball - 1), wall)
    assert np.percentile(error, 95) < 0.03 and error.max() < 0.4
    corners = vertices[mesh.triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normal[:, 2] < 0).mean() > 0.95  # towards the cameras
    red, blue = mesh.colors[ball < 1.05], mesh.colors[wall < 0.03]
    assert np.abs(np.median(red, axis=0) - [200, 40, 40]).max() < 5
    assert np.abs(np.median(blue, axis=0) - [60, 60, 200]).max() < 5


def test_no_points_no_mesh() -> None:
    views, pictures = room(2)
    nothing = PointCloud(np.zeros((0, 3), "f4"), np.zeros((0, 3), "u1"), np.zeros(0, "f4"))
    assert isinstance(mesh_of(views, nothing, lambda i: pictures[i]), Mesh)
