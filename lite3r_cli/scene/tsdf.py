"""Converts depth maps to a surface: a truncated signed distance field (Curless & Levoy 1996) on the voxels near the
cloud.

Every view gives the distance of each voxel in front of (+) or behind (-) its surface, in units of the truncation. The
mean, weighted by confidence, is 0 on the surface. Voxels come in blocks of 4³ within the truncation of a point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import geometry
from .fusion import ReadImage
from .posed_view import PointCloud, View
from .surface_nets import Mesh, surface_nets, without_small_parts
from .tracks import depth_tolerance

BLOCK = 4  # voxels along the side of a block
MOST_VOXELS = 6_000_000  # on a CPU; four times as many on a GPU
FINEST = 1 / 900  # of the cloud's diagonal: finer voxels would show the noise
TRUNCATION = (2.5, 3.5)  # voxels, smallest and largest: reaches only into adjacent blocks
CHUNK = 1 << 18  # voxels at a time
FEWEST = 8  # triangles: smaller components are removed
MARGIN = 0.5  # of the diagonal of 99 % of the points: points farther outside their box are outliers
VIEW_WEIGHT = 0.2  # weight of a view's least confident pixels; the most confident have 1
SUPPORT = 1.0  # voxels within which some view must have a surface
STEEPEST = 0.15  # smallest factor of a surface that is seen from the side
TORN = 0.1  # relative depth difference over two pixels that is an edge
BEHIND = 1.0  # truncations behind a surface up to which voxels are updated


@dataclass(frozen=True)
class Grid:
    """Voxels of a lattice, in ascending order of their keys; centre of a voxel = origin + side · place."""

    origin: np.ndarray  # (3,) float64
    side: float
    places: np.ndarray  # (V, 3) int64, at least 0


def mesh_of(
    views: Sequence[View],
    cloud: PointCloud,
    read_rgb: ReadImage,
    device: torch.device | str = "cpu",
    step: Callable[[], None] = lambda: None,
) -> Mesh:
    """The surface of cleaned depth maps (0 = unknown; `fusion.clean_views`), coloured from the pictures.

    `read_rgb(i)` returns the picture of view i at any size. An empty cloud gives an empty mesh.
    """
    if len(cloud) == 0:
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.uint8))
    middle = np.median(cloud.points[:: max(1, len(cloud) // 10_000)], axis=0).astype(np.float64)
    local = [_moved(view, middle) for view in views]
    points = (cloud.points - middle).astype(np.float32)
    most = MOST_VOXELS * (1 if torch.device(device).type == "cpu" else 4)
    grid, truncation = _grid(local, points, most)
    value, weight = integrate(local, grid, truncation, device, step)
    mesh = surface_nets(grid.places, value, weight > 0)
    vertices = (grid.origin + grid.side * mesh.vertices.astype(np.float64)).astype(np.float32)
    mesh = _only(mesh, _supported(local, vertices, SUPPORT * grid.side, device))
    mesh = without_small_parts(mesh, FEWEST)
    vertices = (grid.origin + grid.side * mesh.vertices.astype(np.float64)).astype(np.float32)
    colors = _colors(local, vertices, truncation, read_rgb, device)
    placed = vertices + middle
    return Mesh(placed if cloud.points.dtype == np.float64 else placed.astype(np.float32), mesh.triangles, colors)


def _moved(view: View, middle: np.ndarray) -> View:
    pose = view.cam_from_world.copy()
    pose[:, 3] += pose[:, :3] @ middle
    return replace(view, cam_from_world=pose)


def _grid(views: Sequence[View], points: np.ndarray, most: int) -> tuple[Grid, float]:
    """The voxels within the truncation of a point, with the finest size that `most` allows, and the truncation."""
    low, high = (np.percentile(points, share, axis=0) for share in (0.5, 99.5))
    margin = MARGIN * float(np.linalg.norm(high - low)) + 1e-6
    points = points[((points >= low - margin) & (points <= high + margin)).all(axis=1)]
    diagonal = float(np.linalg.norm(high - low)) or 1.0
    noise = _noise(views, points)
    side = max(FINEST * diagonal, noise / TRUNCATION[1])
    while True:
        truncation = max(noise, TRUNCATION[0] * side)
        places = _blocks(points - (low - margin), side, truncation)
        if len(places) * BLOCK**3 <= most:
            break
        side *= max(1.03, (len(places) * BLOCK**3 / most) ** 0.4)
    inner = np.stack(np.meshgrid(*[np.arange(BLOCK)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = (places[:, None] * BLOCK + inner).reshape(-1, 3)
    origin = low - margin + side / 2
    least = voxels.min(axis=0)
    voxels = voxels - least
    size = voxels.max(axis=0) + 1
    order = np.argsort((voxels[:, 0] * size[1] + voxels[:, 1]) * size[2] + voxels[:, 2], kind="stable")
    return Grid(origin + side * least, side, voxels[order]), truncation


def _noise(views: Sequence[View], points: np.ndarray) -> float:
    """Deviation of the depth of a surface between views, in scene units."""
    sample = points[:: max(1, len(points) // 5000)].astype(np.float64)
    depths = [view.depth[view.depth > 0] for view in views if view.depth is not None]
    middle = [float(np.median(depth)) for depth in depths if depth.size]
    return depth_tolerance(views, sample) * float(np.median(middle)) if middle else 0.0


def _blocks(points: np.ndarray, side: float, reach: float) -> np.ndarray:
    """Places (B, 3) of the blocks that a box of ± `reach` around the voxel of some point touches."""
    voxels = _distinct(np.floor(points / side).astype(np.int64))
    steps = np.arange(-1, 2) * (reach / side + 0.5)  # at most one block, so that none is skipped
    for axis in range(3):
        corners = []
        for step in steps:
            moved = voxels.astype(np.float64) if axis == 0 else voxels
            moved = moved.copy()
            moved[:, axis] = np.floor((moved[:, axis] + 0.5 + step) / BLOCK)
            corners.append(moved)
        voxels = _distinct(np.concatenate(corners).astype(np.int64))
    return voxels


def _distinct(places: np.ndarray) -> np.ndarray:
    least = places.min(axis=0)
    size = places.max(axis=0) - least + 1
    local = places - least
    keys = np.unique((local[:, 0] * size[1] + local[:, 1]) * size[2] + local[:, 2])
    result: np.ndarray = (
        np.stack([keys // (size[1] * size[2]), keys // size[2] % size[1], keys % size[2]], axis=1) + least
    )
    return result


@torch.inference_mode()
def integrate(
    views: Sequence[View],
    grid: Grid,
    truncation: float,
    device: torch.device | str = "cpu",
    step: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean signed distance (V,) in truncations, from -1 to 1, and its weight (V,); 0 = unknown."""
    count = len(grid.places)
    total, weights = (torch.zeros(count, device=device) for _ in range(2))
    origin = torch.tensor(grid.origin, dtype=torch.float32, device=device)
    for view in views:
        if view.depth is None:
            continue
        depth, trust, slope = _pixels(view, device)
        for start in range(0, count, CHUNK):
            rows = slice(start, min(start + CHUNK, count))
            centres = torch.from_numpy(grid.places[rows]).to(device).float() * grid.side + origin
            place, z, inside = _project(view, centres, depth.shape)
            seen = depth.view(-1)[place]
            distance = (seen - z) * slope.view(-1)[place] / truncation
            told = inside & (seen > 0) & (distance > -BEHIND)
            weight = torch.where(told, trust.view(-1)[place], torch.zeros_like(z))
            total[rows] += weight * distance.clamp(-1, 1)
            weights[rows] += weight
        step()
    value = total / weights.clamp(min=1e-12)
    return value.cpu().numpy(), weights.cpu().numpy()


