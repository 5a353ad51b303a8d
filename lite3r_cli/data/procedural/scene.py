"""Analytic scenes as rows of numbers: the layout of a row, a builder of scenes, and batches of scenes.

World frame: metres, +y up. Every primitive is a unit shape in its local frame, with an affine map `local_from_world`.
One intersection routine per shape therefore serves every size and orientation, and the ray parameter is the z-depth
(raycast.cu explains how).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch

# 0-11 local_from_world | 12-15 bounding sphere | 16 kind | 18 casts shadows | 19 occluder radius | 20-27 shape
GEOMETRY = 28
MATERIAL = 28  # the fields of `material()`
ENVIRONMENT = 72  # the fields of `environment()`
MAX_PRIMITIVES = 160  # limit of the CUDA kernel's shared memory
MAX_LIGHTS = 4


class Kind(IntEnum):
    """Shapes, all inside [-1, 1]³ of their local frame."""

    BOX = 0
    ELLIPSOID = 1
    FRUSTUM = 2  # axis y; shape[0] = radius at the top, 1 = cylinder, 0 = cone
    # a box seen from inside; shape = face (0-5 = -x +x -y +y -z +z, -1 none) and an opening (a0, a1, b0, b1) in it
    SHELL = 3
    BOX_MINUS_ARCH = 4  # shape = centre x, bottom y, half width, springing y, rise, back z of an arch open towards +z
    # shape[7] = 0 torus | 1 rounded box | 2 turned profile | 3 rock; frame of uniform scale, inside the unit sphere
    SDF = 5
    HEIGHT = 6  # over (x, z), outwards +y; shape = texture, uv scale, u, v offset, mip level, base, amplitude, steps


class UV(IntEnum):
    """Texture mappings."""

    BOX = 0  # the plane of the largest component of the local normal
    CYLINDER = 1  # around local y, caps flat
    FRONT = 2  # along local z
    TOP = 3  # along local y


def material(
    texture: int,
    scale: tuple[float, float, float],
    *,
    flat: tuple[float, float, float] = (0.7, 0.7, 0.7),
    strength: float = 1.0,
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
    mode: UV = UV.BOX,
    angle: float = 0.0,
    offset: tuple[float, float] = (0.0, 0.0),
    mirror: bool = True,
    bump: float = 0.0,
    detail: int = 0,
    detail_rate: float = 1.0,
    detail_weight: float = 0.0,
    specular: float = 0.0,
    shininess: float = 20.0,
    reflect: float = 0.0,
    emission: float = 0.0,
    shift_faces: bool = True,
    cap: int = -1,
) -> list[float]:
    """One MATERIAL row.

    `scale` is in texture repeats per local unit, for each axis; colours are display values in [0, 1]; `strength` blends
    the flat colour (0) and the texture (1); `bump` is the relief in metres of a height step from 0 to 1; `cap` is the
    texture of the top and bottom faces in the BOX and CYLINDER mappings (-1: `texture`).
    """
    return [
        # image rows count downwards, local y points upwards
        *flat, strength, *tint, texture, int(mode), scale[0], -scale[1], scale[2],
        math.cos(angle), math.sin(angle), *offset, float(mirror), bump,
        detail, detail_rate, detail_weight, specular, shininess, reflect, emission, float(shift_faces), cap, 0.0,
    ]  # fmt: skip


@dataclass
class Light:
    """A point light (`point`, position in metres) or the sun (`position` is a direction towards it).

    `radius` is the size of the light (metres, or relative to the direction's length) and softens its shadow.
    """

    position: tuple[float, float, float]
    color: tuple[float, float, float]
    point: bool = True
    radius: float = 0.0
    shadow: bool = True
    reach: float = 3.0  # metres at which a point light has lost half of its strength


def environment(
    lights: list[Light],
    *,
    ambient_up=(0.4, 0.4, 0.4),
    ambient_down=(0.2, 0.2, 0.2),
    fog: float = 0.0,
    fog_color=(0.7, 0.75, 0.8),
    zenith=(0.2, 0.4, 0.8),
    horizon=(0.7, 0.8, 0.9),
    haze=(0.4, 0.4, 0.4),
    cloud: int = 0,
    cloud_weight: float = 0.0,
    cloud_scale: float = 0.2,
    cloud_offset=(0.0, 0.0),
    key: float = 0.4,
    occlusion: float = 0.8,
    shadow_bias: float = 1e-3,
) -> np.ndarray:
    """One ENVIRONMENT row (float32); `key` is the brightness to which the exposure maps a scene's average."""
    row = np.zeros(ENVIRONMENT, np.float32)
    row[0:25] = [
        *ambient_up, *ambient_down, fog, *fog_color, *zenith, *horizon, *haze,
        cloud, cloud_weight, cloud_scale, *cloud_offset, min(len(lights), MAX_LIGHTS),
    ]  # fmt: skip
    for i, light in enumerate(lights[:MAX_LIGHTS]):
        row[25 + 10 * i : 35 + 10 * i] = [
            *light.position, float(light.point), *light.color, light.radius, float(light.shadow), light.reach,
        ]  # fmt: skip
    row[65:68] = [key, occlusion, shadow_bias]
    return row


STEEP = (0.95, 0.25)  # `Stage.elevation` of views from above, which turn in the picture plane as they go around


@dataclass(frozen=True)
class Stage:
    """Where the cameras of a scene may stand and what they look at; filled in by the scene's sampler."""

    low: np.ndarray  # (3,) corner of the volume in which cameras may stand
    high: np.ndarray  # (3,)
    targets: np.ndarray  # (N, 3) points of interest
    paths: dict[str, float]  # path name (key of paths.PATHS) -> weight
    normal: np.ndarray | None = None  # (3,) horizontal direction out of a facade
    reach: tuple[float, float] = (1.5, 6.0)  # metres between the first camera and its target
    field: tuple[float, float] = (30.0, 100.0)  # degrees, along the longer image side
    elevation: tuple[float, float] = (0.2, 0.25)  # radians above the target: mean and deviation


@dataclass(frozen=True)
class Scene:
    """One sampled scene: its rows for the ray caster, and the stage for its cameras."""

    geometry: np.ndarray  # (P, GEOMETRY) float32
    material: np.ndarray  # (P, MATERIAL) float32
    environment: np.ndarray  # (ENVIRONMENT,) float32
    stage: Stage
    name: str = "scene"

    def __len__(self) -> int:
        return len(self.geometry)


IDENTITY = np.eye(3)


def yaw(angle: float) -> np.ndarray:
    """world_from_local rotation (3, 3) about +y by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


@dataclass
class Builder:
    """Collects primitives in plain lists; `finish` computes all rows at once, which is faster than row by row."""

    kinds: list[int] = field(default_factory=list)
    centers: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    rotations: list = field(default_factory=list)
    shapes: list = field(default_factory=list)
    materials: list = field(default_factory=list)
    flags: list = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kinds)

    def add(
        self, kind: Kind, center, size, look: list[float], *, rotation=IDENTITY, shape=(), shadow=True, occluder=None
    ) -> None:
        """Add one primitive.

        `size` holds the three half extents in metres, `look` a `material()` row, `shape` up to 8 parameters of `kind`;
        `occluder` is the radius in metres for ambient occlusion (default: from `size`).
        """
        if occluder is None:
            occluder = 0.0 if kind in (Kind.SHELL, Kind.HEIGHT) else 0.9 * min(size)
        self.kinds.append(int(kind))
        self.centers.append(tuple(center))
        self.sizes.append(tuple(size))
        self.rotations.append(rotation)
        self.shapes.append(tuple(shape) + (0.0,) * (8 - len(shape)))
        self.materials.append(look)
        self.flags.append((float(shadow), float(occluder)))

    def finish(self, environment_row: np.ndarray, stage: Stage, name: str) -> Scene:
        """The scene of all primitives added so far; primitives beyond MAX_PRIMITIVES are dropped."""
        n = min(len(self), MAX_PRIMITIVES)
        center, size = np.array(self.centers[:n]), np.array(self.sizes[:n])
        kind = np.array(self.kinds[:n])
        rows = np.zeros((n, GEOMETRY), np.float32)
        linear = np.array(self.rotations[:n]).transpose(0, 2, 1) / size[:, :, None]  # (P, 3, 3)
        affine = np.concatenate([linear, -np.einsum("pij,pj->pi", linear, center)[:, :, None]], 2)
        rows[:, :12] = affine.reshape(n, 12)
        rows[:, 12:15] = center
        inside_sphere = (kind == Kind.ELLIPSOID) | (kind == Kind.SDF)
        rows[:, 15] = np.where(inside_sphere, 1.02 * size.max(1), 1.001 * np.linalg.norm(size, axis=1))
        rows[:, 16] = kind
        rows[:, 18:20] = self.flags[:n]
        rows[:, 20:28] = self.shapes[:n]
        return Scene(rows, np.array(self.materials[:n], np.float32), environment_row, stage, name)


@dataclass(frozen=True)
class SceneBatch:
    """B scenes, padded to P primitives each, on one device."""

    geometry: torch.Tensor  # (B, P, GEOMETRY) float32
    material: torch.Tensor  # (B, P, MATERIAL) float32
    environment: torch.Tensor  # (B, ENVIRONMENT) float32
    counts: torch.Tensor  # (B,) float32, primitives in use

    @property
    def device(self) -> torch.device:
        return self.geometry.device

    def __len__(self) -> int:
        return len(self.geometry)


def pack(scenes: list[Scene]) -> SceneBatch:
    """Stack scenes into one batch on the CPU."""
    return unpack_scenes(torch.from_numpy(pack_rows(scenes)))


def pack_rows(scenes: list[Scene]) -> np.ndarray:
    """All scenes as one block (B, 1 + ENVIRONMENT + P * (GEOMETRY + MATERIAL)) float32: a single copy to a device."""
    width = max(len(s) for s in scenes)
    rows = np.zeros((len(scenes), 1 + ENVIRONMENT + width * (GEOMETRY + MATERIAL)), np.float32)
    for row, s in zip(rows, scenes):
        row[0] = len(s)
        row[1 : 1 + ENVIRONMENT] = s.environment
        geometry, look = row[1 + ENVIRONMENT :].reshape(2, width, GEOMETRY)
        geometry[: len(s)] = s.geometry
        look[: len(s)] = s.material
    return rows


def unpack_scenes(rows: torch.Tensor) -> SceneBatch:
    """The inverse of `pack_rows` on any device."""
    b = len(rows)
    both = rows[:, 1 + ENVIRONMENT :].reshape(b, 2, -1, GEOMETRY)
    return SceneBatch(
        geometry=both[:, 0].contiguous(),
        material=both[:, 1].contiguous(),
        environment=rows[:, 1 : 1 + ENVIRONMENT].contiguous(),
        counts=rows[:, 0].contiguous(),
    )
