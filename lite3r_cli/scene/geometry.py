"""Poses, projection and Sim(3) alignment in numpy float64, in the conventions stated in scene.py.

A pose is a (..., 3, 4) matrix [R | t] that maps points from one frame to another; its name says which:
`cam_from_world`.
Functions broadcast over leading dimensions unless they say otherwise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Similarity(NamedTuple):
    """The Sim(3) x ↦ scale · rotation @ x + translation."""

    scale: float
    rotation: Array  # (3, 3)
    translation: Array  # (3,)

    def apply(self, points: ArrayLike) -> Array:
        """Map points (..., 3)."""
        return self.scale * np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def apply_to_poses(self, cam_from_world: ArrayLike) -> Array:
        """Map poses (..., 3, 4): the same cameras in the new world, their coordinates in the new unit of length."""
        pose = np.asarray(cam_from_world, np.float64)
        rotation = pose[..., :3] @ self.rotation.T
        translation = self.scale * pose[..., 3] - rotation @ self.translation
        return np.concatenate([rotation, translation[..., None]], axis=-1)


# --- pixels ---------------------------------------------------------------------------------------------------------


def scale_intrinsics(K: ArrayLike, sx: float, sy: float) -> Array:
    """K (..., 3, 3) of an image resized by `sx` = new width / old width and `sy`: exact with centres at +0.5."""
    result: Array = np.asarray(K, np.float64) * np.array([sx, sy, 1.0])[:, None]
    return result


def pixel_grid(height: int, width: int) -> Array:
    """The pixel centres (height, width, 2) as (u, v); the first is (0.5, 0.5)."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([u, v], axis=-1)


def unproject(depth: ArrayLike, K: ArrayLike, cam_from_world: ArrayLike | None = None) -> Array:
    """World points (h, w, 3) of a z-depth map (h, w) whose own-size intrinsics are K; camera points without a pose."""
    return unproject_pixels(pixel_grid(*np.shape(depth)), depth, K, cam_from_world)


def unproject_pixels(
    pixels: ArrayLike, depth: ArrayLike, K: ArrayLike, cam_from_world: ArrayLike | None = None
) -> Array:
    """World points (..., 3) of pixels (..., 2) with z-depth (...); camera points without a pose. Undoes `project`."""
    pixels, depth = np.asarray(pixels, np.float64), np.asarray(depth, np.float64)
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1)
    points = homogeneous @ np.linalg.inv(np.asarray(K, np.float64)).T * depth[..., None]
    return points if cam_from_world is None else transform(invert_pose(cam_from_world), points)


