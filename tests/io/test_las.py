"""The cloud as LAS and LAZ, read back by laspy: places, heights, colours, and the coordinate system's name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from odd_scene import odd_cloud, odd_views  # noqa: F401

from lite3r_cli.errors import BackendError
from lite3r_cli.io.formats import EXTRA_FORMATS, require_known
from lite3r_cli.io.las import utm_code
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene.frame import METRIC
from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.world.geodesy import LocalFrame

laspy = pytest.importorskip("laspy")
TURNED = Similarity(1.0, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.array([0, 0, 0.25]))


@pytest.mark.parametrize("name", ["las", "laz"])
def test_points_come_back_with_z_up(tmp_path, odd_views, odd_cloud, name: str) -> None:
    [path] = EXTRA_FORMATS[name].write(SceneExport(tmp_path, odd_views, odd_cloud, upright=TURNED, frame=METRIC))
    las = laspy.read(path)
    assert path.name == f"scene.{name}" and str(las.header.version) == "1.4" and las.header.parse_crs() is None
    assert las.header.are_points_compressed == (name == "laz") and list(las.header.scales) == [1e-4] * 3
    assert np.abs(las.xyz - TURNED.apply(odd_cloud.points)).max() <= 0.51e-4
    assert np.array_equal(np.stack([las.red, las.green, las.blue], 1) // 257, odd_cloud.colors)
    assert np.array_equal(las["confidence"], odd_cloud.confidence)


def test_a_scene_without_units_keeps_its_digits(tmp_path, odd_views, odd_cloud) -> None:
    small = replace(odd_cloud, points=odd_cloud.points * np.float32(1e-4))
    [path] = EXTRA_FORMATS["las"].write(SceneExport(tmp_path, odd_views, small))
    assert np.abs(laspy.read(path).xyz - small.points).max() < 1e-12


@pytest.mark.parametrize(("place", "code"), [((47.37, 8.54, 410.0), 32632), ((-33.86, 151.2, 20.0), 32756)])
def test_a_georeferenced_cloud_stands_in_its_utm_zone(tmp_path, odd_views, odd_cloud, place, code: int) -> None:
    pyproj = pytest.importorskip("pyproj")
    frame = LocalFrame(*place)
    export = SceneExport(tmp_path, odd_views, odd_cloud, frame=METRIC, geographic=frame.places)
    las = laspy.read(EXTRA_FORMATS["las"].write(export)[0])
    crs = las.header.parse_crs()
    assert crs.to_epsg() == code and las.header.global_encoding.wkt
    back = pyproj.Transformer.from_crs(crs, "EPSG:4979", always_xy=True).transform(*las.xyz.T)
    local = frame.local(np.stack([back[1], back[0], las.xyz[:, 2]], axis=1))
    assert np.abs(local - odd_cloud.points).max() < 3e-4


def test_zones() -> None:
    places = [(0, -180), (0, 179.99), (60, 2.9), (-0.1, 3.0), (85, 10), (-81, 10)]
    assert [utm_code(*place) for place in places] == [32601, 32660, 32631, 32731, 5041, 5042]


def test_a_missing_package_is_told_before_anything_runs(monkeypatch) -> None:
    monkeypatch.setattr("lite3r_cli.extras.find_spec", lambda module: None)
    with pytest.raises(BackendError, match=r"--format laz needs .*laspy.*lite3r\[las\]"):
        require_known(["laz"])