def _pixels(view: View, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """Depth and weight (h, w) of the view's pixels: larger for confident, near and frontal ones. And the factor from a
    depth difference to the distance from the surface.
    """
    assert view.depth is not None
    depth = torch.from_numpy(np.ascontiguousarray(view.depth, np.float32)).to(device)
    known = depth > 0
    trust = torch.ones_like(depth)
    if view.confidence is not None and bool(known.any()):
        confidence = torch.from_numpy(np.ascontiguousarray(view.confidence, np.float32)).to(device)
        sample = confidence[known].sort().values
        rank = torch.searchsorted(sample, confidence) / len(sample)
        trust = VIEW_WEIGHT + (1 - VIEW_WEIGHT) * rank
    typical = depth[known].median() if bool(known.any()) else depth.new_tensor(1.0)
    slope = _slope(view, depth)
    return depth, trust * slope * (typical / depth.clamp(min=float(typical) / 4)).clamp(0.05, 4), slope


def _slope(view: View, depth: Tensor) -> Tensor:
    """(h, w) n · r of a pixel's unit normal n and ray r = (x, y, 1): small where the surface is seen from the side.

    Where a neighbour two pixels on is not of the same surface, the difference to the other side counts, else 1.
    """
    height, width = depth.shape
    K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
    x = ((torch.arange(width, device=depth.device) + 0.5 - float(K[0, 2])) / float(K[0, 0]))[None].expand(height, -1)
    y = ((torch.arange(height, device=depth.device) + 0.5 - float(K[1, 2])) / float(K[1, 1]))[:, None].expand(-1, width)
    rays = torch.stack([x, y, torch.ones_like(x)])
    points = rays * depth
    across, down = _tangent(points, depth, 2), _tangent(points, depth, 1)
    normal = torch.linalg.cross(across, down, dim=0)
    length = normal.norm(dim=0)
    slope = (normal * rays).sum(dim=0).abs() / length.clamp(min=1e-20)
    return torch.where(length > 0, slope, torch.ones_like(slope)).clamp(STEEPEST, 1)


def _tangent(points: Tensor, depth: Tensor, axis: int) -> Tensor:
    """(3, h, w) difference along an axis of (3, h, w) over two pixels, 0 where both sides are torn."""
    reach = 2
    count = points.shape[axis]
    if count <= reach:
        return torch.zeros_like(points)
    step = points.narrow(axis, reach, count - reach) - points.narrow(axis, 0, count - reach)
    a, b = (depth.narrow(axis - 1, start, count - reach) for start in (reach, 0))
    whole = (torch.minimum(a, b) > 0) & ((a - b).abs() < TORN * torch.minimum(a, b))
    step = torch.where(whole, step, torch.zeros_like(step))
    result, sides = torch.zeros_like(points), torch.zeros_like(depth)
    for start in (0, reach):  # the difference to the next pixel, and from the one before
        result.narrow(axis, start, count - reach).add_(step)
        sides.narrow(axis - 1, start, count - reach).add_(whole)
    return result / sides.clamp(min=1)


def _project(view: View, points: Tensor, shape: tuple[int, int] | torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Index (N,) in the flattened map (h, w) of the projections of points (N, 3), their z-depth, and whether they are
    inside.
    """
    height, width = shape
    K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
    pose = torch.tensor(view.cam_from_world, dtype=torch.float32, device=points.device)
    camera = points @ pose[:, :3].T + pose[:, 3]
    z = camera[:, 2]
    ahead = z > 1e-6
    inverse = torch.where(ahead, 1 / z, torch.zeros_like(z))
    column = (camera[:, 0] * inverse * float(K[0, 0]) + float(K[0, 2])).floor()
    row = (camera[:, 1] * inverse * float(K[1, 1]) + float(K[1, 2])).floor()
    inside = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return place, z, inside


@torch.inference_mode()
def _supported(views: Sequence[View], vertices: np.ndarray, distance: float, device: torch.device | str) -> np.ndarray:
    """(N,) bool: some view has a surface within `distance`. Vertices between surfaces that disagree have none."""
    points = torch.from_numpy(vertices).to(device)
    supported = torch.zeros(len(points), dtype=torch.bool, device=device)
    for view in views:
        if view.depth is not None and len(points):
            depth, _, slope = _pixels(view, device)
            place, z, inside = _project(view, points, depth.shape)
            seen = depth.view(-1)[place]
            supported |= inside & (seen > 0) & (((seen - z) * slope.view(-1)[place]).abs() < distance)
    return supported.cpu().numpy()


def _only(mesh: Mesh, kept: np.ndarray) -> Mesh:
    """The triangles whose vertices are all kept."""
    return replace(mesh, triangles=mesh.triangles[kept[mesh.triangles].all(axis=1)])


@torch.inference_mode()
def _colors(
    views: Sequence[View], vertices: np.ndarray, truncation: float, read_rgb: ReadImage, device: torch.device | str
) -> np.ndarray:
    """(N, 3) uint8: the mean colour of the views that see a vertex, near ones with a larger weight."""
    points = torch.from_numpy(vertices).to(device)
    total = torch.zeros(len(points), 3, device=device)
    weights = torch.zeros(len(points), 1, device=device)
    for i, view in enumerate(views):
        if view.depth is None or not len(points):
            continue
        depth = torch.from_numpy(np.ascontiguousarray(view.depth, np.float32)).to(device)
        place, z, inside = _project(view, points, depth.shape)
        sees = inside & ((depth.view(-1)[place] - z).abs() < truncation)
        if not bool(sees.any()):
            continue
        rgb = torch.from_numpy(np.ascontiguousarray(read_rgb(i))).to(device)
        spot, _, _ = _project(view, points, rgb.shape[:2])
        weight = torch.where(sees, 1 / z.clamp(min=1e-6) ** 2, torch.zeros_like(z))[:, None]
        total += weight * rgb.view(-1, 3)[spot].float()
        weights += weight
    color = torch.where(weights > 0, total / weights.clamp(min=1e-20), torch.full_like(total, 127.0))
    return color.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
