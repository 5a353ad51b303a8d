"""Data of a scene for later runs: memory/, with one file per view, written with the scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..cores import count_cores
from ..io.atomic import Place
from ..io.view_memory import Features, ViewMemory, source_of, write_memory
from ..scene.posed_view import View, known_depth
from ..world.ties import find_features
from .depth_request import DepthFiles

if TYPE_CHECKING:
    from .result import Scene
    from .view_files import Kept

SIDE, COUNT = 518, 1000  # size of the picture for stored features, and their maximum number
_MOST_THREADS = 16


def memory_file(stem: str) -> str:
    """Path relative to the scene's folder."""
    return f"memory/{stem}.safetensors"


@contextmanager
def writing_memories(out: Place, scene: Scene, kept: Mapping[str, Kept] = MappingProxyType({})) -> Iterator[None]:
    """Inside this context threads write memory/ for all views of a scene, with features if requested; at its end all
    files are there. After an error in it, files that were not begun are dropped. `kept` are the views of an older
    output by stem. Raises OutputError, and InputError for a picture that has changed.
    """
    indices = scene.predictions.indices

    def one(k: int) -> None:
        record = scene.images.records[indices[k]]
        if record.stem in kept and kept[record.stem].link(out, memory_file("{}"), record.stem):
            return
        view = scene.views[k]
        features = _features(scene, k, view) if scene.config.keep_memory else None
        memory = ViewMemory(
            _confidence(scene, indices[k], view), source_of(record.path, record.frame, record.time), features
        )
        path = out.path(memory_file(record.stem))
        write_memory(path, memory)
        out.note(path)

    pool = ThreadPoolExecutor(min(_MOST_THREADS, count_cores()), thread_name_prefix="memory files")
    try:
        begun = [pool.submit(one, k) for k in range(len(indices))]
        yield
        for future in begun:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _confidence(scene: Scene, index: int, view: View) -> np.ndarray:
    """(h, w) of the size of the depth file, 0 where depth is unknown or masked; 1 if the network has no confidence."""
    from ..scene.fusion import sample_mask  # imports torch

    depth = known_depth(view)
    known = np.isfinite(depth) & (depth > 0)
    values = np.ones(depth.shape, np.float32) if view.confidence is None else view.confidence
    mask = scene.images.read_mask(index)
    if mask is not None:
        known &= sample_mask(mask, depth.shape)
    values = np.where(known, np.maximum(values, np.finfo(np.float32).tiny), 0)
    if not DepthFiles.of(scene.config).picture_size:
        return values
    return cv2.resize(values, (view.width, view.height), interpolation=cv2.INTER_NEAREST_EXACT)


def _features(scene: Scene, k: int, view: View) -> Features:
    """Features of the view's picture at the network's size."""
    found = scene.predictions
    item = found.inputs[k] if found.inputs and view.lens is None else None
    if item is not None and item.rgb.shape[:2] == tuple(item.full):
        return find_features(item.rgb, SIDE, COUNT)
    height, width = found.network_sizes[k]
    whole = cv2.resize(scene.images.read(found.indices[k]), (width, height), interpolation=cv2.INTER_AREA)
    return find_features(whole, SIDE, COUNT)
