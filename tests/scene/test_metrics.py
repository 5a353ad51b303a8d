"""The measures against hand-computed cases: what is perfect, what is opposite, what is off by a known amount."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.scene import geometry, metrics


def turned(degrees: float, axis: int = 1) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    rotation = np.eye(3)
    a, b = [k for k in range(3) if k != axis]
    rotation[[a, a, b, b], [a, b, a, b]] = [c, -s, s, c]
    return rotation


def poses(*centres, degrees=None) -> np.ndarray:
    """Cameras at `centres`, turned about y by `degrees`."""
    rotations = [turned(d) for d in (degrees or [0] * len(centres))]
    return np.stack([np.c_[R, -R @ np.asarray(c, np.float64)] for R, c in zip(rotations, centres, strict=True)])


SQUARE = poses([0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.5], degrees=[0, 20, -35, 170])


def test_a_similar_world_is_perfect():
    similarity = geometry.Similarity(0.01, turned(77, axis=0), np.array([5.0, -3.0, 40.0]))
    errors = metrics.pair_errors(similarity.apply_to_poses(SQUARE), SQUARE, min_baseline=1e-6)
    assert errors.rotation.shape == (6,)
    assert errors.larger.max() < 1e-5
    assert [metrics.auc(errors.larger, t) for t in (5, 15, 30)] == [1, 1, 1]


def test_a_mirrored_path_counts_as_opposite():
    flipped = poses([0, 0, 0], [-2, 0, 0], [-4, 0, 0])
    errors = metrics.pair_errors(flipped, poses([0, 0, 0], [1, 0, 0], [2, 0, 0]), min_baseline=1e-6)
    np.testing.assert_allclose(errors.translation, 180)
    np.testing.assert_allclose(errors.rotation, 0, atol=1e-9)


def test_known_rotation_and_direction_errors():
    truth = poses([0, 0, 0], [1, 0, 0])
    errors = metrics.pair_errors(poses([0, 0, 0], [1, 1, 0], degrees=[0, 12]), truth, min_baseline=1e-6)
    assert errors.rotation == pytest.approx([12]) and errors.translation == pytest.approx([45])
    assert errors.larger == pytest.approx([45])


def test_pairs_without_a_true_baseline_count_rotation_only():
    truth = poses([0, 0, 0], [0, 0, 0], [1, 0, 0])
    predicted = poses([0, 0, 0], [0, 5, 0], [1, 0, 0], degrees=[0, 3, 0])
    errors = metrics.pair_errors(predicted, truth, min_baseline=1e-6)
    assert np.isnan(errors.translation).tolist() == [True, False, False]
    assert errors.larger[0] == pytest.approx(3)


def test_a_prediction_without_baseline_is_not_rewarded():
    errors = metrics.pair_errors(poses([0, 0, 0], [0, 0, 0]), poses([0, 0, 0], [1, 0, 0]), min_baseline=1e-6)
    assert errors.translation == [90]


def test_auc_by_hand():
    """Below 1: 0.5 alone; below 2: 0.5; below 3: 0.5 and 2.0; 3.0 is not below 3 and 40 never counts."""
    assert metrics.auc(np.array([3.0, 0.5, 40.0, 2.0]), 3) == pytest.approx((1 + 1 + 2) / 3 / 4)
    assert metrics.auc(np.array([180.0]), 30) == 0
    with pytest.raises(ValueError):
        metrics.auc(np.array([]), 5)


def test_focal_error_in_per_cent():
    truth = np.stack([np.diag([100.0, 200.0, 1.0])] * 2)
    predicted = np.stack([np.diag([110.0, 220.0, 1.0]), np.diag([95.0, 220.0, 1.0])])
    assert metrics.focal_error(predicted, truth) == pytest.approx([10, 7.5])


def test_depth_errors_by_hand():
    truth = np.array([2.0, 4.0, 8.0, 0.0], np.float32)
    predicted = np.array([2.0, 5.0, 0.0, 3.0], np.float32)  # right, exactly 1.25 times, missing, no truth
    absrel, delta = metrics.depth_errors(predicted, truth)
    assert absrel == pytest.approx((0 + 0.25 + 1) / 3) and delta == pytest.approx(1 / 3)
    assert np.isnan(metrics.depth_errors(predicted, np.zeros(4))).all()


def test_the_scale_is_the_median_ratio():
    truth = np.array([1.0, 2.0, 3.0, 0.0, 9.0], np.float32)
    assert metrics.depth_scale(np.array([0.5, 1.0, 100.0, 7.0, 0.0], np.float32), truth) == pytest.approx(2)
    assert metrics.depth_scale(np.zeros(5), truth) == 1


def test_resampling_keeps_pixel_centres_and_holes():
    """A ramp in u stays the same ramp: value = 10 + u / width."""
    small, large = geometry.pixel_grid(7, 11)[..., 0] / 11, geometry.pixel_grid(21, 55)[..., 0] / 55
    np.testing.assert_allclose(metrics.resample_depth(10 + small, (21, 55))[:, 3:-3], 10 + large[:, 3:-3], rtol=1e-6)
    holed = (10 + small).astype(np.float32)
    holed[3, 5] = 0
    result = metrics.resample_depth(holed, (21, 55))
    assert (result == 0).sum() == 3 * 5 and result[result > 0].min() > 10  # nothing is drawn towards the hole
    assert metrics.resample_depth(np.zeros((3, 3)), (5, 7)).max() == 0


def test_chamfer_by_hand():
    a = np.array([[0.0, 0, 0], [1, 0, 0]])
    b = np.array([[0.0, 0, 0.5]])
    assert metrics.accuracy_completeness(a, b) == pytest.approx(((0.5 + np.sqrt(1.25)) / 2, 0.5))
    assert np.isnan(metrics.accuracy_completeness(a, b[:0])).all()


def test_chamfer_finds_the_exact_neighbours():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(301, 3)), rng.normal(size=(407, 3))
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    expected = distances.min(axis=1).mean(), distances.min(axis=0).mean()
    assert metrics.accuracy_completeness(a, b) == pytest.approx(expected, rel=1e-6)
