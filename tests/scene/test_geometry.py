"""Poses, projection, quaternions and Sim(3) alignment against hand-computed and closed-form cases."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.scene import geometry


def rotation_about(axis, angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def random_poses(rng, count: int) -> np.ndarray:
    rotations = [rotation_about(rng.normal(size=3), rng.uniform(0, np.pi)) for _ in range(count)]
    return np.concatenate([np.stack(rotations), rng.normal(size=(count, 3, 1))], axis=-1)


K = np.array([[50.0, 0.5, 31.0], [0.0, 55.0, 17.0], [0.0, 0.0, 1.0]])


def test_pixel_centres_lie_at_one_half():
    grid = geometry.pixel_grid(2, 3)
    assert grid.shape == (2, 3, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5] and grid[1, 2].tolist() == [2.5, 1.5]


def test_projecting_unprojected_pixels_returns_them():
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 5, size=(33, 61))
    pose = random_poses(rng, 1)[0]
    pixels, z = geometry.project(geometry.unproject(depth, K, pose), K, pose)
    np.testing.assert_allclose(pixels, geometry.pixel_grid(33, 61), atol=1e-9)
    np.testing.assert_allclose(z, depth)


def test_unproject_by_hand():
    """A pixel at the principal point lies on the optical axis; the camera stands at (0, 0, -2)."""
    simple = np.array([[2.0, 0, 1.5], [0, 2.0, 0.5], [0, 0, 1]])
    points = geometry.unproject(np.full((1, 3), 4.0), simple, np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2]]))
    np.testing.assert_allclose(points[0], [[-2, 0, 2], [0, 0, 2], [2, 0, 2]])


def test_scaled_intrinsics_see_the_same_rays():
    point = np.array([0.3, -0.2, 2.0])
    full, _ = geometry.project(point, K)
    half, _ = geometry.project(point, geometry.scale_intrinsics(K, 0.5, 0.25))
    np.testing.assert_allclose(half, full * [0.5, 0.25])


def test_pose_algebra():
    rng = np.random.default_rng(1)
    poses = random_poses(rng, 5)
    points = rng.normal(size=(7, 3))
    identity = geometry.compose(poses, geometry.invert_pose(poses))
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3, 4), (5, 3, 4)), atol=1e-12)
    one_from_zero = geometry.relative_pose(poses[0], poses[1])
    in_zero, in_one = geometry.transform(poses[0], points), geometry.transform(poses[1], points)
    np.testing.assert_allclose(geometry.transform(one_from_zero, in_zero), in_one, atol=1e-12)
    rebased = geometry.rebase(poses, reference=2)
    assert np.array_equal(rebased[2], np.eye(3, 4))
    np.testing.assert_allclose(
        geometry.relative_pose(rebased[0], rebased[4]), geometry.relative_pose(poses[0], poses[4]), atol=1e-12
    )


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 1.0, np.pi / 2, np.pi - 1e-4, np.pi - 1e-9])
def test_rotation_angle_keeps_its_digits_at_both_ends(angle):
    measured = float(geometry.rotation_angle(rotation_about([1, -2, 0.5], angle)))
    assert measured == pytest.approx(angle, abs=2e-15 + 1e-12 * angle)
    assert np.pi - measured == pytest.approx(np.pi - angle, abs=1e-15 + 1e-12)


def test_vector_angle_is_signed_by_direction():
    assert geometry.vector_angle([1, 0, 0], [-3, 0, 0]) == pytest.approx(np.pi)
    assert geometry.vector_angle([1, 0, 0], [5, 5e-9, 0]) == pytest.approx(1e-9, rel=1e-9)


def test_quaternions_are_w_last_and_round_trip():
    quarter_turn = rotation_about([0, 0, 1], np.pi / 2)
    np.testing.assert_allclose(geometry.quaternion_from_matrix(quarter_turn), [0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    axes = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3]]
    rotations = np.stack([rotation_about(axis, angle) for axis in axes for angle in (0, 1e-8, 2.0, np.pi, 4.0)])
    quaternions = geometry.quaternion_from_matrix(rotations)
    assert (quaternions[:, 3] >= 0).all()
    np.testing.assert_allclose(geometry.matrix_from_quaternion(2 * quaternions), rotations, atol=1e-14)


def test_umeyama_recovers_a_similarity_and_never_reflects():
    rng = np.random.default_rng(2)
    truth = geometry.Similarity(3.5, rotation_about([1, 1, 0], 2.5), np.array([1.0, -2.0, 7.0]))
    points = rng.normal(size=(20, 3)) * [5, 1, 0.2]
    found = geometry.umeyama(points, truth.apply(points))
    assert found.scale == pytest.approx(3.5)
    np.testing.assert_allclose(found.rotation, truth.rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, truth.translation, atol=1e-10)
    mirrored = geometry.umeyama(points, points * [1, 1, -1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1)
    assert geometry.umeyama(points[:1], points[1:2]).scale == 1.0
    with pytest.raises(ValueError, match="equal"):
        geometry.umeyama(points, points[:3])


def test_a_similarity_moves_cameras_with_the_scene():
    """Pixels of the moved points in the moved cameras stay, depths scale."""
    rng = np.random.default_rng(3)
    poses, points = random_poses(rng, 3), rng.normal(size=(9, 3))
    similarity = geometry.Similarity(0.3, rotation_about([0, 1, 2], 1.1), np.array([4.0, 5.0, -6.0]))
    moved = similarity.apply_to_poses(poses)
    for before, after in zip(poses, moved, strict=True):
        pixels, z = geometry.project(points, K, before)
        moved_pixels, moved_z = geometry.project(similarity.apply(points), K, after)
        np.testing.assert_allclose(moved_pixels, pixels, rtol=1e-8)
        np.testing.assert_allclose(moved_z, 0.3 * z, rtol=1e-9)
    np.testing.assert_allclose(geometry.camera_centres(moved), similarity.apply(geometry.camera_centres(poses)))
