"""`lite3r view --serve`: what is sent to viser."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from unittest.mock import MagicMock
from urllib.request import urlopen

import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.config.viewing import ViewConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.serve_scene import Guest, serve_scene
from lite3r_cli.scene.posed_view import PointCloud
from lite3r_cli.scene.voxel_pyramid import build_pyramid
from lite3r_cli.stopping import Terminated


@pytest.fixture
def scene(plane_backbone, photographs, tmp_path: Path) -> Path:
    words = ["reconstruct", photographs(2), "-o", tmp_path / "out/a.ply", "--resolution", "112", "-q"]
    assert main([str(word) for word in words]) == 0
    return tmp_path / "out/a.ply"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_page_is_served_with_all_cameras(scene: Path) -> None:
    pytest.importorskip("viser")
    addresses: list[str] = []
    config = ViewConfig(scene, serve=True, port=free_port())
    server = serve_scene(config, ready=lambda server, address: addresses.append(address))
    try:
        with urlopen(addresses[0], timeout=20) as answer:
            assert answer.status == 200 and b"<html" in answer.read(5000).lower()
        handles = server.scene._handle_from_node_name
        for view in read_cameras_json(scene.with_suffix("") / "cameras.json", load_depth=False):
            handle = handles[f"/cameras/{view.name}"]
            assert np.allclose(handle.position, -view.cam_from_world[:, :3].T @ view.cam_from_world[:, 3], atol=1e-6)
    finally:
        server.stop()


def test_a_guest_gets_new_points_when_it_has_moved() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((3000, 3)).astype("f4")
    pyramid = build_pyramid(PointCloud(points, np.zeros((3000, 3), np.uint8), np.ones(3000, "f4")))
    sent: list[int] = []

    class Client:
        scene = property(lambda self: self)

        def add_point_cloud(self, name: str, points: np.ndarray, colors: np.ndarray, point_size: float) -> None:
            assert len(points) == len(colors) and point_size > 0
            sent.append(len(points))

    guest, target = Guest(Client(), pyramid, 0.01), np.full(3, 0.5)
    for place in ([0.5, 0.5, -1], [0.5, 0.5, -1.01], [0.5, 0.5, -3]):
        guest.update(np.array(place), target)
    assert len(sent) == 2 and min(sent) > 500


@pytest.fixture
def viser(monkeypatch) -> MagicMock:
    """In place of the package: prints like it, and its server does nothing."""
    fake = MagicMock()
    fake.ViserServer.side_effect = lambda **options: print("banner") or fake.server
    fake.server.get_port.return_value = 8123
    monkeypatch.setitem(sys.modules, "viser", fake)
    monkeypatch.setattr("lite3r_cli.extras.find_spec", lambda module: True)
    return fake


def test_a_signal_stops_the_server_and_is_the_end_of_the_program(scene: Path, viser, monkeypatch, capsys) -> None:
    for error, code in ((KeyboardInterrupt(), 130), (Terminated(), 143)):
        monkeypatch.setattr("threading.Event.wait", MagicMock(side_effect=error))
        viser.server.stop.reset_mock()
        assert main(["view", str(scene), "--serve"]) == code
        assert viser.server.stop.call_count == 1
        assert capsys.readouterr().out == "http://127.0.0.1:8123\n"


def test_a_scene_that_cannot_be_shown_leaves_no_server(scene: Path, viser, capsys) -> None:
    scene.write_bytes(scene.read_bytes()[:-9])
    assert main(["view", str(scene), "--serve", "-q"]) == 3
    assert viser.server.stop.call_count == 1 and "a.ply: not a valid PLY file" in capsys.readouterr().err


def test_without_viser_it_says_what_to_install(scene: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("lite3r_cli.extras.find_spec", lambda module: None)
    assert main(["view", str(scene), "--serve"]) == 5
    assert "lite3r[serve]" in capsys.readouterr().err
    assert main(["view", str(scene), "--serve", "-o", "x.html"]) == 2
