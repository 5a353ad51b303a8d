"""Fixtures for the tests of pipelines and commands: small photos, and a network with a known answer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers share the cores; read when torch is imported
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    )

import torch

from lite3r_cli.networks.base import Network, Prediction

PLANE_DEPTH = 2.0
STEP = 0.1  # between two cameras, along x


class PlaneBackbone(Network):
    """Sees the plane z = 2 from cameras on a line, whatever the images show: views agree with each other exactly.

    Focal length = image width; confidence grows from left to right.
    """

    name = "plane"
    patch_size = 14

    def predict(self, images: Sequence):
        poses = torch.eye(3, 4).repeat(len(images), 1, 1)
        poses[:, 0, 3] = -STEP * torch.arange(len(images)) - 1.0  # the first camera is not the identity
        K = torch.zeros(len(images), 3, 3)
        depth, confidence = [], []
        for j, image in enumerate(images):
            height, width = image.shape[-2:]
            K[j] = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
            depth.append(torch.full((height, width), PLANE_DEPTH))
            confidence.append(torch.linspace(1, 2, width).expand(height, width).clone())
        return Prediction(depth, confidence, poses, K)


def pytest_addoption(parser):
    parser.addoption(
        "--fixture-dir",
        type=Path,
        metavar="DIR",
        help="folder of the larger parity fixtures (*.npz), for the slow tests",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config) -> None:
    """With `-n`, processes get whole files where possible, so that the fixtures of a file are made once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """Tests of kernels are tests of the GPU where there is one; elsewhere they run in Triton's interpreter or not."""
    for item in items:
        if item.get_closest_marker("kernel") is None:
            continue
        if torch.cuda.is_available():
            item.add_marker("gpu")
        elif os.environ.get("TRITON_INTERPRET") != "1":
            item.add_marker(pytest.mark.skip(reason="no GPU: attention/test_interpreter.py runs it"))


@pytest.fixture
def reference(request) -> Path:
    """A folder with the fixtures and manifests of networks whose outputs are no part of this project."""
    beside = Path(__file__).parents[2] / "shared" / "reference"
    folder = request.config.getoption("--fixture-dir") or beside
    if not (folder / "vggt-omega-1b-512.keys.json").is_file():
        pytest.skip("these parity fixtures are no part of the project: --fixture-dir DIR names a folder with them")
    return folder


@pytest.fixture
def large_reference(request, reference) -> Path:
    """The same for slow tests, which run where the folder is named: some of its networks take 6 GB and minutes."""
    if request.config.getoption("--fixture-dir") is None:
        pytest.skip("needs --fixture-dir DIR, a folder with the larger parity fixtures")
    return reference


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """Tests read and write no cache of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@cache
def _small_atlas():
    from lite3r_cli.data.procedural.textures import build_atlas

    return build_atlas(variants=1)


@pytest.fixture
def small_atlas(monkeypatch) -> None:
    """One variant of each texture, made once: the full atlas takes seconds. Archives are read as ever."""
    from lite3r_cli.data.procedural.textures import build_atlas

    def build(photos: Path | None = None):
        return _small_atlas() if photos is None else build_atlas(photos, variants=1)

    for module in ("lite3r_cli.pipelines.synthesise", "lite3r_cli.training.train_data"):
        monkeypatch.setattr(f"{module}.build_atlas", build)


@pytest.fixture
def plane_backbone(monkeypatch) -> type[PlaneBackbone]:
    """Make every model name load PlaneBackbone."""
    from lite3r_cli.networks.checkpoint import Checkpoint

    monkeypatch.setattr(Checkpoint, "build", lambda self: PlaneBackbone())
    monkeypatch.setattr(Checkpoint, "load", lambda self, *options: PlaneBackbone())
    return PlaneBackbone


def photo(path: Path, seed: int, light: float = 1.0) -> Path:
    """A picture with enough features to be known again; another `light` makes another photo of the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (25, 35, 3), dtype=np.uint8)
    large = cv2.resize(noise, (280, 200), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), np.rint(large * light).astype(np.uint8))
    return path


