"""Fuses posed depth maps into one cloud: unreliable pixels are removed, and surfaces of several views are averaged.

Removed are, in this order: masked pixels, pixels without depth, the least confident pixels of the scene, flying pixels
at depth edges, pixels that other views contradict. The remaining points are moved to the mean of the surfaces that
agree on them, coloured from the image, optionally merged in voxels, and reduced to the budget.

Everything is vectorised over the pixels of a view, one view at a time, on a CPU or a GPU. Besides the views, memory
holds one byte per pixel, the surfaces of some views (`consistency.py`) and the points so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ..config import FusionConfig
from . import geometry
from .consistency import adaptive_tolerance, best_neighbours, check_views
from .device_maps import DeviceMaps
from .map_groups import MapGroup, Pixels, groups_of
from .posed_view import PointCloud, View
from .sinks import Points, PointSink, VoxelSink, kth_lowest, sink_for
from .surfaces import Surfaces, on_device, runs_of_one_shape
from .usable_maps import NOTHING_HELD, UsableMap, maps_of, stacked

ReadImage = Callable[[int], np.ndarray]  # index → (H, W, 3) uint8
ReadMask = Callable[[int], np.ndarray | None]  # index → (H, W) bool, True = use
_PERCENTILE_SAMPLES = 4_000_000  # pixels that the confidence threshold is estimated from


@dataclass
class FusionStatistics:
    """Statistics of all pixels; the counts from `unknown` to `over_budget` and `points` add up to `pixels`."""

    pixels: int = 0
    unknown: int = 0  # not masked, without finite depth
    masked: int = 0
    low_confidence: int = 0
    edge: int = 0  # flying pixels
    inconsistent: int = 0  # contradicted by every view that should see the point
    free_space: int = 0  # more views look through the point than see it
    merged: int = 0  # merged with another point in its voxel
    over_budget: int = 0
    points: int = 0
    confidence_threshold: float | None = None
    tolerance: float | None = None  # relative depth difference of agreement

    def to_dict(self) -> dict[str, int | float | None]:
        """For run.json."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def fuse(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None = None,
    config: FusionConfig = FusionConfig(),
    seed: int = 0,
) -> PointCloud:
    """The cloud of `fuse_with_statistics` alone."""
    return fuse_with_statistics(views, read_rgb, read_mask, config, seed)[0]


@torch.inference_mode()
def fuse_with_statistics(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None = None,
    config: FusionConfig = FusionConfig(),
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
    device: torch.device | str = "cpu",
    held: DeviceMaps = NOTHING_HELD,
) -> tuple[PointCloud, FusionStatistics]:
    """Fuse posed depth maps into a cloud in their world frame, and report what was removed.

    `read_rgb(i)` returns the image of view i at any size, `read_mask(i)` its mask (True = use) or None; both are called
    at most once per view. `step` is called after each view. Views without a depth map add nothing; the cloud may be
    empty. On a CPU, equal views give identical clouds. `held` has maps that are already on the device.
    """
    maps = maps_of(views, device, held)
    statistics = FusionStatistics(pixels=sum(each.alive.numel() for each in maps if each is not None))
    counts = _Counts()
    _drop_unusable(maps, read_mask, config, counts, statistics)
    surfaces, neighbours = _compared(maps, config, statistics)
    sink = sink_for(config.voxel, config.max_points, seed)
    for _ in range(maps.count(None)):
        step()
    for group in groups_of(surfaces.voters, surfaces.voters, neighbours):
        found = _checked(surfaces, group, neighbours, statistics.tolerance, config.average, counts)
        _collect(sink, maps, group, group.views, *found, read_rgb)
        for _ in group.views:
            step()
    counts.into(statistics)
    cloud = sink.result(statistics)
    statistics.points = len(cloud)
    return cloud, statistics


