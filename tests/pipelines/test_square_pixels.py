"""Square pixels stay square whatever the rounding to whole patches does, and poses fit the focal length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import photograph
from PIL import Image

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import ImageRecord, discover
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines.as_views import square_pixels
from lite3r_cli.pipelines.predict import Predictor


@pytest.mark.parametrize("width, height", [(256, 192), (240, 160), (320, 240), (500, 375), (1400, 200), (192, 256)])
@pytest.mark.parametrize("resolution", [None, 238, 350])
def test_one_focal_length_for_every_size(tmp_path, plane_backbone, width, height, resolution):
    for i in range(2):
        photograph(tmp_path / f"{i}.png", width, height, seed=i)
    config = PredictConfig(resolution=resolution, device="cpu", dtype="float32")
    views = Predictor(config).predict(discover([tmp_path])).views
    assert all(view.K[0, 0] == pytest.approx(view.K[1, 1], rel=1e-12) for view in views)


def test_the_files_own_pixel_aspect_is_kept(tmp_path, plane_backbone):
    photograph(tmp_path / "a.png", 256, 192)
    Image.open(tmp_path / "a.png").save(tmp_path / "b.jpg", dpi=(72, 96))
    views = Predictor(PredictConfig(device="cpu", dtype="float32")).predict(discover([tmp_path])).views
    assert views[1].K[1, 1] / views[1].K[0, 0] == pytest.approx(96 / 72, rel=1e-6)


@pytest.mark.parametrize("aspect", [1.0, 4 / 3])
@pytest.mark.parametrize(
    "stored, shown", [((256, 192), (196, 252)), ((1400, 200), (70, 518)), ((192, 256), (252, 196))]
)
def test_pose_and_focal_length_of_a_squeezed_scene(stored, shown, aspect):
    """A camera of one focal length, as a network with another one sees it in a squeezed picture."""
    (width, height), (h, w) = stored, shown
    true, believed, translation = 1.1 * width, 250.0, np.array([0.3, -0.2, 0.1])
    across, down = true / aspect * w / width / believed, true * h / height / believed
    pose = np.c_[np.eye(3), translation * (across, down, 1)]
    record = ImageRecord("a.png", Path("a.png"), width, height, pixel_aspect=aspect)
    K = np.array([[believed, 0, w / 2], [0, believed, h / 2], [0, 0, 1]])
    K, moved = square_pixels(record, NetworkInput(np.zeros((h, w, 3), np.uint8), (h, w)), K, pose)
    assert K[0, 0] * aspect == pytest.approx(K[1, 1])
    ratio = K[1, 1] / true  # what is left is the network's own error of the focal length
    assert np.allclose(moved[:2, 3] * ratio, translation[:2]) and moved[2, 3] == translation[2]
