"""Smooth camera paths: through the cameras of a scene, on an arc around the scene, or through given cameras."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .geometry import camera_centres, matrix_from_quaternion, quaternion_from_matrix
from .posed_view import PointCloud, View

MARGIN = np.radians(10)  # beyond the outermost cameras of an arc
ROUND = np.radians(270)  # an arc larger than this becomes a full circle
TURN = 1.0  # radians between neighbours that count like the median distance between them


def through(views: Sequence[View], frames: int, size: tuple[int, int]) -> list[View]:
    """`frames` cameras of `size` (width, height) on a smooth curve through `views`, in the order of a short tour."""
    return along([views[i] for i in tour(views)], frames, size)


def along(views: Sequence[View], frames: int, size: tuple[int, int]) -> list[View]:
    """`frames` cameras on a smooth curve through `views` in their order, at constant speed with a smooth start and end.

    Positions and quaternions follow a Catmull-Rom spline. The focal length changes evenly between two views.
    """
    poses = np.stack([view.cam_from_world for view in views])
    centres, turns = camera_centres(poses), _aligned(np.stack([quaternion_from_matrix(pose[:, :3]) for pose in poses]))
    lens = np.log([_focal(view, size) for view in views])
    values = np.column_stack([centres, turns, lens])
    if len(views) == 1:
        values = np.repeat(values, 2, axis=0)
    fine = np.concatenate([_segment(values, i) for i in range(len(values) - 1)] + [values[-1:]])
    way = np.concatenate([[0], np.cumsum(_steps(fine[:, :3], fine[:, 3:7]))])
    pace = _gentle(np.linspace(0, 1, frames)) * way[-1]
    even = np.column_stack([np.interp(pace, way, column) for column in fine.T])
    return [_camera(i, row[:3], matrix_from_quaternion(row[3:7] / np.linalg.norm(row[3:7])), np.exp(row[7]), size)
            for i, row in enumerate(even)]  # fmt: skip


def orbit(
    views: Sequence[View], cloud: PointCloud, up: np.ndarray | None, frames: int, size: tuple[int, int]
) -> list[View]:
    """`frames` cameras on an arc around the centre of the cloud that look at it, at the views' mean distance and
    height.

    A full circle if the views are all around. Otherwise back and forth over the arc of the views plus 10 degrees on
    either side. `up` (3,): up direction; None: the mean of the cameras' up directions.
    """
    poses = np.stack([view.cam_from_world for view in views])
    if up is None:
        up = -poses[:, 1, :3].mean(axis=0)
    up = up / max(float(np.linalg.norm(up)), 1e-12)
    centres = camera_centres(poses)
    middle = (
        np.median(cloud.points, axis=0).astype(np.float64) if len(cloud) else centres.mean(axis=0) + poses[0, 2, :3]
    )
    away = centres - middle
    height = float(np.median(away @ up))
    flat = away - np.outer(away @ up, up)
    radius = max(float(np.median(np.linalg.norm(flat, axis=1))), 1e-6)
    east = flat[0] / max(float(np.linalg.norm(flat[0])), 1e-12)
    north = np.cross(up, east)
    angles = np.sort(np.arctan2(flat @ north, flat @ east))
    gaps = np.diff(np.append(angles, angles[0] + 2 * np.pi))
    widest = int(gaps.argmax())
    first, span = angles[(widest + 1) % len(angles)], 2 * np.pi - gaps[widest]
    t = np.linspace(0, 1, frames, endpoint=False)
    if span > ROUND:
        walk = first + 2 * np.pi * t
    else:
        walk = first - MARGIN + (span + 2 * MARGIN) * (0.5 - 0.5 * np.cos(2 * np.pi * t))
    focal = float(np.median([_focal(view, size) for view in views]))
    made = []
    for i, angle in enumerate(walk):
        centre = middle + radius * (np.cos(angle) * east + np.sin(angle) * north) + height * up
        forward = (middle - centre) / np.linalg.norm(middle - centre)
        right = np.cross(forward, up)
        right = right / max(float(np.linalg.norm(right)), 1e-12)
        made.append(_camera(i, centre, np.stack([right, np.cross(forward, right), forward]), focal, size))
    return made


def tour(views: Sequence[View]) -> list[int]:
    """A short path past all views: nearest neighbour first, then improved by reversing parts."""
    poses = np.stack([view.cam_from_world for view in views])
    centres, looks = camera_centres(poses), poses[:, 2, :3]
    far = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    near = np.where(np.eye(len(views), dtype=bool), np.inf, far).min(axis=1)
    usual = float(np.median(near[np.isfinite(near)])) if len(views) > 1 else 1.0
    cost = far / max(usual, 1e-12) + np.arccos(np.clip(looks @ looks.T, -1, 1)) / TURN
    order, left = [0], set(range(1, len(views)))
    while left:
        order.append(min(left, key=lambda i: (cost[order[-1], i], i)))
        left.remove(order[-1])
    return _shortened(order, cost)


def _shortened(order: list[int], cost: np.ndarray) -> list[int]:
    """A few rounds of 2-opt (Croes 1958) on an open path."""
    for _ in range(20):
        before = list(order)
        for i in range(len(order) - 1):
            for j in range(i + 1, len(order)):
                old = (cost[order[i - 1], order[i]] if i else 0) + (
                    cost[order[j], order[j + 1]] if j + 1 < len(order) else 0
                )
                new = (cost[order[i - 1], order[j]] if i else 0) + (
                    cost[order[i], order[j + 1]] if j + 1 < len(order) else 0
                )
                if new < old - 1e-9:
                    order[i : j + 1] = order[i : j + 1][::-1]
        if order == before:
            break
    return order


def _camera(i: int, centre: np.ndarray, rotation: np.ndarray, focal: float, size: tuple[int, int]) -> View:
    """Frame number `i`: `rotation` (3, 3) is cam_from_world's."""
    width, height = size
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    pose = np.column_stack([rotation, -rotation @ centre])
    return View(f"frame_{i:05d}.png", width, height, K, pose)


