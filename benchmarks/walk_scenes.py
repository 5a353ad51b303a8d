"""Rendered walks with exact cameras: a street that goes round a block of houses, walked once and a bit (its end sees
its beginning again), or most of the way (nothing is seen twice).

    python benchmarks/walk_scenes.py DIR --frames 300 [--loops] [--seed 0] [--height 392 --width 518]

DIR gets images/ with numbered JPEG files and cameras.json.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

import lite3r_cli.data.procedural.scene_batches  # noqa: F401  (its package has to be imported before materials)
from lite3r_cli.data.procedural import raycast_cuda, raycast_torch
from lite3r_cli.data.procedural.camera_placement import look_at
from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import MASONRY, THINGS
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.scene import UV, Builder, Kind, Scene, Stage, material, pack, yaw
from lite3r_cli.data.procedural.textures import Atlas, Catalog, build_atlas

Caster = Callable[..., tuple[torch.Tensor, torch.Tensor]]  # as raycast_torch.raycast
STEP = 0.25  # metres between two frames
ROUNDS = {True: 1.25, False: 0.8}  # of the way round, with loops and without
STREET = 7.0  # metres from the middle of the street to the houses
PRIMITIVES = 150  # of a scene; the ray caster holds 160
FIELD = 65.0  # degrees, along the longer side


@dataclass(frozen=True)
class Walk:
    """A scene with the cameras of S frames."""

    scene: Scene
    K: np.ndarray  # (3, 3)
    cam_from_world: np.ndarray  # (S, 3, 4)
    height: int  # of the pictures that K is for


def ring(perimeter: float, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) in the plane (x, z) at way `s` (N,) along a rectangle with round corners, and unit directions."""
    corner = 0.06 * perimeter
    straight = (perimeter - 2 * math.pi * corner) / 4
    quarter = 0.5 * math.pi * corner
    places, ways = np.zeros((len(s), 2)), np.zeros((len(s), 2))
    for i, at in enumerate(np.mod(s, perimeter)):
        side, rest = divmod(at, straight + quarter)
        turn = math.radians(90) * side
        along = np.array([math.cos(turn), math.sin(turn)])
        out = np.array([along[1], -along[0]])
        middle = (straight / 2 + corner) * out
        if rest <= straight:
            places[i], ways[i] = middle + (rest - straight / 2) * along, along
            continue
        angle = (rest - straight) / corner
        centre = straight / 2 * (along + out)
        places[i] = centre + corner * (math.cos(angle) * out + math.sin(angle) * along)
        ways[i] = math.cos(angle) * along - math.sin(angle) * out
    return places, ways


