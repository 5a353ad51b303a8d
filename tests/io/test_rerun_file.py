"""`scene.rrd`, verified and read by rerun's own tool."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from odd_scene import odd_cloud, odd_views  # noqa: F401

from lite3r_cli.io.formats import EXTRA_FORMATS
from lite3r_cli.io.scene_export import SceneExport

pytest.importorskip("rerun")


def test_rerun_reads_points_cameras_and_pictures(tmp_path, odd_views, odd_cloud) -> None:
    picture = np.full((41, 63, 3), 90, np.uint8)
    export = SceneExport(tmp_path, odd_views, odd_cloud, read_picture=lambda name: picture, up=np.array([0.1, -1, 0]))
    [path] = EXTRA_FORMATS["rrd"].write(export)
    for what in ("verify", "print"):
        run = subprocess.run([sys.executable, "-m", "rerun", "rrd", what, str(path)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert "/world/points" in run.stdout and run.stdout.count("EncodedImage:blob") == 3
    assert run.stdout.count("Pinhole:image_from_camera") == 3 and "a\\ b.jpg" in run.stdout
