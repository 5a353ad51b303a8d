"""Cameras are found for pictures by name."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.pipelines.beforehand import find_cameras
from lite3r_cli.scene.posed_view import View


@pytest.mark.parametrize(
    ("pictures", "cameras", "expected"),
    [
        (["frame_000000.png", "b.HEIC"], ["frame_000000.jpg", "b.jpg"], ["frame_000000.jpg", "b.jpg"]),  # our exports
        (["sub/b.HEIC", "sub/c.jpg"], ["sub/b.jpg", "c.jpg"], ["sub/b.jpg", "c.jpg"]),
        (["sub/b.HEIC"], ["b.jpg"], ["b.jpg"]),
        (["IMG 0 (1).jpg", "IMG 0.jpg"], ["IMG_0_(1).jpg", "IMG_0.jpg"], ["IMG_0_(1).jpg", "IMG_0.jpg"]),
        (["x/0001.HEIC", "x/1.jpg"], ["y/0001.jpg", "y/1.jpg"], [None, None]),  # of another folder
        (["a.jpg", "a.png"], ["a.jpg"], ["a.jpg", None]),  # the camera has its picture
        (["a.heic", "a.png"], ["a.jpg"], [None, None]),  # of either
        (["a.heic"], ["a.jpg", "a.png"], [None]),
        (["a.heic", "a.jpg"], ["a.png", "a.jpg"], ["a.png", "a.jpg"]),
    ],
)
def test_a_camera_belongs_to_one_picture(pictures, cameras, expected):
    views = {name: View(name, 8, 6, np.eye(3), np.eye(3, 4), None, None) for name in cameras}
    found = find_cameras(views, pictures)
    assert [None if view is None else view.name for view in found] == expected