class PieceFusion:
    """The same for more views than fit in memory: `add` one piece at a time, then call `result`.

    `threshold` is the confidence of the whole scene below which pixels are removed; None removes none.
    """

    def __init__(self, config: FusionConfig, seed: int, threshold: float | None, device: torch.device | str) -> None:
        self.config, self.seed, self.device = config, seed, device
        self.threshold = -np.inf if threshold is None else threshold
        self.statistics = FusionStatistics(confidence_threshold=threshold)
        self._counts, self._tolerances = _Counts(), list[float]()
        self._sink = sink_for(config.voxel, config.max_points, seed)

    @torch.inference_mode()
    def add(
        self,
        views: Sequence[View],
        numbers: Sequence[int],
        new: int,
        read_rgb: ReadImage,
        read_mask: ReadMask,
        held: DeviceMaps = NOTHING_HELD,
    ) -> None:
        """Add the points of the first `new` views; the other views are only compared with. `numbers` are the indices of
        the views in the scene, the arguments of `read_rgb` and `read_mask`. `held` has maps that are on the device.
        """
        maps = maps_of(views, self.device, held)
        self.statistics.pixels += sum(each.alive.numel() for each in maps[:new] if each is not None)
        for part, counts in ((slice(new), self._counts), (slice(new, None), _Counts())):
            masks, unused = _of(read_mask, numbers[part]), FusionStatistics()
            _drop_unusable(maps[part], masks, self.config, counts, unused, self.threshold)
        found = FusionStatistics()
        surfaces, neighbours = _compared(maps, self.config, found)
        self._tolerances += [found.tolerance] if found.tolerance is not None else []
        for group in groups_of(surfaces.voters[:new], surfaces.voters, neighbours):
            kept = _checked(surfaces, group, neighbours, found.tolerance, self.config.average, self._counts)
            _collect(self._sink, maps, group, [numbers[i] for i in group.views], *kept, read_rgb)

    def result(self) -> tuple[PointCloud, FusionStatistics]:
        """The cloud and the statistics; the tolerance is the median over the pieces."""
        self._counts.into(self.statistics)
        cloud = self._sink.result(self.statistics)
        self.statistics.points = len(cloud)
        self.statistics.tolerance = float(np.median(self._tolerances)) if self._tolerances else None
        return cloud, self.statistics


def _collect(
    sink: PointSink | VoxelSink, maps: Sequence[UsableMap | None], group: MapGroup, numbers: Sequence[int],
    pixels: Pixels, points: Tensor, read_rgb: ReadImage,
) -> None:  # fmt: skip
    """Colour the points (3, N) of the pixels of a group and add them in world coordinates to `sink`. `numbers` are the
    numbers of its views in the scene.
    """
    number = _of_each(numbers, pixels)
    chosen = sink.chosen(number, pixels.index)
    if chosen is not None:
        pixels, points = pixels.some(chosen), points.index_select(1, chosen)
        number = _of_each(numbers, pixels)
    if len(pixels):
        colors = _colors([read_rgb(n) for n in numbers], pixels, (group.height, group.width))
        confidence = pixels.of([each.confidence for i in group.views if (each := maps[i]) is not None])
        sink.add(Points(group.to_world(pixels, points).T, colors, confidence, number, pixels.index))


def _of_each(numbers: Sequence[int], pixels: Pixels) -> int | Tensor:
    """The number of the view of each pixel (N,); of all, if there is one view."""
    return numbers[0] if pixels.owner is None else pixels.each(torch.tensor(numbers, device=pixels.index.device))


def _colors(images: Sequence[np.ndarray], pixels: Pixels, shape: tuple[int, int]) -> Tensor:
    """Colours (N, 3) uint8 of the pixels of maps of `shape` from images (H, W, 3) uint8 of any size."""
    device = pixels.index.device
    if pixels.owner is None:
        return sample_colors(on_device(images[0], device), pixels.index, shape)
    if all(rgb.shape[:2] == shape for rgb in images):
        return pixels.of([*on_device(np.stack(images), device)])
    runs = pixels.index.split(pixels.owner.bincount(minlength=len(images)).tolist())
    return torch.cat([sample_colors(on_device(rgb, device), run, shape) for rgb, run in zip(images, runs)])


def _of(read_mask: ReadMask, numbers: Sequence[int]) -> ReadMask:
    """Masks by their indices in `numbers`."""
    return lambda i: read_mask(numbers[i])


