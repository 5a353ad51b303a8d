"""`lite3r view --serve` during a run in chunks: what it shows after each of them, and at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.errors import InputError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.long.pass_store import PassStore
from lite3r_cli.long.work_folder import IMAGES
from lite3r_cli.pipelines.live_chunks import LiveChunks, running
from lite3r_cli.pipelines.serve_scene import Follower, Stage
from tests.conftest import PLANE_DEPTH, STEP, photograph


class Handle:
    def __init__(self, shown: dict[str, Any], name: str, what: dict[str, Any]) -> None:
        self.shown, self.name = shown, name
        shown[name] = what

    def remove(self) -> None:
        del self.shown[self.name]

    def on_click(self, act: Any) -> None:
        pass


class Server:
    """Holds what viser would show."""

    def __init__(self) -> None:
        self.shown: dict[str, Any] = {}
        self.scene = self

    def on_client_connect(self, act: Any) -> None:
        pass

    def get_clients(self) -> dict[int, Any]:
        return {}

    def set_up_direction(self, up: tuple[float, float, float]) -> None:
        pass

    def add_camera_frustum(self, name: str, **what: Any) -> Handle:
        return Handle(self.shown, name, what)

    def add_point_cloud(self, name: str, points: np.ndarray, colors: np.ndarray, point_size: float) -> Handle:
        assert len(points) == len(colors) and point_size > 0
        return Handle(self.shown, name, {"points": points})


def words(photos: Path, scene: Path) -> list[str]:
    line = ["reconstruct", photos, "-o", scene, "--chunk", "4", "--resolution", "98", "--device", "cpu", "-q"]
    return [str(word) for word in line]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k in range(10):
        photograph(tmp_path / "photos" / f"frame{k:03d}.png", seed=k)
    return tmp_path / "photos"


def test_a_run_is_shown_chunk_by_chunk_and_then_the_scene(photos, tmp_path, plane_backbone, monkeypatch) -> None:
    scene, server, told = tmp_path / "out" / "a.ply", Server(), []
    write, followers, cameras, points = PassStore.write, [], [], []

    def written(store: PassStore, *given: Any, **more: Any) -> None:
        write(store, *given, **more)
        folder = running(scene)
        assert folder is not None
        if not followers:
            followers.append(Follower(Stage(server), LiveChunks(folder, 5000), scene, told.append))
        assert followers[0].step()
        cameras.append({name: what["position"] for name, what in server.shown.items() if name != "/points"})
        points.append(server.shown["/points"]["points"])

    monkeypatch.setattr(PassStore, "write", written)
    assert main(words(photos, scene)) == 0
    assert [len(found) for found in cameras] == sorted({len(found) for found in cameras}) and len(cameras[-1]) == 10
    for k, place in enumerate(cameras[-1].values()):
        assert np.allclose(place, [k * STEP, 0, 0], atol=2e-3)
    assert np.allclose(points[-1][:, 2], PLANE_DEPTH, rtol=2e-3) and 2000 <= len(points[-1]) < 10_000
    assert points[-1][:, 0].max() > points[0][:, 0].max() + STEP, "the scene grows along the way of the camera"
    assert told[0] == "chunk 1: 3 of 10 views" and running(scene) is None
    assert not followers[0].step() and told[-1] == "the run has ended: this is the scene"
    final = {f"/cameras/{view.name}" for view in read_cameras_json(tmp_path / "out/a/cameras.json")}
    assert {name for name in server.shown if name != "/points"} == final


def test_a_run_that_ends_without_a_scene_is_told(photos, tmp_path, plane_backbone, monkeypatch) -> None:
    scene, told = tmp_path / "out" / "a.ply", []
    write, followers = PassStore.write, []

    def fails(store: PassStore, *given: Any, **more: Any) -> None:
        write(store, *given, **more)
        folder = running(scene)
        assert folder is not None
        (asked := json.loads((folder / "asked.json").read_text()))[IMAGES] = [["a.jpg"]]
        damaged = tmp_path / "damaged"
        damaged.mkdir()
        (damaged / "asked.json").write_text(json.dumps(asked))
        with pytest.raises(InputError, match=r"asked\.json: damaged"):
            LiveChunks(damaged, 100)
        followers.append(Follower(Stage(Server()), LiveChunks(folder, 5000), scene, told.append))
        raise InputError("no more")

    monkeypatch.setattr(PassStore, "write", fails)
    assert main(words(photos, scene)) == 3
    assert not followers[0].step() and told == ["the run has ended without a scene"]
    assert running(tmp_path / "nothing.ply") is None and running(tmp_path / "x.jpg") is None
