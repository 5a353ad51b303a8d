"""Each extra format: written, read back by its own reader or by the format's description, compared."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from odd_scene import odd_cloud, odd_views  # noqa: F401

from lite3r_cli.extras import is_installed
from lite3r_cli.io import colmap
from lite3r_cli.io.formats import EXTRA_FORMATS
from lite3r_cli.io.glb import for_viewing, linear
from lite3r_cli.io.ply import read_ply
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene.facing import Facing
from lite3r_cli.scene.geometry import invert_pose, matrix_from_quaternion
from lite3r_cli.scene.posed_view import PointCloud, View

# those whose packages are here; what rerun writes has the time in it, see test_rerun_file
HERE = [n for n, each in EXTRA_FORMATS.items() if n != "rrd" and all(map(is_installed, each.needs))]


def nothing() -> PointCloud:
    return PointCloud(np.zeros((0, 3), "f4"), np.zeros((0, 3), "u1"), np.zeros(0, "f4"))


@pytest.mark.parametrize("name", HERE)
def test_returned_files_are_what_is_there_and_the_same_every_time(tmp_path, odd_views, odd_cloud, name: str) -> None:
    for folder in ("one", "two"):
        files = EXTRA_FORMATS[name].write(SceneExport(tmp_path / folder, odd_views, odd_cloud))
        assert sorted(files) == sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file())
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize("name", HERE)
def test_no_points_and_one_view(tmp_path, odd_views, name: str) -> None:
    assert EXTRA_FORMATS[name].write(SceneExport(tmp_path, odd_views[:1], nothing()))


def test_formats_share_a_folder(tmp_path, odd_views, odd_cloud) -> None:
    files = [f for name in HERE for f in EXTRA_FORMATS[name].write(SceneExport(tmp_path, odd_views, odd_cloud))]
    assert len(set(files)) == len(files)


def test_colmap_text_and_binary_agree_with_the_scene(tmp_path, odd_views, odd_cloud) -> None:
    EXTRA_FORMATS["colmap"].write(SceneExport(tmp_path, odd_views, odd_cloud))
    folder = tmp_path / "sparse/0"

    def records(name: str) -> list[str]:
        return [line for line in (folder / name).read_text("utf-8").split("\n") if not line.startswith("#")]

    cameras = [line.split() for line in records("cameras.txt")[:-1]]
    assert [(c[0], c[1]) for c in cameras] == [("1", "PINHOLE"), ("2", "PINHOLE")]  # the first and third share one
    data = (folder / "cameras.bin").read_bytes()
    assert struct.unpack_from("<QIiQQ4d", data)[0] == 2 and len(data) == 8 + 2 * 56
    for index, camera in enumerate(cameras):
        assert struct.unpack_from("<IiQQ4d", data, 8 + 56 * index) == (index + 1, 1, *map(float, camera[2:]))

    lines, data, offset = records("images.txt")[:-1], (folder / "images.bin").read_bytes(), 8
    assert lines[1::2] == ["", "", ""]
    for line, view in zip(lines[0::2], odd_views):
        number, *pose, camera, name = line.split(" ", 9)
        w, *xyz = map(float, pose[:4])
        assert np.allclose(matrix_from_quaternion([*xyz, w]), view.cam_from_world[:, :3], atol=1e-12)
        assert np.array_equal(list(map(float, pose[4:])), view.cam_from_world[:, 3]) and name == view.name
        _, _model, width, height, fx, fy, cx, cy = cameras[int(camera) - 1]
        assert (int(width), int(height)) == (view.width, view.height)
        assert np.array_equal([[float(fx), 0, float(cx)], [0, float(fy), float(cy)], [0, 0, 1]], view.K)
        record = struct.pack("<I7dI", int(number), *map(float, pose), int(camera)) + name.encode() + b"\0" + bytes(8)
        assert data[offset : offset + len(record)] == record
        offset += len(record)
    assert offset == len(data)

    rows = np.array([line.split() for line in records("points3D.txt")[:-1]], dtype=float)
    assert np.array_equal(rows[:, 1:4].astype("f4"), odd_cloud.points)
    assert np.array_equal(rows[:, 4:7], odd_cloud.colors)
    point = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
    points = np.frombuffer((folder / "points3D.bin").read_bytes(), point, offset=8)
    assert np.array_equal(points["xyz"].astype("f4"), odd_cloud.points)
    assert np.array_equal(points["rgb"], odd_cloud.colors)


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_pycolmap_reads_it(tmp_path, odd_views, odd_cloud, suffix: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    if suffix == ".txt":  # COLMAP ends a name at the first blank when it reads text
        odd_views = [replace(view, name=view.name.replace(" ", "_")) for view in odd_views]
    files = EXTRA_FORMATS["colmap"].write(SceneExport(tmp_path, odd_views, odd_cloud))
    for path in files:
        if path.suffix != suffix:
            path.unlink()
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    assert model.num_cameras() == 2 and model.num_points3D() == len(odd_cloud)
    found = {image.name: image for image in model.images.values()}
    for view in odd_views:
        image = found[view.name]
        assert np.allclose(image.cam_from_world().matrix(), view.cam_from_world, atol=1e-12)
        assert np.array_equal(image.camera.calibration_matrix(), view.K)
        assert (image.camera.width, image.camera.height) == (view.width, view.height)
    point = model.points3D[37]
    assert np.allclose(point.xyz, odd_cloud.points[36]) and np.array_equal(point.color, odd_cloud.colors[36])


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_views_of_360_degree_pictures_are_a_rig(tmp_path, odd_views, odd_cloud, suffix: str) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    alone = replace(odd_views[1], name="u.png")
    views = [alone]
    for name, first, count, pose in (  # the first two of one were left out
        ("p", 2, 3, odd_views[0].cam_from_world),
        ("q", 0, 4, odd_views[2].cam_from_world),
    ):
        for number in range(first, first + count):
            facing = Facing(f"{name}.jpg", number, 40)
            turned = facing.turn @ pose
            views.append(View(f"{name}-{number}.jpg", 40, 40, facing.K, turned, facing=facing))
    files = EXTRA_FORMATS["colmap"].write(SceneExport(tmp_path, views, odd_cloud))
    for path in files:
        if path.suffix != suffix:
            path.unlink()
    model = pycolmap.Reconstruction(str(tmp_path / "sparse/0"))
    assert (model.num_rigs(), model.num_frames(), model.num_images(), model.num_cameras()) == (2, 3, 8, 5 + 1)
    assert sorted(rig.num_sensors() for rig in model.rigs.values()) == [1, 5]
    for image in model.images.values():
        [view] = [view for view in views if view.name == image.name]
        assert np.allclose(image.cam_from_world().matrix(), view.cam_from_world, atol=1e-12)
    frames = {tuple(sorted(model.images[d.id].name[0] for d in frame.data_ids)) for frame in model.frames.values()}
    assert frames == {("u",), ("p",) * 3, ("q",) * 4}


def test_colmap_keeps_to_its_budget_and_to_one_line_a_name(tmp_path, monkeypatch, odd_views, odd_cloud) -> None:
    monkeypatch.setattr(colmap, "MAX_POINTS", 10)
    EXTRA_FORMATS["colmap"].write(SceneExport(tmp_path, [replace(odd_views[0], name="a\nb.jpg")], odd_cloud))
    lines = (tmp_path / "sparse/0/points3D.txt").read_text().splitlines()
    points = [line for line in lines if not line.startswith("#")]
    assert len(points) == 10 and points[0].split()[1] == f"{odd_cloud.points[0, 0]:.9g}"
    assert "a b.jpg" in (tmp_path / "sparse/0/images.txt").read_text()


def test_rounding_makes_no_second_camera(tmp_path, odd_views, odd_cloud) -> None:
    first = odd_views[0]
    K = first.K.copy()
    K[0, 0] = np.nextafter(K[0, 0], 1e9)
    longer = replace(first, name="longer.jpg", K=K * np.array([[1.001], [1.0], [1.0]]))
    views = [first, replace(first, name="again.jpg", K=K), longer]
    EXTRA_FORMATS["colmap"].write(SceneExport(tmp_path, views, odd_cloud))
    lines = (tmp_path / "sparse/0/cameras.txt").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 2


def test_nerfstudio(tmp_path: Path, odd_views, odd_cloud) -> None:
    masks, depths = {odd_views[0].name: "masks/a b.jpg.png"}, {odd_views[1].name: ("depth/u.png", 5000.0)}
    pictures = {view.name: f"images/{view.name}" for view in odd_views}
    scene = SceneExport(tmp_path / "staging", odd_views, odd_cloud, None, pictures, masks, depths)
    EXTRA_FORMATS["nerfstudio"].write(scene)
    document = json.loads((tmp_path / "staging/transforms.json").read_text())
    assert [frame["file_path"] for frame in document["frames"]] == [f"images/{view.name}" for view in odd_views]
    assert [frame.get("mask_path") for frame in document["frames"]] == ["masks/a b.jpg.png", None, None]
    depth = document["frames"][1]
    assert (depth["depth_file_path"], depth["depth_unit_scale_factor"]) == ("depth/u.png", 1 / 5000)
    # instant-ngp: position · scale + offset, then in a box of side aabb_scale around 0.5
    middle = np.median(odd_cloud.points, axis=0) * document["scale"] + document["offset"]
    for view in odd_views:
        centre = invert_pose(view.cam_from_world)[:, 3] * document["scale"] + document["offset"]
        assert (np.abs(centre - 0.5) <= document["aabb_scale"] / 2).all()
    assert (np.abs(middle - 0.5) <= document["aabb_scale"] / 2).all() and document["up"] == [0, -1, 0]
    for frame, view in zip(document["frames"], odd_views):
        pose = np.array(frame["transform_matrix"])
        ahead = invert_pose(view.cam_from_world) @ [0, 0, 1, 1]
        assert np.allclose(pose @ [0, 0, -1, 1], [*ahead, 1])  # OpenGL cameras look along -z …
        below = invert_pose(view.cam_from_world) @ [0, 1, 0, 1]
        assert np.allclose(pose @ [0, -1, 0, 1], [*below, 1])  # … with +y up
        assert [frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"]] == view.K[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        assert (frame["w"], frame["h"]) == (view.width, view.height)
    cloud = read_ply(tmp_path / "staging" / document["ply_file_path"])
    assert np.array_equal(cloud.points, odd_cloud.points)


def test_tum(tmp_path: Path, odd_views, odd_cloud) -> None:
    EXTRA_FORMATS["tum"].write(SceneExport(tmp_path, odd_views, odd_cloud))
    rows = np.loadtxt(tmp_path / "trajectory.txt")
    assert np.array_equal(rows[:, 0], [0, 1, 2])
    for row, view in zip(rows, odd_views):
        pose = invert_pose(view.cam_from_world)
        assert np.allclose(row[1:4], pose[:, 3], atol=1e-8)
        assert np.allclose(matrix_from_quaternion(row[4:]), pose[:, :3], atol=1e-8)


def test_glb(tmp_path: Path, odd_views, odd_cloud) -> None:
    trimesh = pytest.importorskip("trimesh")

    EXTRA_FORMATS["glb"].write(SceneExport(tmp_path, odd_views, odd_cloud))
    scene = trimesh.load(tmp_path / "scene.glb")
    name = next(n for n, g in scene.geometry.items() if isinstance(g, trimesh.PointCloud))
    pose, _ = scene.graph.get("points")
    points = scene.geometry[name].vertices @ pose[:3, :3].T + pose[:3, 3]
    size = np.ptp(odd_cloud.points, axis=0).max()
    assert np.abs(points - odd_cloud.points * [1, -1, -1]).max() <= size / 65535  # y up, z towards the viewer
    for view in odd_views:
        pose, _ = scene.graph.get(f"camera {view.name}")
        ahead = invert_pose(view.cam_from_world) @ [0, 0, 1, 1]
        assert np.allclose(pose @ [0, 0, -1, 1], [*(ahead * [1, -1, -1]), 1], atol=1e-6)


def test_glb_colours_are_linear_unlit_and_cameras_are_cameras(tmp_path: Path, odd_views, odd_cloud) -> None:
    EXTRA_FORMATS["glb"].write(SceneExport(tmp_path, odd_views, odd_cloud))
    data = (tmp_path / "scene.glb").read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    document, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    (points,) = (m["primitives"][0] for m in document["meshes"] if m["name"] == "points")
    accessor = document["accessors"][points["attributes"]["COLOR_0"]]
    view = document["bufferViews"][accessor["bufferView"]]
    rows = np.frombuffer(binary, np.uint16, accessor["count"] * 4, view["byteOffset"]).reshape(-1, 4)[:, :3]
    assert accessor["normalized"] and np.array_equal(rows, linear(odd_cloud.colors))
    assert abs(linear(np.array([[188]], np.uint8)).item() / 65535 - 0.5) < 0.01
    assert all("KHR_materials_unlit" in material["extensions"] for material in document["materials"])
    for lens, odd in zip(document["cameras"], odd_views):
        assert np.isclose(np.tan(lens["perspective"]["yfov"] / 2), odd.height / 2 / odd.K[1, 1])


def test_a_far_fragment_does_not_set_the_view(odd_views, odd_cloud) -> None:
    many = PointCloud(*(np.repeat(a, 10, axis=0) for a in (odd_cloud.points, odd_cloud.colors, odd_cloud.confidence)))
    many.points[0] = 1000
    near = for_viewing(many, odd_views)
    assert len(near) == len(many) - 1 and np.abs(near.points).max() < 10
