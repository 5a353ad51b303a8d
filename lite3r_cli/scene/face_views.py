"""Chooses the view whose photo colours each triangle of a mesh (after Waechter, Moehrle & Goesele, ECCV 2014).

A view is good for a triangle that it sees from the front and with many pixels. Neighbouring triangles prefer the same
view, so that charts are large and seams few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from . import geometry
from .posed_view import View
from .surface_nets import Mesh, components

CANDIDATES = 6  # best views that are kept for a triangle
SMOOTHED = 8  # times that normals are averaged with those of their neighbours
STEEPEST = 0.1  # smallest cosine between normal and direction to the camera
UNSURE = 0.1  # factor of a view without a depth there
AGREEMENT = 0.7  # weight of the neighbours' views; 1 = as much as a view with twice the pixels
ROUNDS = 24
OCCLUDERS = 4  # pixels of the depth map along the side of a cell in which the nearest vertex is looked for


def choose_views(views: Sequence[View], mesh: Mesh, step: Callable[[], None] = lambda: None) -> np.ndarray:
    """(T,) int32 view of each triangle, -1 if no view sees it. The mesh is in the frame of the views."""
    if not len(mesh.triangles):
        return np.zeros(0, np.int32)
    vertices = mesh.vertices.astype(np.float64)
    normals = _smooth_normals(vertices, mesh.triangles)
    tolerance = 3 * _median_edge(vertices, mesh.triangles)  # about the truncation of the distance field
    count = len(mesh.triangles)
    score = np.zeros((count, CANDIDATES), np.float32)
    which = np.full((count, CANDIDATES), -1, np.int32)
    rows = np.arange(count)
    for i, view in enumerate(views):
        if view.depth is None:
            continue
        found = _scores(view, vertices, normals, mesh.triangles, tolerance)
        worst = score.argmin(axis=1)
        better = found > score[rows, worst]
        score[rows[better], worst[better]] = found[better]
        which[rows[better], worst[better]] = i
        step()
    return _agreed(score, which, neighbours(mesh.triangles))


def neighbours(triangles: np.ndarray) -> np.ndarray:
    """(T, 3) triangles across the edges of each triangle, -1 at the border. An edge of more than two triangles joins
    none beyond the first two.
    """
    count = len(triangles)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    key = edges[:, 0].astype(np.int64) * (int(triangles.max(initial=0)) + 1) + edges[:, 1]
    order = np.argsort(key, kind="stable")
    same = key[order[1:]] == key[order[:-1]]
    same[1:] &= ~same[:-1]
    first, second = order[:-1][same], order[1:][same]
    result = np.full(3 * count, -1, np.int64)
    result[first], result[second] = second % count, first % count
    return result.reshape(3, count).T


def charts_of(label: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """(T,) number of the connected component of equal `label` that a triangle belongs to, from 0."""
    one, side = np.nonzero(beside >= 0)
    other = beside[one, side]
    alike = label[one] == label[other]
    part = components(len(label), one[alike], other[alike])
    numbers: np.ndarray = np.unique(part, return_inverse=True)[1].reshape(-1)
    return numbers


def _smooth_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(T, 3) unit normals, averaged over the surroundings."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    for _ in range(SMOOTHED):
        at_vertex = np.stack(
            [
                np.bincount(triangles.ravel(), np.repeat(normals[:, axis], 3), minlength=len(vertices))
                for axis in range(3)
            ],
            axis=1,
        )
        normals = at_vertex[triangles].mean(axis=1)
    unit: np.ndarray = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)
    return unit


def _median_edge(vertices: np.ndarray, triangles: np.ndarray) -> float:
    sample = triangles[:: max(1, len(triangles) // 20_000)]
    return float(np.median(np.linalg.norm(vertices[sample[:, 0]] - vertices[sample[:, 1]], axis=1)))


def _scores(
    view: View, vertices: np.ndarray, normals: np.ndarray, triangles: np.ndarray, tolerance: float
) -> np.ndarray:
    """(T,) float32 pixels per area with which a view sees each triangle, 0 if it does not."""
    assert view.depth is not None
    pixel, z = geometry.project(vertices, view.K, view.cam_from_world)
    inside = (z > 1e-6) & (pixel >= 1).all(axis=1) & (pixel <= [view.width - 1, view.height - 1]).all(axis=1)
    height, width = view.depth.shape
    place = np.where(inside[:, None], pixel, 0) * [width / view.width, height / view.height]
    column, row = place.astype(np.int64).T
    seen = view.depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    agrees = inside & (np.abs(seen - z) < tolerance)
    covered = (seen > 0) & (seen < z - tolerance)
    cell = (row // OCCLUDERS) * (width // OCCLUDERS + 1) + column // OCCLUDERS
    nearest = np.full((height // OCCLUDERS + 1) * (width // OCCLUDERS + 1), np.inf)
    np.minimum.at(nearest, cell[inside], z[inside])
    covered |= ~agrees & (nearest[cell] < z - 3 * tolerance)
    usable = (inside & ~covered)[triangles].all(axis=1)
    towards = geometry.camera_centres(view.cam_from_world) - vertices[triangles].mean(axis=1)
    distance = np.linalg.norm(towards, axis=1)
    frontal = (normals * towards).sum(axis=1) / np.maximum(distance, 1e-12)
    focal = float(view.K[0, 0] * view.K[1, 1])
    score = focal / np.maximum(distance, 1e-6) ** 2 * frontal * np.where(agrees[triangles].all(axis=1), 1, UNSURE)
    chosen: np.ndarray = np.where(usable & (frontal > STEEPEST), score, 0).astype(np.float32)
    return chosen


def _agreed(score: np.ndarray, which: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """One of the candidates of each triangle: a good one that its neighbours have, too (iterated conditional modes,
    Besag 1986). Half of the triangles change at a time, so that neighbours do not swap for ever.
    """
    relative = np.log2(np.maximum(score, 1e-20) / np.maximum(score.max(axis=1, keepdims=True), 1e-20))
    rows = np.arange(len(which))
    label = which[rows, score.argmax(axis=1)]
    known = beside >= 0
    order = np.random.default_rng(0)
    for _ in range(ROUNDS):
        around = np.where(known, label[np.maximum(beside, 0)], -2)
        votes = (around[:, None, :] == which[:, :, None]).sum(axis=2)
        best = which[rows, np.where(which >= 0, relative + AGREEMENT * votes, -np.inf).argmax(axis=1)]
        change = (best != label) & (order.random(len(label)) < 0.5)
        if not change.any():
            break
        label = np.where(change, best, label)
    result: np.ndarray = label.astype(np.int32)
    return result
