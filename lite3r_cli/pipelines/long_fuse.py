"""Fuses the views of a long set and writes their files, a few views in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress, Tell
from ..cores import count_cores
from ..errors import InputError
from ..io.images import ImageSet
from ..long.assembly import Placed
from ..long.pass_store import PassStore
from ..scene.frame import local_origin, move_cloud, move_views, translation
from ..scene.geometry import camera_centres
from ..scene.lazy_views import LazyViews
from ..scene.posed_view import PointCloud, View
from .view_files import ViewFiles

if TYPE_CHECKING:
    import torch

    from ..scene.fusion import FusionStatistics
    from .scene_memory import Memories

_MOST_THREADS = 8
PIECE = {"cpu": 24}  # views fused at a time
LARGE_PIECE = 60  # on a GPU, which computes less often what two pieces share
AROUND = 12  # neighbours before and after a piece that it is compared with


def lazy_views(placed: Placed, store: PassStore, shapes: dict[int, tuple[int, int]]) -> LazyViews:
    """The views of a scene; in place of their maps they have empty ones of the right size."""

    def load(index: int) -> tuple[np.ndarray, np.ndarray]:
        view = store.read(placed.source[index], placed.positions[index], placed.cameras[index])
        assert view.depth is not None and view.confidence is not None
        return view.depth, view.confidence

    nothing = np.float32(0)
    cameras = [
        replace(camera, depth=np.broadcast_to(nothing, shapes[position]))
        for camera, position in zip(placed.cameras, placed.positions)
    ]
    return LazyViews(cameras, load, placed.factors)


def confidence_threshold(placed: Placed, store: PassStore, percentile: float) -> float | None:
    """The percentile of the stored confidence of the scene's known pixels, from their samples; None keeps all."""
    if percentile == 0:
        return None
    by_pass: dict[int, list[int]] = {}
    for position, number in zip(placed.positions, placed.source):
        by_pass.setdefault(number, []).append(position)
    with ThreadPoolExecutor(min(_MOST_THREADS, count_cores())) as pool:
        found = list(pool.map(store.confidences, by_pass.keys(), by_pass.values()))
    values, counts = (np.concatenate(column) for column in zip(*found))
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    if not below[-1]:
        return None
    return float(values[order][int(np.searchsorted(below, percentile / 100 * below[-1]))])


class _Reading:
    """Threads read the views and the pictures of a piece and of the next one, and copy the maps to the device, which
    takes as long as fusion. Use as a context manager.
    """

    def __init__(self, views: LazyViews, rgb: Callable[[int], np.ndarray], device: torch.device) -> None:
        from ..scene.device_maps import DeviceMaps  # imports torch

        self._views, self._rgb, self._device = views, rgb, device
        self.held = DeviceMaps()
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, count_cores()), thread_name_prefix="views of a piece")
        self._maps: dict[int, Future[View]] = {}
        self._pictures: dict[int, Future[np.ndarray]] = {}

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, own: Sequence[int], around: Sequence[int]) -> None:
        """Read what is not read yet: the views of both lists, and the pictures of `own`."""
        for j in (*own, *around):
            if j not in self._maps:
                self._maps[j] = self._pool.submit(self._read, j)
        for j in own:
            if j not in self._pictures:
                self._pictures[j] = self._pool.submit(self._rgb, j)

    def _read(self, j: int) -> View:
        from ..scene.surfaces import on_device

        view = self._views[j]
        for array in (view.depth, view.confidence):
            if array is not None and self._device.type != "cpu":
                self.held.hold(array, on_device(array, self._device))
        return view

    def view(self, j: int) -> View:
        return self._maps[j].result()

    def picture(self, j: int) -> np.ndarray:
        return self._pictures[j].result()

    def keep_only(self, own: Sequence[int], around: Sequence[int]) -> None:
        """Forget what the piece `own`, with its neighbours `around`, does not need."""
        here = {*own, *around}
        for j in self._maps.keys() - here:
            view = self._maps.pop(j).result()
            self.held.drop(view.depth)
            self.held.drop(view.confidence)
        self._pictures = {j: read for j, read in self._pictures.items() if j in here}


def _beside(own: list[int], count: int) -> list[int]:
    return [j for j in range(own[0] - AROUND, own[-1] + 1 + AROUND) if 0 <= j < count and j not in own]


def fuse_pieces(
    config: ReconstructConfig,
    images: ImageSet,
    indices: list[int],
    views: LazyViews,
    colors: Callable[[int], np.ndarray | None],
    threshold: float | None,
    device: torch.device,
    files: ViewFiles | None,
    memories: Memories | None,
    progress: Progress,
    tell: Tell,
    check: Callable[[], None],
    around_of: Callable[[list[int]], list[int]] | None = None,
) -> tuple[PointCloud, FusionStatistics]:
    """The cloud in the frame of the views; writes the files of each view, with those of `memories`. `indices` are the
    views' pictures, `around_of` returns the views that a piece is compared with, None: its neighbours in order.

    Raises InputError for a cloud without points with `--strict`.
    """
    from ..scene.fusion import PieceFusion

    origin = local_origin(camera_centres(np.stack([view.cam_from_world for view in views.cameras])))
    fusion = PieceFusion(config.fusion, config.predict.seed, threshold, device)

    def rgb(j: int) -> np.ndarray:
        small = colors(j)
        return images.read(indices[j]) if small is None else small

    piece = PIECE.get(device.type, LARGE_PIECE)
    pieces = [list(range(first, min(first + piece, len(views)))) for first in range(0, len(views), piece)]
    wanted = [_beside(own, len(views)) if around_of is None else around_of(own) for own in pieces]
    with progress.stage("Fuse", total=len(views)) as step, _Reading(views, rgb, device) as reading:
        for own, around, following in zip(pieces, wanted, [*zip(pieces[1:], wanted[1:]), ([], [])]):
            reading.begin(own, around)
            loaded = [reading.view(j) for j in (*own, *around)]
            reading.begin(*following)  # while this piece is fused
            if files is not None:
                files.start(loaded[: len(own)], [images.records[indices[j]].stem for j in own], memories, own[0])
            near = move_views(loaded, translation(None if origin is None else -origin))
            mask = lambda j: images.read_mask(indices[j])  # noqa: E731
            fusion.add(near, [*own, *around], len(own), reading.picture, mask, reading.held)
            reading.keep_only(*following)
            if files is not None:
                files.wait_for(own[0])  # pending writes hold their views in memory: those of one piece
            for _ in own:
                step()
            check()
    cloud, statistics = fusion.result()
    if origin is not None:
        cloud = move_cloud(cloud, translation(origin))
    if not len(cloud):
        text = "no point is left; loosen --masks or the cloud's filters"
        if config.input.strict:
            raise InputError(text)
        tell(text)
    return cloud, statistics
