"""Data of a scene for later runs: memory/, with one file per view, written with the scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..config import ReconstructConfig
from ..cores import count_cores
from ..io.atomic import OutputSet, Place
from ..io.images import ImageSet
from ..io.view_memory import Features, ViewMemory, source_of, write_memory
from ..scene.posed_view import View, known_depth
from ..world.ties import find_features
from .depth_request import DepthFiles

if TYPE_CHECKING:
    from .predict import Predictions
    from .view_files import Kept

SIDE, COUNT = 518, 1000  # size of the picture for stored features, and their maximum number
_MOST_THREADS = 6


def memory_file(stem: str) -> str:
    """Path relative to the scene's folder."""
    return f"memory/{stem}.safetensors"


@dataclass(frozen=True)
class Memories:
    """The files of memory/ of a scene's views, with features if requested. `kept` are the views of an older output by
    stem.
    """

    config: ReconstructConfig
    images: ImageSet
    predictions: Predictions
    kept: Mapping[str, Kept] = field(default_factory=dict)

    def write(self, out: OutputSet | Place, k: int, view: View) -> None:
        """Write the file of `view`, view k. Raises OutputError, and InputError for a picture that has changed."""
        record = self.images.records[self.predictions.indices[k]]
        if record.stem in self.kept and self.kept[record.stem].link(out, memory_file("{}"), record.stem):
            return
        features = _features(self.images, self.predictions, k, view) if self.config.keep_memory else None
        source = source_of(record.path, record.frame, record.time)
        path = out.path(memory_file(record.stem))
        write_memory(path, ViewMemory(self._confidence(k, view), source, features))
        out.note(path)

    def _confidence(self, k: int, view: View) -> np.ndarray:
        """(h, w) of the size of the depth file, 0 where depth is unknown or masked; 1 if the network has no
        confidence.
        """
        from ..scene.fusion import sample_mask  # imports torch

        depth = known_depth(view)
        known = np.isfinite(depth) & (depth > 0)
        values = np.ones(depth.shape, np.float32) if view.confidence is None else view.confidence
        mask = self.images.read_mask(self.predictions.indices[k])
        if mask is not None:
            known &= sample_mask(mask, depth.shape)
        values = np.where(known, np.maximum(values, np.finfo(np.float32).tiny), 0)
        if not DepthFiles.of(self.config).picture_size:
            return values
        return cv2.resize(values, (view.width, view.height), interpolation=cv2.INTER_NEAREST_EXACT)


@contextmanager
def writing(memories: Memories, out: Place) -> Iterator[None]:
    """Inside this context threads write memory/ for all views; at its end all files are there. After an error in it,
    files that were not begun are dropped. Raises like `Memories.write`.
    """

    def write(k: int) -> None:
        memories.write(out, k, memories.predictions.views[k])  # possibly from disk

    pool = ThreadPoolExecutor(min(_MOST_THREADS, count_cores()), thread_name_prefix="memory files")
    try:
        begun = [pool.submit(write, k) for k in range(len(memories.predictions.views))]
        yield
        for future in begun:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _features(images: ImageSet, found: Predictions, k: int, view: View) -> Features:
    """Features of the view's picture at the network's size."""
    item = found.inputs[k] if found.inputs and view.lens is None else None
    if item is not None and item.rgb.shape[:2] == tuple(item.full):
        return find_features(item.rgb, SIDE, COUNT)
    height, width = found.network_sizes[k]
    whole = cv2.resize(images.read(found.indices[k]), (width, height), interpolation=cv2.INTER_AREA)
    return find_features(whole, SIDE, COUNT)