def _focal(view: View, size: tuple[int, int]) -> float:
    """The focal length at `size` whose field of view is at most that of the view, in both directions."""
    return max(float(view.K[0, 0]) * size[0] / view.width, float(view.K[1, 1]) * size[1] / view.height)


def _aligned(quaternions: np.ndarray) -> np.ndarray:
    """The same rotations with the sign of each predecessor: q and −q are one rotation."""
    aligned = quaternions.copy()
    for i in range(1, len(aligned)):
        if aligned[i] @ aligned[i - 1] < 0:
            aligned[i] *= -1
    return aligned


def _segment(values: np.ndarray, i: int, samples: int = 64) -> np.ndarray:
    """Catmull-Rom between the rows i and i + 1 of `values`; extrapolated linearly at the ends."""
    a, b = values[i], values[i + 1]
    before = values[i - 1] if i else 2 * a - b
    after = values[i + 2] if i + 2 < len(values) else 2 * b - a
    t = np.linspace(0, 1, samples, endpoint=False)[:, None]
    result: np.ndarray = 0.5 * (
        2 * a + (b - before) * t + (2 * before - 5 * a + 4 * b - after) * t**2 + (3 * (a - b) + after - before) * t**3
    )
    return result


def _steps(centres: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """Distance from each row to the next: translation, plus rotation in units of the median translation."""
    way = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    unit = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    turn = 2 * np.arccos(np.clip(np.abs((unit[1:] * unit[:-1]).sum(axis=1)), 0, 1))
    result: np.ndarray = way / max(float(way.sum()), 1e-12) + turn / max(float(turn.sum()), 1e-12) + 1e-9
    return result


def _gentle(t: np.ndarray, share: float = 0.08) -> np.ndarray:
    """0 to 1 at constant speed, except the first and last `share`, where the speed changes linearly."""
    pace = np.clip(np.minimum(t, 1 - t) / share, 0.05, 1)
    way = np.concatenate([[0], np.cumsum((pace[1:] + pace[:-1]) / 2)])
    return way / way[-1] if way[-1] > 0 else way


def resized(view: View, size: tuple[int, int]) -> View:
    """The camera of `view` for pictures of `size` (width, height): centred, with at most its field of view."""
    width, height = size
    focal = _focal(view, size)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return View(view.name, width, height, K, view.cam_from_world)
