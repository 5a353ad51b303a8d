"""One robust bundle adjustment with pycolmap, and the removal of bad points. It runs on one thread, so that sums have a
fixed order.

A model is a pycolmap.Reconstruction, in which picture i of the set has the number i + 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .backend import require_pycolmap

Position = tuple[int, np.ndarray, np.ndarray]  # number of a picture, its camera centre (3,), standard deviation (3,)


@dataclass(frozen=True)
class Free:
    """What an adjustment may change besides poses and points."""

    focal: bool = True
    distortion: bool = False
    centre: bool = False  # principal points
    fixed_cameras: Collection[int] = ()  # numbers of cameras with known intrinsics
    poses: bool = True
    positions: Sequence[Position] = ()  # known camera centres, in the frame of the model


def adjust(model, loss_scale: float, free: Free, iterations: int = 50, tolerance: float = 1e-5) -> None:
    """Adjust all points and what is `free`, in place; Cauchy loss with `loss_scale` in pixels."""
    pycolmap = require_pycolmap()
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = free.focal
    options.refine_extra_params = free.distortion
    options.refine_principal_point = free.centre
    options.refine_rig_from_world = free.poses
    options.refine_sensor_from_rig = False
    options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_scale
    options.ceres.solver_options.max_num_iterations = iterations
    options.ceres.solver_options.function_tolerance = tolerance
    options.ceres.solver_options.num_threads = 1
    problem = pycolmap.BundleAdjustmentConfig()
    for i in sorted(model.reg_image_ids()):
        problem.add_image(i)
        if model.image(i).camera_id in free.fixed_cameras:
            problem.set_constant_cam_intrinsics(model.image(i).camera_id)
    if free.positions:
        _beside_positions(options, problem, free.positions, model).solve()
    else:
        if free.poses:
            problem.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        pycolmap.create_default_bundle_adjuster(options, problem, model).solve()
    model.update_point_3d_errors()


def _beside_positions(options, problem, positions: Sequence[Position], model):
    """An adjuster with a cost for the distance of cameras from their known positions, which fix the gauge."""
    pycolmap = require_pycolmap()
    how = pycolmap.PosePriorBundleAdjustmentOptions()
    how.alignment_ransac.random_seed = 0
    how.ceres.prior_position_loss_function_type = pycolmap.LossFunctionType.CAUCHY
    priors = [
        pycolmap.PosePrior(
            pose_prior_id=k + 1,
            corr_data_id=model.image(number).data_id,
            position=position,
            position_covariance=np.diag(sigma**2),
            coordinate_system=pycolmap.PosePriorCoordinateSystem.CARTESIAN,
        )
        for k, (number, position, sigma) in enumerate(positions)
    ]
    return pycolmap.create_pose_prior_bundle_adjuster(options, how, problem, priors, model)


def drop_outliers(model, max_error: float) -> None:
    """Drop observations behind the camera or with a reprojection error above `max_error` pixels, at any triangulation
    angle.
    """
    manager = require_pycolmap().ObservationManager(model)
    manager.filter_observations_with_negative_depth()
    manager.filter_all_points3D(max_error, 0.0)  # accept all angles


def drop_weak_points(model, max_error: float, min_angle_deg: float) -> None:
    """Drop observations behind the camera or with a reprojection error above `max_error` pixels, and points with a
    small triangulation angle.
    """
    manager = require_pycolmap().ObservationManager(model)
    manager.filter_all_points3D(max_error, min_angle_deg)
    manager.filter_observations_with_negative_depth()
