"""The filters of the fusion in NumPy and OpenCV, over whole maps: what the torch implementation is held to.

OpenCV interpolates at 1/32 of a pixel, so that both agree to rounding but for a few pixels at edges.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View

OUTSIDE, TORN, HIDDEN, SILENT = -10.0, 1.1, 3.0, np.float32(1e30)
KERNEL = np.ones((3, 3), np.uint8)


def own_camera(view: View) -> np.ndarray:
    height, width = view.depth.shape
    return geometry.scale_intrinsics(view.K, width / view.width, height / view.height)


def affine(row: np.ndarray, points: np.ndarray) -> np.ndarray:
    return row[0] * points[0] + row[1] * points[1] + row[2] * points[2] + row[3]


def camera_points(view: View, alive: np.ndarray) -> np.ndarray:
    """(3, h, w) float32."""
    depth = np.where(alive, view.depth, 0).astype(np.float32)
    v, u = (np.arange(n, dtype=np.float64) + 0.5 for n in depth.shape)
    rows = [(r[0] * u)[None, :] + (r[1] * v + r[2])[:, None] for r in np.linalg.inv(own_camera(view))]
    return np.stack(rows).astype(np.float32) * depth


def compare(view: View, alive: np.ndarray, points: np.ndarray, other: View, other_alive: np.ndarray):
    pose = geometry.relative_pose(view.cam_from_world, other.cam_from_world)
    u, v, z = (affine(row, points) for row in (own_camera(other) @ pose).astype(np.float32))
    coordinates = []
    for numerator, size in zip((u, v), other_alive.shape[::-1], strict=True):
        pixel = np.divide(numerator, z, out=np.full_like(z, OUTSIDE), where=z > 0) - np.float32(0.5)
        coordinates.append(np.clip(pixel, OUTSIDE, size - OUTSIDE))
    inverse = np.divide(1, other.depth, out=np.zeros(other_alive.shape, np.float32), where=other_alive)
    valid = (inverse > 0).astype(np.float32)
    nearest, farthest = cv2.dilate(inverse, KERNEL), cv2.erode(np.where(valid > 0, inverse, SILENT), KERNEL)
    border = {"borderMode": cv2.BORDER_CONSTANT}
    smooth = cv2.remap(cv2.merge([inverse, valid]), *coordinates, cv2.INTER_LINEAR, **border)
    at, near, far = cv2.split(
        cv2.remap(cv2.merge([inverse, nearest, farthest]), *coordinates, cv2.INTER_NEAREST, **border)
    )
    seen = (at > 0) & (z > 0) & alive
    interpolated = np.divide(smooth[..., 0], smooth[..., 1], out=at.copy(), where=seen & (near <= TORN * far))
    z = np.where(seen, z, np.float32(np.nan))
    return z * interpolated, z * near, z * far


def check_view(
    views: Sequence[View], alive: Sequence[np.ndarray], i: int, neighbours: Sequence[int], tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contradicted and seen through (h, w) bool, and the shift (3, h, w)."""
    confirmed, doubled, through = (np.zeros(alive[i].shape, np.uint8) for _ in range(3))
    points = camera_points(views[i], alive[i])
    shift = np.zeros_like(points)
    for j in neighbours:
        ratio, front, behind = compare(views[i], alive[i], points, views[j], alive[j])
        agrees = np.abs(ratio - 1) <= tolerance  # NaN, not seen, is never true
        confirmed += agrees
        through += ~agrees & (front < 1 - tolerance)
        doubled += ~agrees & (behind > 1 + tolerance) & (behind < 1 + HIDDEN * tolerance)
        centre = geometry.camera_centres(geometry.relative_pose(views[i].cam_from_world, views[j].cam_from_world))
        along = np.where(agrees, 1 / np.where(agrees, ratio, 1) - 1, 0)
        shift += (points - centre.astype(np.float32)[:, None, None]) * along
    return (confirmed == 0) & (doubled + through > 0), through > confirmed, shift / (confirmed + np.float32(1))


def flying_pixels(view: View, max_incidence_deg: float) -> np.ndarray:
    """(h, w) bool."""
    (height, width), K = view.depth.shape, own_camera(view)
    steepest = np.tan(np.radians(max_incidence_deg))
    depth = np.where(np.isfinite(view.depth) & (view.depth > 0), view.depth, np.nan).astype(np.float32)
    flying = np.zeros(depth.shape, bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
        there = (slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
        z, next_z = depth[here], depth[there]
        limit = np.float32(steepest * np.hypot(dx / K[0, 0], dy / K[1, 1]))
        jump = np.abs(next_z - z) > limit * np.fmin(z, next_z)
        known = ~np.isnan(next_z - z)
        forward, backward = np.ones((2, height, width), bool)
        forward[here], backward[there] = jump | ~known, jump | ~known
        judged = np.zeros((height, width), bool)
        judged[here] |= known
        judged[there] |= known
        flying |= forward & backward & judged
    return flying