@torch.inference_mode()
def clean_views(
    views: Sequence[View],
    read_mask: ReadMask | None = None,
    config: FusionConfig = FusionConfig(),
    device: torch.device | str = "cpu",
) -> list[View]:
    """The views with the depth that goes into a cloud: 0 for removed pixels, moved where other views agree."""
    maps = maps_of(views, device)
    counts, statistics = _Counts(), FusionStatistics()
    _drop_unusable(maps, read_mask, config, counts, statistics)
    surfaces, neighbours = _compared(maps, config, statistics)
    clean = list(views)
    for group in groups_of(surfaces.voters, surfaces.voters, neighbours):
        pixels, points = _checked(surfaces, group, neighbours, statistics.tolerance, config.average, counts)
        depth = points.new_zeros(len(group.views), group.height, group.width)
        place = pixels.index if pixels.owner is None else pixels.owner * depth[0].numel() + pixels.index
        depth.view(-1)[place] = points[2]
        for i, found in zip(group.views, depth.cpu().numpy()):
            clean[i] = replace(views[i], depth=found)
    return clean


# --- which pixels -----------------------------------------------------------------------------------------------------


class _Counts:
    """Number of removed pixels per reason; copied from the device once, at the end."""

    def __init__(self) -> None:
        self._counted: dict[str, list[Tensor]] = {}

    def add(self, reason: str, pixels: Tensor) -> None:
        self._counted.setdefault(reason, []).append(pixels.sum())

    def into(self, statistics: FusionStatistics) -> None:
        for reason, counted in self._counted.items():
            setattr(statistics, reason, int(torch.stack(counted).sum()))


def _compared(
    maps: Sequence[UsableMap | None], config: FusionConfig, statistics: FusionStatistics
) -> tuple[Surfaces, list[list[int]]]:
    """The surfaces of all views, and the neighbours of each; sets the tolerance."""
    voters = [None if each is None else each.voter for each in maps]
    neighbours = best_neighbours(voters, config.neighbours) if config.consistency else [[] for _ in maps]
    surfaces = Surfaces(voters)
    if any(neighbours):
        statistics.tolerance = config.tolerance or adaptive_tolerance(surfaces, neighbours)
    return surfaces, neighbours


def _drop_unusable(
    maps: Sequence[UsableMap | None],
    read_mask: ReadMask | None,
    config: FusionConfig,
    counts: _Counts,
    statistics: FusionStatistics,
    threshold: float | None = None,
) -> None:
    """Keep the pixels that have depth, are not masked, confident enough, and not flying. Without a given threshold of
    confidence, that of these views is used.
    """
    unmasked: list[UsableMap] = []
    for i, each in enumerate(maps):
        if each is None:
            continue
        mask = read_mask(i) if read_mask is not None else None
        if mask is None:
            unmasked.append(each)
            continue
        used = on_device(sample_mask(mask, each.voter.shape), each.alive.device)
        counts.add("masked", ~used)
        counts.add("unknown", ~each.alive & used)
        each.alive &= used
    for run in runs_of_one_shape([each.voter for each in unmasked]):
        counts.add("unknown", ~stacked([unmasked[k].alive for k in run]))
    if threshold is None:
        threshold = _confidence_threshold([each for each in maps if each is not None], config.confidence_percentile)
    statistics.confidence_threshold = threshold
    there = [each for each in maps if each is not None]
    for run in runs_of_one_shape([each.voter for each in there]):
        group = [there[k] for k in run]
        flying = None
        if config.edge_filter:
            depth = stacked([each.depth for each in group])
            flying = flying_pixels(depth, [each.view for each in group], config.max_incidence_deg)
        alive = torch.stack([each.alive for each in group])
        if threshold is not None:
            low = stacked([each.confidence for each in group]) < threshold
            counts.add("low_confidence", alive & low)
            alive &= ~low
        if flying is not None:
            counts.add("edge", alive & flying)
            alive &= ~flying
        for each, left in zip(group, alive):
            each.keep(left)


