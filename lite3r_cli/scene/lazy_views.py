"""Views whose depth maps are on disk and read on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import overload

import numpy as np

from ..cores import count_cores
from .posed_view import View

_MOST_THREADS = 8
Maps = Callable[[int], tuple[np.ndarray, np.ndarray]]  # index → depth and confidence (h, w), as stored


class LazyViews(Sequence[View]):
    """A sequence of views of which only the cameras are in memory.

    `cameras` are views without maps, `load` returns the maps, `factors` multiply the depth.
    """

    def __init__(self, cameras: Sequence[View], load: Maps, factors: Sequence[float]) -> None:
        self.cameras, self._load, self._factors = list(cameras), load, list(factors)

    def __len__(self) -> int:
        return len(self.cameras)

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> list[View]: ...
    def __getitem__(self, index: int | slice) -> View | list[View]:
        if isinstance(index, slice):
            return self.some(range(*index.indices(len(self))))
        camera = self.cameras[index]
        depth, confidence = self._load(index % len(self))
        return replace(camera, depth=depth * np.float32(self._factors[index]), confidence=confidence)

    def some(self, indices: Iterable[int]) -> list[View]:
        """The views at these indices, read in threads."""
        with ThreadPoolExecutor(min(_MOST_THREADS, count_cores())) as pool:
            return list(pool.map(self.__getitem__, indices))

    def placed(self, cam_from_world: Sequence[np.ndarray], factor: float) -> LazyViews:
        """The same views with other poses, depth multiplied by `factor`."""
        cameras = [replace(view, cam_from_world=pose) for view, pose in zip(self.cameras, cam_from_world, strict=True)]
        return LazyViews(cameras, self._load, [factor * each for each in self._factors])


def cameras_of(views: Sequence[View]) -> Sequence[View]:
    """The views for functions that need only names, sizes and cameras; `LazyViews` have no maps then."""
    return views.cameras if isinstance(views, LazyViews) else views


def without_maps(views: LazyViews) -> list[View]:
    """The cameras alone, for what needs no depth."""
    return [replace(view, depth=None, confidence=None) for view in views.cameras]