def make_walk(
    frames: int, loops: bool, seed: int, height: int, width: int, atlas: Atlas, step: float = STEP
) -> Walk:  # fmt: skip
    """The street and the frames of one walk, `step` metres apart; the same seed gives the same walk."""
    rng = np.random.default_rng([seed, frames, loops])
    draw = Draw(rng)
    perimeter = max(frames * step / ROUNDS[loops], 40.0)
    scene = _street(draw, atlas.catalog, perimeter)
    s = np.arange(frames) * step + np.cumsum(rng.normal(0, 0.03, frames))
    places, ways = ring(perimeter, s)
    lap = np.floor(s / perimeter)[:, None]  # another lane the second time
    side = np.stack([ways[:, 1], -ways[:, 0]], 1)
    t = np.arange(frames)
    places = places + side * (0.6 * np.sin(t / 37.0)[:, None] - 0.5 * lap)
    position = np.stack([places[:, 0], 1.6 + 0.05 * np.sin(t / 5.0), places[:, 1]], 1)
    heading = np.arctan2(ways[:, 0], ways[:, 1]) + np.radians(25 * np.sin(t / 53.0) + 12 * np.sin(t / 17.0))
    look = np.stack([np.sin(heading), 0.06 * np.sin(t / 29.0) + 0.02, np.cos(heading)], 1)
    pose = look_at(position, position + look, rng.normal(0, math.radians(0.7), frames))
    focal = 0.5 * width / math.tan(math.radians(FIELD) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Walk(scene, K, pose, height)


def _cover(d: Draw, catalog: Catalog, names: tuple[str, ...], metres: tuple[float, float], half, mode=UV.BOX):
    """The row of a texture that is drawn, with large blotches over it: no two places look the same."""
    group, clouds = catalog.groups[d.choice(names)], catalog.groups["clouds"]
    size = d.log_uniform(*metres)
    around = max(1, round(2 * math.pi * half[0] / size)) if mode == UV.CYLINDER else half[0] / size
    return material(
        group.start + d.integer(0, len(group)), (around, half[1] / size, half[2] / size), mode=mode, mirror=False,
        tint=d.color(0.7, 1.15, 0.25), offset=(d.unit(), d.unit()), detail=clouds.start + d.integer(0, len(clouds)),
        detail_rate=d.log_uniform(0.1, 0.6), detail_weight=d.uniform(0.3, 0.6),
    )  # fmt: skip


def _street(d: Draw, catalog: Catalog, perimeter: float) -> Scene:
    """Houses along both sides and things on the pavement, `PRIMITIVES` however long the way is."""
    b = Builder()
    wide = 0.5 * perimeter + 60
    ground = (wide, 1.0, wide)
    b.add(Kind.BOX, (0, -1, 0), ground, _cover(d, catalog, ("gravel", "tiles", "ashlar"), (2.0, 3.0), ground))
    houses = max(10, min(26, round(perimeter / 9)))
    sides = 2 if perimeter >= 150 else 1  # a short way leads round an open place
    for k in range(sides * houses):
        inside = k % sides
        place, way = ring(perimeter, np.array([(k // sides + d.uniform(-0.2, 0.2)) * perimeter / houses]))
        out = np.array([way[0, 1], -way[0, 0]]) * (-1 if inside else 1)
        size = (0.47 * perimeter / houses * d.uniform(0.8, 1.1), d.uniform(2.0, 5.5), d.uniform(2.0, 3.5))
        at = place[0] + out * (STREET + size[2] + d.uniform(-1.5, 1.5))
        turn = yaw(math.atan2(out[0], out[1]) + d.uniform(-0.15, 0.15))
        wall = _cover(d, catalog, ("windows", "windows", *MASONRY), (2.0, 4.0), size)
        b.add(Kind.BOX, (at[0], size[1], at[1]), size, wall, rotation=turn)
    things = min(PRIMITIVES - len(b), round(perimeter / 2))
    for _ in range(things):
        place, way = ring(perimeter, np.array([d.uniform(0, perimeter)]))
        at = place[0] + np.array([way[0, 1], -way[0, 0]]) * d.sign() * d.uniform(2.4, 6.0)
        size = (d.uniform(0.2, 0.7), d.uniform(0.3, 1.1), d.uniform(0.2, 0.7))
        kind = d.choice((Kind.BOX, Kind.BOX, Kind.ELLIPSOID, Kind.FRUSTUM))
        mode = UV.BOX if kind == Kind.BOX else UV.CYLINDER
        look = _cover(d, catalog, THINGS, (0.3, 1.0), size, mode)
        shape = (1.0,) if kind == Kind.FRUSTUM else ()
        b.add(kind, (at[0], size[1], at[1]), size, look, rotation=yaw(d.uniform(0, 6.28)), shape=shape)
    half = np.array([wide, 10, wide])
    world = light.outdoor(d, catalog, 60.0)
    return b.finish(world, Stage(-half, half, np.zeros((1, 3)), {"walk": 1.0}), "walk")


def exposure_of(walk: Walk, atlas: Atlas, height: int, width: int, device: str = "cpu") -> float:
    """The exposure of a camera that was set once, by the first frame."""
    linear, _ = _cast(walk, atlas, walk.cam_from_world[:1], height // 4, width // 4, device, 1, 0)
    average = np.exp(np.log(linear.mean(2).cpu().numpy() + 1e-3).mean())
    return float(walk.scene.environment[65] ** 2 / average)


def render_walk(
    walk: Walk, atlas: Atlas, height: int, width: int, device: str = "cpu", samples: int = 2,
    exposure: float | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """For each frame its picture (H, W, 3) uint8 and its z-depth (H, W) in metres, 0 = sky."""
    exposure = exposure_of(walk, atlas, height, width, device) if exposure is None else exposure
    atlas = atlas.to(device)
    for first in range(0, len(walk.cam_from_world), 16):
        poses = walk.cam_from_world[first : first + 16]
        linear, depth = _cast(walk, atlas, poses, height, width, device, samples, first)
        shown = torch.sqrt(1 - torch.exp(-1.15 * exposure * linear))[0]
        pictures = (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        yield from zip(pictures, depth[0].float().cpu().numpy())


def _cast(
    walk: Walk, atlas: Atlas, poses: np.ndarray, height: int, width: int, device: str, samples: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear colour (1, S, 3, H, W) and z-depth (1, S, H, W)."""
    batch = pack([walk.scene])
    batch = type(batch)(*(part.to(device) for part in vars(batch).values()))
    K = np.diag([height / walk.height, height / walk.height, 1.0]) @ walk.K
    rows = np.concatenate([np.tile(K.reshape(9), (len(poses), 1)), poses.reshape(-1, 12)], 1)
    cameras = torch.from_numpy(rows.astype(np.float32))[None].to(device).contiguous()
    bias = -0.25 * (samples - 1) ** 0.5
    texels = atlas.to(device).texels
    return caster(torch.device(device).type)(batch, texels, cameras, height, width, samples, bias, seed)


@cache
def caster(kind: str) -> Caster:
    """The fastest ray caster available: raycast.cu compiled by CuPy, torch or g++, or else its twin in torch."""
    if kind == "cuda" and find_spec("cupy"):
        return raycast_cuda.raycast
    try:
        found = _by_torch() if kind == "cuda" else _by_compiler()
        print(f"walk_scenes: raycast.cu is compiled for {kind}", file=sys.stderr, flush=True)
        return found
    except Exception as error:  # whatever a missing compiler raises; the twin draws the same, slowly
        print(f"walk_scenes: the twin in torch renders: {error}"[:300], file=sys.stderr, flush=True)
        return raycast_torch.raycast


def _by_torch() -> Caster:
    kernel = torch.cuda._compile_kernel('extern "C" {}\n' + raycast_cuda.kernel_source(), "raycast")
    checked = False

    def cast(batch, texels, cameras, height: int, width: int, samples: int, bias: float, seed: int):
        nonlocal checked
        b, s = cameras.shape[:2]
        if not checked:  # nobody has compared this compiler's pictures with the twin's
            checked = True
            small = (batch, texels, cameras[:, :1].contiguous(), 24, 32, 1, 0.0, 0)
            apart = [(x - y).abs().mean().item() for x, y in zip(cast(*small), raycast_torch.raycast(*small))]
            if not apart[0] < 1e-2:
                raise SystemExit(f"raycast.cu as torch compiles it draws something else: {apart}")
        image = torch.empty((b, s, 3, height, width), device=batch.device)
        depth = torch.empty((b, s, height, width), device=batch.device)
        tensors = [batch.geometry, batch.material, batch.environment, cameras, batch.counts, texels, image, depth]
        numbers = [batch.geometry.shape[1], s, height, width, samples, float(bias), int(seed)]
        tile = raycast_cuda.TILE
        kernel((-(-width // tile), -(-height // tile), b * s), (tile, tile, 1), [*tensors, *numbers])
        return image, depth

    return cast


def _by_compiler() -> Caster:
    folder = Path(tempfile.mkdtemp())
    (folder / "raycast.cpp").write_text(raycast_cuda.kernel_source())
    library = folder / "raycast.so"
    command = ["g++", "-O2", "-std=c++14", "-shared", "-fPIC", "-o", str(library), str(folder / "raycast.cpp")]
    subprocess.run(command, check=True, capture_output=True)
    function = ctypes.CDLL(str(library)).raycast_host
    shutil.rmtree(folder)

    def cast(batch, texels, cameras, height: int, width: int, samples: int, bias: float, seed: int):
        b, s = cameras.shape[:2]
        image, depth = torch.empty((b, s, 3, height, width)), torch.empty((b, s, height, width))
        tensors = [batch.geometry, batch.material, batch.environment, cameras, batch.counts, texels, image, depth]
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        whole = [ctypes.c_int(n) for n in (b, batch.geometry.shape[1], s, height, width, samples)]
        function(*pointers, *whole, ctypes.c_float(bias), ctypes.c_uint(seed))
        return image, depth

    return cast


def write_walk(
    folder: Path, walk: Walk, atlas: Atlas, height: int, width: int, device: str = "cpu", samples: int = 2
) -> None:
    """images/ and cameras.json (K, cam_from_world by name) of a walk."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"{i:05d}.jpg" for i in range(len(walk.cam_from_world))]
    for name, (rgb, _) in zip(names, render_walk(walk, atlas, height, width, device, samples)):
        if not cv2.imwrite(str(folder / "images" / name), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
            raise SystemExit(f"{folder}: OpenCV cannot write {name}")
    poses = dict(zip(names, walk.cam_from_world.tolist()))
    (folder / "walk.json").write_text(json.dumps({"K": walk.K.tolist(), "cam_from_world": poses}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loops", action="store_true")
    parser.add_argument("--samples", type=int, default=2, help="rays a pixel")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name, default in (("frames", 300), ("seed", 0), ("height", 392), ("width", 518)):
        parser.add_argument(f"--{name}", type=int, default=default)
    o = parser.parse_args()
    atlas = build_atlas(None)
    walk = make_walk(o.frames, o.loops, o.seed, o.height, o.width, atlas)
    write_walk(o.folder, walk, atlas, o.height, o.width, o.device, o.samples)


if __name__ == "__main__":
    main()
