"""What the pictures of a set tell without a prediction: which of them overlap, and their straight edges. Computed while
the network is loaded and runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..config import ReconstructConfig
from ..cores import count_cores
from ..networks.pictures import NetworkInput
from ..world.gravity import Segments, find_edges
from .later import Later

if TYPE_CHECKING:
    from ..io.images import ImageSet
    from ..world.ties import Groups
    from .predict import Pictures, Predictor

MOST_THREADS = 8


class Edges:
    """The straight edges of pictures at the network's size, each found once by separate threads."""

    def __init__(self, inputs: Sequence[NetworkInput] = ()) -> None:
        self._found: dict[int, tuple[np.ndarray, Future[Segments]]] = {}
        self._lock = Lock()
        self.start(inputs)

    def start(self, inputs: Sequence[NetworkInput]) -> None:
        """Search the edges of these pictures, of those that are whole and were not searched before."""
        with self._lock:
            new = [item.rgb for item in inputs if _is_whole(item) and id(item.rgb) not in self._found]
            if not new:
                return
            pool = ThreadPoolExecutor(min(MOST_THREADS, count_cores()), thread_name_prefix="edges")
            self._found |= {id(rgb): (rgb, pool.submit(_edges_of, rgb)) for rgb in new}
            pool.shutdown(wait=False)

    def of(self, item: NetworkInput) -> Segments | None:
        """The edges of a whole picture; None if they were not searched. Waits for them."""
        rgb, found = self._found.get(id(item.rgb), (None, None))
        return None if found is None or rgb is not item.rgb or not _is_whole(item) else found.result()


def _is_whole(item: NetworkInput) -> bool:
    """Whether the network sees the whole picture."""
    return item.rgb.shape[:2] == tuple(item.full)


NO_EDGES = Edges()


def _edges_of(rgb: np.ndarray) -> Segments:
    return find_edges(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


class Ahead:
    """Starts when the pictures are read. `ties` is None if all pictures belong to one scene by option."""

    def __init__(self, config: ReconstructConfig, images: ImageSet, predictor: Predictor, pictures: Pictures) -> None:
        self.ties = _ties(config, images, predictor, pictures)
        wanted = config.world.up == "auto" and not config.predict.refine  # --refine may detect lens distortion later
        self.edges = pictures.edges if wanted else NO_EDGES
        if wanted:
            self.edges.start(pictures.inputs)


def _ties(
    config: ReconstructConfig, images: ImageSet, predictor: Predictor, pictures: Pictures
) -> Later[Groups] | None:
    from ..scene.facing import rigs_of
    from .grouping import tie_pictures

    indices = pictures.indices
    if config.input.keep_unrelated or len(indices) < 2 or predictor.streams:
        return None
    records = [images.records[i] for i in indices]
    together = [
        predictor.beforehand.priors(records).known_poses,
        *rigs_of([record.facing for record in records]).values(),
    ]
    shown = [item.rgb for item in pictures.inputs]
    return Later(lambda: tie_pictures(shown, lambda k: images.read(indices[k]), together), "compare images")