def photograph(path: Path, width: int = 98, height: int = 70, seed: int = 0) -> Path:
    """Write a textured picture; the format follows from the suffix."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(path.suffix, cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))
    assert ok
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture
def photographs(tmp_path) -> Callable[..., Path]:
    """photographs(3) → a folder `photos` with a0.jpg, a1.jpg, a2.jpg."""

    def make(count: int, width: int = 98, height: int = 70) -> Path:
        for i in range(count):
            photograph(tmp_path / "photos" / f"a{i}.jpg", width, height, seed=i)
        return tmp_path / "photos"

    return make


def wall_color(points):
    """Colour of a textured wall z = 5 at world x, y."""
    return 127 + 100 * np.stack(
        [np.sin(points[..., 0] * 2), np.cos(points[..., 1] * 2), np.sin(points[..., :2].sum(-1))], -1
    )


@pytest.fixture
def posed_photos(tmp_path):
    """A folder of one scene: three views of a wall, 0.3 apart, slightly turned."""
    width, height, focal = 161, 121, 130.0
    folder = tmp_path / "wall"
    (folder / "images").mkdir(parents=True)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    cameras, points = {}, {}
    for i in range(3):
        R = cv2.Rodrigues(np.array([0.02 * i, 0.05 * i, 0.03 * i]))[0]
        centre = np.array([0.3 * i, 0.1 * i, 0.2 * i])
        v, u = np.mgrid[:height, :width] + 0.5
        rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones_like(u)], -1)
        directions = rays @ R  # world
        z = (5 - centre[2]) / directions[..., 2]
        image = wall_color(centre + directions * z[..., None])
        name = f"{i}.png"
        cv2.imwrite(str(folder / "images" / name), image[..., ::-1].round())
        cameras[name] = {
            "K": K.tolist(),
            "cam_from_world": np.c_[R, -R @ centre].tolist(),
            "width": width,
            "height": height,
        }
        points[name] = np.stack([u, v, z], -1)[4::9, 4::9].reshape(-1, 3).astype(np.float32)
    (folder / "cameras.json").write_text(json.dumps({"images": cameras}))
    np.savez(folder / "points.npz", **points)
    return tmp_path


@contextmanager
def on_the_disk_in_order(out: Path) -> Iterator[None]:
    """Check that a file below `out` is synced before it gets its visible name, and its folder afterwards, so that a
    power cut leaves no name of a file whose content is lost.
    """
    synced: dict[int, int] = {}  # inode → when it was synced the last time
    moved: list[tuple[int, int | None, int, str]] = []  # when, when the file was synced, inode of its new folder, name
    clock = iter(range(10**9))

    def fsync(descriptor: int) -> None:
        synced[os.fstat(descriptor).st_ino] = next(clock)

    def noted(genuine):
        def move(source, target, **folders):
            inode = os.stat(source, dir_fd=folders.get("src_dir_fd"), follow_symlinks=False).st_ino
            there = folders.get("dst_dir_fd")
            folder = os.stat(os.path.dirname(target) or ".", dir_fd=there).st_ino
            path = Path("." if there is None else os.readlink(f"/proc/self/fd/{there}")) / target
            genuine(source, target, **folders)
            if path.absolute().is_relative_to(out) and not any(".lite3r-" in part for part in path.parts):
                moved.append((next(clock), synced.get(inode), folder, path.name))  # a later file may have its inode

        return move

    there = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "rename", noted(os.rename))
        patch.setattr(os, "replace", noted(os.replace))
        yield
    files = [path for path in out.rglob("*") if path.is_file()]
    new = {path.name for path in files if there.get(path) != path.stat().st_mtime_ns}
    # lines are added to the log; a state says how many
    assert moved and new - {"log.jsonl"} <= {name for *_, name in moved}
    for when, before, folder, name in moved:
        assert before is not None and before < when < synced.get(folder, -1), name
