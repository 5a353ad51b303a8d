"""COLMAP's distorted cameras: pixels as pycolmap computes them, rays that lead back, and where a model ends."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.errors import InputError
from lite3r_cli.scene.distortion import MODELS, DistortedCamera

SIZE = (641, 479)  # odd on purpose
COEFFICIENTS = {
    "SIMPLE_PINHOLE": [],
    "PINHOLE": [],
    "SIMPLE_RADIAL": [-0.12],
    "RADIAL": [0.26, -0.5],
    "OPENCV": [-0.2, 0.05, 0.003, -0.002],
    "FULL_OPENCV": [-0.2, 0.05, 0.003, -0.002, 0.01, 0.02, 0.01, 0.001],
    "SIMPLE_RADIAL_FISHEYE": [-0.03],
    "RADIAL_FISHEYE": [-0.03, 0.004],
    "OPENCV_FISHEYE": [-0.03, 0.01, -0.004, 0.001],
    "SIMPLE_FISHEYE": [],
    "FISHEYE": [],
    "FOV": [0.6],
    "SIMPLE_DIVISION": [-0.1],
    "DIVISION": [0.08],
    "EUCM": [0.6, 1.1],
    "THIN_PRISM_FISHEYE": [0.02, -0.01, 0.001, 0.002, 0.003, -0.001, 0.002, -0.001],
    "RAD_TAN_THIN_PRISM_FISHEYE": [0.02, -0.01, 0.003, 0.001, 0.0, -0.001, 0.001, 0.002, 0.001, -0.001, 0.002, 0.001],
}


def camera(model: str) -> DistortedCamera:
    focal = (500.0,) if MODELS[model].focal == 1 else (500.0, 510.0)
    return DistortedCamera(model, (*focal, 322.0, 238.0, *COEFFICIENTS[model]), *SIZE)


@pytest.mark.parametrize("model", MODELS)
def test_pixels_are_those_of_colmap_and_lead_back(model):
    pycolmap = pytest.importorskip("pycolmap")
    if not hasattr(pycolmap.CameraModelId, model):
        pytest.skip(f"pycolmap {pycolmap.__version__} has no {model}")
    rays = np.random.default_rng(0).normal(size=(500, 3)) * [0.4, 0.3, 0.1] + [0, 0, 1]
    rays[0] = [0, 0, 2]
    found = camera(model).pixels(rays)
    inside = ((found >= 0) & (found <= SIZE)).all(axis=1)
    theirs = pycolmap.Camera(
        camera_id=1, model=model, width=SIZE[0], height=SIZE[1], params=list(camera(model).params)
    ).img_from_cam(rays)
    assert inside.sum() > 300
    np.testing.assert_allclose(found[inside], np.asarray(theirs)[inside], atol=1e-9)
    back = camera(model).rays(found[inside])
    np.testing.assert_allclose(back, rays[inside] / np.linalg.norm(rays[inside], axis=1, keepdims=True), atol=1e-9)


def test_a_model_ends_where_it_folds():
    bent = DistortedCamera("SIMPLE_RADIAL", (500.0, 320.0, 240.0, -0.5), 640, 480)  # grows up to a radius of 0.816
    assert np.isfinite(bent.pixels(np.array([0.80, 0, 1.0]))).all()
    assert np.isnan(bent.pixels(np.array([0.83, 0, 1.0]))).all()
    assert np.isnan(bent.rays(np.array([[639.0, 479.0]]))).all()  # no direction leads there
    assert np.isnan(bent.pixels(np.array([0, 0, -1.0]))).all()


def test_a_fisheye_sees_beyond_a_right_angle():
    fisheye = DistortedCamera("OPENCV_FISHEYE", (200.0, 200.0, 320.0, 320.0, 0, 0, 0, 0), 640, 640)
    sideways = np.array([[np.sin(1.6), 0, np.cos(1.6)]])
    np.testing.assert_allclose(fisheye.pixels(sideways), [[640, 320]], atol=1e-9)
    np.testing.assert_allclose(fisheye.rays(fisheye.pixels(sideways)), sideways, atol=1e-9)


def test_unknown_models_and_wrong_counts_are_named():
    with pytest.raises(InputError, match="camera model POV"):
        DistortedCamera("POV", (1.0,), 10, 10)
    with pytest.raises(InputError, match="SIMPLE_RADIAL has 4 parameters, not 3"):
        DistortedCamera("SIMPLE_RADIAL", (1.0, 2.0, 3.0), 10, 10)
