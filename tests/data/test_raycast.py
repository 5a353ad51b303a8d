"""The ray caster: closed forms, and the torch twin against the CUDA source (compiled for the host, and on a GPU)."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest
import torch

from lite3r_cli.data.procedural import raycast_torch
from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.ray_render import RAYCASTERS
from lite3r_cli.data.procedural.sampling import SAMPLERS, SceneConfig
from lite3r_cli.data.procedural.scene import Builder, Kind, Stage, environment, material, pack
from lite3r_cli.data.procedural.scene_batches import render_batch, sample_batch
from lite3r_cli.data.procedural.textures import build_atlas

STAGE = Stage(np.zeros(3), np.ones(3), np.zeros((1, 3)), {"orbit": 1.0})
H, W, FOCAL = 75, 113, 90.0


@pytest.fixture(scope="module")
def atlas():
    return build_atlas(variants=1)


def trace(builder: Builder, atlas, position=(0.0, 0.0, 0.0)):
    """Depth (H, W) of a camera without rotation, and its ray directions (H, W, 3)."""
    scene = builder.finish(environment([]), STAGE, "test")
    camera = torch.tensor(
        [FOCAL, 0, W / 2, 0, FOCAL, H / 2, 0, 0, 1, 1, 0, 0, -position[0], 0, 1, 0, -position[1], 0, 0, 1, -position[2]]
    )
    depth = raycast_torch.raycast(pack([scene]), atlas.texels, camera[None, None], H, W, 1, 0.0, 0)[1][0, 0]
    y, x = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    return depth, torch.stack([(x - W / 2) / FOCAL, (y - H / 2) / FOCAL, torch.ones(H, W)], -1)


def test_sphere_depth_is_the_closed_form(atlas):
    builder = Builder()
    builder.add(Kind.ELLIPSOID, (0.3, -0.2, 5.0), (1.2, 1.2, 1.2), material(0, (1, 1, 1)))
    depth, d = trace(builder, atlas)
    center = torch.tensor([0.3, -0.2, 5.0])
    a, b, c = (d * d).sum(-1), (d * center).sum(-1), center @ center - 1.2**2
    disc = b * b - a * c
    expected = torch.where(disc > 0, (b - disc.clamp(min=0).sqrt()) / a, 0.0)
    clear = disc.abs() > 1e-2
    assert torch.allclose(depth[clear], expected[clear], rtol=1e-5, atol=0)
    assert 0.1 < (depth > 0).float().mean() < 0.5


def test_box_faces_and_shell_are_planes(atlas):
    look = material(0, (1, 1, 1))
    front, room = Builder(), Builder()
    front.add(Kind.BOX, (0, 0, 4), (50, 50, 1), look)
    room.add(Kind.SHELL, (0, 0, 0), (1.0, 50, 7.0), look)
    assert torch.allclose(trace(front, atlas)[0], torch.tensor(3.0), rtol=1e-5)
    depth, d = trace(room, atlas)
    assert torch.allclose(depth, torch.minimum(1.0 / d[..., 0].abs(), torch.tensor(7.0)), rtol=1e-4)


@pytest.mark.parametrize("shape, radius", [(1.0, 1.0), (0.0, 0.5)])
def test_frustum_silhouette(atlas, shape, radius):
    """Half way up, a cylinder is as wide as at its foot and a cone half as wide."""
    builder = Builder()
    builder.add(Kind.FRUSTUM, (0, 0, 6), (1, 2, 1), material(0, (1, 1, 1)), shape=(shape,))
    depth, _d = trace(builder, atlas)
    width = (depth[H // 2] > 0).sum() / FOCAL
    assert width == pytest.approx(2 * radius / math.sqrt(36 - radius**2), abs=2.5 / FOCAL)
    assert float(depth[H // 2, W // 2]) == pytest.approx(6 - radius, rel=1e-3)


def test_arch_is_a_hole_with_a_back(atlas):
    builder = Builder()
    builder.add(
        Kind.BOX_MINUS_ARCH,
        (0, 0, 6),
        (2, 2, 1),
        material(0, (1, 1, 1)),
        shape=(0, -0.5, 0.4, 0.0, 0.4, 0.5),
        rotation=np.diag([-1.0, 1.0, -1.0]),
    )
    depth, _ = trace(builder, atlas)
    assert float(depth[H // 2, W // 2]) == pytest.approx(5.5, rel=1e-4)  # local z = 0.5 of the turned box: half way in
    assert float(depth[H // 2, W // 2 + 27]) == pytest.approx(5.0, rel=1e-4)


@pytest.mark.parametrize(
    "kind, shape, nearest",
    [(Kind.SDF, (0.25, 0.7, 0, 0, 0, 0, 0, 0.0), 6 - 0.95), (Kind.SDF, (0.5, 0.5, 0.5, 0.1, 0, 0, 0, 1.0), 5.5)],
)
def test_marched_shapes_reach_their_surface(atlas, kind, shape, nearest):
    builder = Builder()
    builder.add(kind, (0, 0, 6), (1, 1, 1), material(0, (1, 1, 1)), shape=shape)
    depth, _ = trace(builder, atlas)
    assert float(depth[depth > 0].min()) == pytest.approx(nearest, abs=2e-3)


def compare(expected, actual) -> None:
    """Images agree on average, depth nearly everywhere (a silhouette pixel may fall to either side)."""
    assert float((expected[0] - actual[0]).abs().mean()) < 1e-3
    relative = (expected[1] - actual[1]).abs() / expected[1].clamp(min=1e-3)
    assert float((relative > 1e-4).float().mean()) < 3e-3


@pytest.fixture(scope="module")
def host_raycast(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to build raycast.cu for the host")
    source = resources.files("lite3r_cli.data.procedural").joinpath("raycast.cu")
    library = tmp_path_factory.mktemp("host") / "raycast.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-x", "c++", str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).raycast_host

    def raycast(batch, atlas, cameras, height, width, samples, bias, seed):
        b, s = cameras.shape[:2]
        image, depth = torch.empty((b, s, 3, height, width)), torch.empty((b, s, height, width))
        tensors = (batch.geometry, batch.material, batch.environment, cameras, batch.counts, atlas, image, depth)
        sizes = (b, batch.geometry.shape[1], s, height, width, samples)
        function(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), *sizes, ctypes.c_float(bias), ctypes.c_uint(seed))
        return image, depth

    return raycast


@pytest.mark.parametrize("kind", SAMPLERS)
def test_torch_twin_is_the_cuda_source(atlas, host_raycast, monkeypatch, kind):
    config = SceneConfig(atlas.catalog, weights={kind: 1.0})
    batch = sample_batch(config, CameraConfig(), (1, 2, H, W), 3, 0, 0)
    expected = render_batch(batch, atlas)
    monkeypatch.setitem(RAYCASTERS, "cpu", host_raycast)
    compare(expected, render_batch(batch, atlas))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", SAMPLERS)
def test_kernel_is_the_torch_twin(atlas, kind):
    pytest.importorskip("cupy")
    config = SceneConfig(atlas.catalog, weights={kind: 1.0})
    batch = sample_batch(config, CameraConfig(), (3, 2, H, W), 4, 0, 0)
    expected = render_batch(batch, atlas)
    compare(expected, [t.cpu() for t in render_batch(batch.to("cuda"), atlas.to("cuda"))])