def project(points: ArrayLike, K: ArrayLike, cam_from_world: ArrayLike | None = None) -> tuple[Array, Array]:
    """Pixels (..., 2) and z-depth (...) of world points (..., 3); pixels of points with z = 0 are not finite."""
    points = np.asarray(points, np.float64)
    if cam_from_world is not None:
        points = transform(cam_from_world, points)
    homogeneous = points @ np.asarray(K, np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return homogeneous[..., :2] / homogeneous[..., 2:], points[..., 2]


# --- poses ----------------------------------------------------------------------------------------------------------


def transform(pose: ArrayLike, points: ArrayLike) -> Array:
    """Apply one pose (3, 4) to points (..., 3)."""
    pose = np.asarray(pose, np.float64)
    result: Array = np.asarray(points, np.float64) @ pose[:, :3].T + pose[:, 3]
    return result


def invert_pose(b_from_a: ArrayLike) -> Array:
    """a_from_b (..., 3, 4) of b_from_a: [Rᵀ | −Rᵀ t]."""
    pose = np.asarray(b_from_a, np.float64)
    rotation = np.swapaxes(pose[..., :3], -1, -2)
    return np.concatenate([rotation, -rotation @ pose[..., 3:]], axis=-1)


def compose(c_from_b: ArrayLike, b_from_a: ArrayLike) -> Array:
    """c_from_a (..., 3, 4): first b_from_a, then c_from_b."""
    left, right = np.asarray(c_from_b, np.float64), np.asarray(b_from_a, np.float64)
    rotation = left[..., :3] @ right[..., :3]
    return np.concatenate([rotation, left[..., :3] @ right[..., 3:] + left[..., 3:]], axis=-1)


def relative_pose(a_from_world: ArrayLike, b_from_world: ArrayLike) -> Array:
    """b_from_a (..., 3, 4): from the coordinates of camera a to those of camera b."""
    return compose(b_from_world, invert_pose(a_from_world))


def rebase(cam_from_world: ArrayLike, reference: int = 0) -> Array:
    """Poses (S, 3, 4) in the frame of camera `reference`, which becomes exactly the identity."""
    poses = np.asarray(cam_from_world, np.float64)
    rebased = compose(poses, invert_pose(poses[reference]))
    rebased[reference] = np.eye(3, 4)
    return rebased


def camera_centres(cam_from_world: ArrayLike) -> Array:
    """Camera centres (..., 3) in the world: −Rᵀ t."""
    return invert_pose(cam_from_world)[..., 3]


def rotation_angle(rotation: ArrayLike) -> Array:
    """Angle (...) in radians, 0..π, of rotation matrices (..., 3, 3).

    atan2(2 sin θ, 2 cos θ) with the sine from the skew part and the cosine from the trace: accurate near 0 and near π,
    where arccos of the trace alone loses half of the digits.
    """
    R = np.asarray(rotation, np.float64)
    skew = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1)
    result: Array = np.arctan2(np.linalg.norm(skew, axis=-1), np.trace(R, axis1=-2, axis2=-1) - 1.0)
    return result


def vector_angle(a: ArrayLike, b: ArrayLike) -> Array:
    """Angle (...) in radians, 0..π, between vectors (..., 3) of any length > 0; accurate near 0 and near π."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    result: Array = np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1))
    return result


# --- quaternions (x, y, z, w) ---------------------------------------------------------------------------------------


def quaternion_from_matrix(rotation: ArrayLike) -> Array:
    """Unit quaternions (..., 4), w last and w ≥ 0, of rotation matrices (..., 3, 3).

    Bar-Itzhack's method in closed form: of the four columns of 4·q·qᵀ the one with the largest diagonal is normalised.
    """
    R = np.asarray(rotation, np.float64)
    xx, yy, zz = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xy, xz, yz = R[..., 1, 0] + R[..., 0, 1], R[..., 0, 2] + R[..., 2, 0], R[..., 2, 1] + R[..., 1, 2]
    xw, yw, zw = R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]
    rows = [
        [1 + xx - yy - zz, xy, xz, xw],
        [xy, 1 - xx + yy - zz, yz, yw],
        [xz, yz, 1 - xx - yy + zz, zw],
        [xw, yw, zw, 1 + xx + yy + zz],
    ]
    outer = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)  # (..., 4, 4)
    best = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    quaternion = np.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quaternion = quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True)
    result: Array = np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    return result


def matrix_from_quaternion(quaternion: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), w last; they need not have unit length."""
    q = np.asarray(quaternion, np.float64)
    x, y, z, w = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


# --- alignment ------------------------------------------------------------------------------------------------------


def umeyama(source: ArrayLike, target: ArrayLike, *, with_scale: bool = True) -> Similarity:
    """The least-squares similarity that maps `source` (N, 3) onto `target` (N, 3) (Umeyama, PAMI 1991).

    Never a reflection. Where the points leave it open (one point, a line) the answer is one of the best ones; a source
    of no extent gets scale 1. Raises ValueError for no points or different shapes.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or not len(source):
        raise ValueError(f"umeyama needs two equal (N, 3) arrays with N >= 1, got {source.shape} and {target.shape}")
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    u, singular, vt = np.linalg.svd((target - target_mean).T @ centred / len(source))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    variance = (centred**2).sum() / len(source)
    scale = float((singular * sign).sum() / variance) if with_scale and variance > 0 else 1.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)
