"""A mesh with a texture from photos: right colours, no photo of what stands in front, no steps at seams."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli.scene.face_views import charts_of, neighbours
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.surface_nets import Mesh

pytest.importorskip("xatlas")

from lite3r_cli.scene.texture_atlas import textured

WIDTH, HEIGHT, FOCAL = 331, 243, 300.0
WALL, BOARD = 5.0, 3.0  # z of a patterned wall and of a red board in front of its middle
RED = np.array([220.0, 20, 20])


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 120 + 80 * np.stack([np.sin(3 * x), np.cos(2 * y + x), np.sin(4 * x + 2 * y)], axis=-1)


def grid(x: np.ndarray, y: np.ndarray, z: float, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a rectangle that faces -z."""
    places = np.stack([*np.meshgrid(x, y), np.full((len(y), len(x)), z)], axis=-1).reshape(-1, 3)
    corner = np.arange(len(places)).reshape(len(y), len(x))
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]))
    return places, first + np.concatenate([np.stack([a, c, b], 1), np.stack([a, d, c], 1)])


def wall_and_board(exposures: tuple[float, ...], offset: float) -> tuple[list[View], list[np.ndarray], Mesh]:
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    ray = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL], axis=-1)
    views, photos = [], []
    for shift, exposure in zip(np.linspace(-1.5, 1.5, len(exposures)), exposures):
        x, y = np.moveaxis(ray * WALL + [shift, 0], -1, 0)
        board = (np.abs(ray * BOARD + [shift, 0]) < 0.3).all(axis=-1)
        colors = np.where(board[..., None], RED, pattern(x, y) * exposure)
        depth = np.where(board, BOARD, WALL).astype("f4")[::2, ::2]
        pose = np.hstack([np.eye(3), [[-shift - offset], [0], [0]]])
        views.append(View(f"{shift}.png", WIDTH, HEIGHT, K, pose, np.ascontiguousarray(depth)))
        photos.append(colors.round().astype(np.uint8))
    wall, first = grid(np.linspace(-2, 2, 121), np.linspace(-1, 1, 61), WALL, 0)
    board, second = grid(np.linspace(-0.3, 0.3, 15), np.linspace(-0.3, 0.3, 15), BOARD, len(wall))
    vertices = np.concatenate([wall, board]) + [offset, 0, 0]
    kind = np.float64 if offset else np.float32
    mesh = Mesh(
        vertices.astype(kind), np.concatenate([first, second]).astype(np.int32), np.zeros((len(vertices), 3), "u1")
    )
    return views, photos, mesh


def shown(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    x, y = (uv * texture.shape[1::-1] - 0.5).astype(np.float32).T[:, None]
    return cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0].astype(float)


@pytest.mark.parametrize("offset", [0.0, 4e5])
def test_every_triangle_shows_its_own_surface(offset: float) -> None:
    views, photos, mesh = wall_and_board((1, 1, 1), offset)
    result = textured(views, mesh, lambda i: photos[i])
    assert len(result.triangles) > 0.97 * len(mesh.triangles)
    assert result.vertices.dtype == mesh.vertices.dtype
    assert len(np.unique(result.triangles)) == len(result.vertices), "every vertex is used: some readers need that"
    middle = result.vertices[result.triangles].mean(axis=1)
    colors = shown(result.texture, result.uv[result.triangles].mean(axis=1))
    on_wall = middle[:, 2] > 4
    wanted = np.where(on_wall[:, None], pattern(middle[:, 0] - offset, middle[:, 1]), RED)
    error = np.abs(colors - wanted).max(axis=1)
    assert np.percentile(error, 98) < 12
    behind = on_wall & (np.abs(middle[:, :2] - [offset, 0]) < 0.25).all(axis=1)
    assert behind.sum() > 50 and error[behind].max() < 25  # of the views from the sides
    normal = np.cross(*np.diff(result.vertices[result.triangles], axis=1).swapaxes(0, 1))
    assert (normal[:, 2] < 0).all()


def test_photos_of_different_exposure_meet_without_a_step() -> None:
    views, photos, mesh = wall_and_board((1, 0.75), 0)
    result = textured(views, mesh, lambda i: photos[i])
    _, first, count = np.unique(result.vertices, axis=0, return_inverse=True, return_counts=True)
    first = first.reshape(-1)
    twice = np.flatnonzero((count[first] > 1) & (result.vertices[:, 2] > 4) & (np.abs(result.vertices[:, 1]) > 0.6))
    assert len(twice) > 20
    colors = shown(result.texture, result.uv)[twice]
    low, high = (
        np.array([pick(colors[first[twice] == i], axis=0) for i in np.unique(first[twice])])
        for pick in (np.min, np.max)
    )
    assert np.median((high - low).max(axis=1)) < 12  # 45 without a change of colours


def test_an_edge_of_many_triangles_and_no_triangle() -> None:
    fan = np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4], [5, 6, 7]])
    beside = neighbours(fan)
    assert (beside >= 0).sum() == 2 and (beside[3] < 0).all()
    assert charts_of(np.zeros(4, int), beside).max() == 2
    views, photos, mesh = wall_and_board((1, 1), 0)
    nothing = Mesh(mesh.vertices[:0], mesh.triangles[:0], mesh.colors[:0])
    behind = Mesh(mesh.vertices * np.float32([1, 1, -1]), mesh.triangles, mesh.colors)
    for unseen in (nothing, behind):
        assert len(textured(views, unseen, lambda i: photos[i]).triangles) == 0