def _confidence_threshold(maps: Sequence[UsableMap], percentile: float) -> float | None:
    """The percentile over the usable pixels of the whole scene, None for "keep all"; pixels equal to it are kept."""
    total = int(torch.stack([each.alive.sum() for each in maps]).sum()) if maps else 0
    if percentile == 0 or total == 0:
        return None
    stride = -(-total // _PERCENTILE_SAMPLES)
    sample = torch.cat([each.confidence[each.alive][::stride] for each in maps])
    return float(kth_lowest(sample, int(percentile / 100 * (len(sample) - 1)) + 1))


def flying_pixels(depth: Tensor, views: Sequence[View], max_incidence_deg: float) -> Tensor:
    """Pixels (n, h, w) bool of n maps `depth` whose depth jumps on both sides along a row, a column or a diagonal.

    A jump is a step to the next pixel that, as a surface, would be seen at more than `max_incidence_deg` from its
    normal: |Δz| / min z > tan(incidence) · angle between the pixels. Smeared edges jump on both sides. The pixels on
    either side of a clean edge, and at both ends of a smeared one, have one side without a jump and are kept. Unknown
    neighbours and the border do not count.
    """
    _, height, width = depth.shape
    K = np.stack([geometry.scale_intrinsics(view.K, width / view.width, height / view.height) for view in views])
    steepest = np.tan(np.radians(max_incidence_deg))
    depth = torch.where(depth.isfinite() & (depth > 0), depth, torch.nan)
    flying = torch.zeros_like(depth, dtype=torch.bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        # `here` and `there` are the same pixels and their neighbours in one direction
        here = (slice(None), slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
        there = (slice(None), slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
        z, next_z = depth[here], depth[there]
        steps = (steepest * np.hypot(dx / K[:, 0, 0], dy / K[:, 1, 1])).astype(np.float32)
        limit = on_device(steps, depth.device)[:, None, None]
        change = (next_z - z).abs_()
        # next to an unknown pixel the change is NaN: neither a jump nor evidence against one
        forward, backward = (torch.ones_like(flying) for _ in range(2))
        forward[here] = backward[there] = ~(change <= torch.minimum(z, next_z).mul_(limit))
        judged = torch.zeros_like(flying)
        known = ~change.isnan()
        judged[here] |= known
        judged[there] |= known
        flying |= forward & backward & judged
    return flying


def _checked(
    surfaces: Surfaces, group: MapGroup, neighbours: Sequence[Sequence[int]], tolerance: float | None, average: bool,
    counts: _Counts,
) -> tuple[Pixels, Tensor]:  # fmt: skip
    """The remaining pixels of a group, and their camera points (3, N). `neighbours` are those of all views."""
    pixels = group.pixels()
    points = group.camera_points(pixels)
    others = [neighbours[i] for i in group.views]
    if not any(others) or not len(pixels) or tolerance is None:
        return pixels, points
    verdict = check_views(surfaces, group, pixels, points, others, tolerance, average)
    inconsistent = verdict.contradicted & ~verdict.seen_through
    counts.add("free_space", verdict.seen_through)
    counts.add("inconsistent", inconsistent)
    keep = (~verdict.seen_through & ~inconsistent).nonzero()[:, 0]
    if verdict.shift is not None:
        points += verdict.shift
    return pixels.some(keep), points.index_select(1, keep)


# --- colours and masks from images of another size --------------------------------------------------------------------


def sample_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) at the pixel centres of a map of `shape` (h, w) that covers the same field of view: (h, w) bool."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * size / n).astype(np.int64), size - 1)
        for n, size in zip(shape, mask.shape, strict=True)
    )
    result: np.ndarray = mask[rows[:, None], columns].astype(bool)
    return result


def sample_colors(rgb: Tensor, pixels: Tensor, shape: tuple[int, int]) -> Tensor:
    """Colours (N, 3) uint8 of the pixels (N,) of a map of `shape` (h, w), given as indices of the flattened map, from
    an image (H, W, 3) uint8 with the same field of view.

    Bilinear at the pixel's centre: x = (column + 0.5) · W / w − 0.5 counts from the centre of the image's first pixel.
    """
    if rgb.shape[:2] == shape:
        return rgb.view(-1, 3).index_select(0, pixels)
    weights, corners = [], []
    for index, n, size in zip((pixels // shape[1], pixels % shape[1]), shape, rgb.shape[:2], strict=True):
        x = ((index + 0.5).double() * (size / n) - 0.5).clamp_(0, size - 1)
        low = x.long().clamp_(max=max(size - 2, 0))
        weights.append((x - low).float()[:, None])
        corners.append((low, (low + 1).clamp_(max=size - 1)))
    (wy, wx), ((top, bottom), (left, right)) = weights, corners
    flat, width = rgb.view(-1, 3), rgb.shape[1]

    def at(row: Tensor, column: Tensor) -> Tensor:
        return flat.index_select(0, row * width + column).float()

    upper, lower = (torch.lerp(at(row, left), at(row, right), wx) for row in (top, bottom))
    return torch.lerp(upper, lower, wy).round_().to(torch.uint8)
