"""The scene of a run that is still going on: its finished chunks, aligned and thinned for a viewer."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError, UsageError
from ..io.camera_fields import MAX_SIDE
from ..io.documents import read_json
from ..io.kept_chunks import is_ours, place_of
from ..io.output_layout import output_layout
from ..long.assembly import Passes, assemble, place_views
from ..long.chunk_plan import MAIN, Pass
from ..long.pass_store import PassStore
from ..long.work_folder import ASKED, IMAGES
from ..scene.geometry import scale_intrinsics, unproject_pixels
from ..scene.posed_view import PointCloud, View, known_depth

SURE = 0.3  # share of a view's pixels, the least confident, that is not shown
FEWEST = 200  # points of a view, however many views there are


@dataclass(frozen=True)
class Sampled:
    """Some pixels of a view: `rows`, `columns` (N,), `depth` (N,) in the unit of its chunk, `colors` (N, 3)."""

    rows: np.ndarray
    columns: np.ndarray
    depth: np.ndarray
    colors: np.ndarray
    shape: tuple[int, int]
    picture: np.ndarray | None  # (h, w, 3) RGB, at the size of the depth map


@dataclass(frozen=True)
class Shown:
    """The scene so far. World: the first camera."""

    views: list[View]  # without maps
    pictures: list[np.ndarray | None]
    cloud: PointCloud
    expected: int  # views of the whole set


class LiveChunks:
    """Reads the folder of finished chunks, which grows."""

    def __init__(self, folder: Path, most: int) -> None:
        """`most`: points of the whole scene. Raises InputError for a damaged folder."""
        self.folder, self.most = folder, most
        asked = read_json(folder / ASKED)
        try:
            entries = [(str(name), int(width), int(height)) for name, width, height, *_ in asked[IMAGES]]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{folder / ASKED}: damaged ({str(error)[:100]})") from error
        if not entries or not all(1 <= side <= MAX_SIDE for _, *size in entries for side in size):
            raise InputError(f"{folder / ASKED}: damaged: images of an impossible size, or none")
        self.bare = [View(name, width, height, np.eye(3), np.eye(3, 4)) for name, width, height in entries]
        self.store = PassStore(folder)
        self.known = 0  # chunks that were read
        self._sampled: dict[tuple[int, int], Sampled] = {}

    def news(self) -> Shown | None:
        """The scene with all chunks that are finished now; None if there are no new ones.

        Raises InputError for a damaged chunk, and if the run removes the folder meanwhile.
        """
        passes = self._finished()
        if len(passes) <= self.known:  # fewer: the run is removing them
            return None
        self.known = len(passes)
        read = Passes(self.store, passes, lambda position: self.bare[position])
        scenes = assemble(read)
        if not scenes:
            return None
        placed = place_views(scenes[0], read, len(self.bare))
        share = max(FEWEST, self.most // len(self.bare))
        points, colors, pictures = [], [], []
        for number, position, camera, factor in zip(placed.source, placed.positions, placed.cameras, placed.factors):
            found = self._sample(number, position, share)
            height, width = found.shape
            pixels = np.stack([found.columns, found.rows], axis=1) + 0.5
            K = scale_intrinsics(camera.K, width / camera.width, height / camera.height)
            points.append(unproject_pixels(pixels, found.depth * factor, K, camera.cam_from_world))
            colors.append(found.colors)
            pictures.append(found.picture)
        where = np.concatenate(points).astype(np.float32)
        finite = np.isfinite(where).all(axis=1)  # a damaged focal length may overflow
        cloud = PointCloud(where[finite], np.concatenate(colors)[finite], np.ones(int(finite.sum()), np.float32))
        return Shown(placed.cameras, pictures, cloud, len(self.bare))

    def _finished(self) -> list[Pass]:
        """The complete passes from the first on: chunks come first, then loops and refined chunks."""
        passes: list[Pass] = []
        while (self.store.place(len(passes)) / "pass.json").exists():
            head = read_json(self.store.place(len(passes)) / "pass.json")
            try:
                found = Pass(str(head["kind"]), tuple(int(view) for view in head["asked"]))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{self.store.place(len(passes))}: damaged ({str(error)[:100]})") from error
            if found.kind not in MAIN or not all(0 <= view < len(self.bare) for view in found.views):
                break
            passes.append(found)
        return passes

    def _sample(self, number: int, position: int, share: int) -> Sampled:
        """About `share` evenly spread pixels of the more confident ones."""
        key = number, position
        if key not in self._sampled:
            view = self.store.read(number, position, self.bare[position])
            depth = known_depth(view)
            known = np.isfinite(depth) & (depth > 0)
            if view.confidence is not None and known.any():
                known &= view.confidence >= np.quantile(view.confidence[known], SURE)
            step = max(1, int((known.sum() / share) ** 0.5))
            rows, columns = (index * step for index in np.nonzero(known[::step, ::step]))
            picture = self.store.colors(number, position)
            colors = np.full((len(rows), 3), 160, np.uint8) if picture is None else picture[rows, columns]
            self._sampled[key] = Sampled(rows, columns, depth[rows, columns], colors, depth.shape, picture)
        return self._sampled[key]


def running(scene: Path) -> Path | None:
    """The folder of finished chunks of a run that has not yet written `scene`; None if there is none."""
    with suppress(OSError, UsageError):
        layout = output_layout(scene)
        folder = place_of(layout)
        if os.path.lexists(folder) and is_ours(folder) and (folder / ASKED).exists():
            written, begun = layout.root / layout.run_json, (folder / ASKED).stat().st_mtime_ns
            return None if written.exists() and written.stat().st_mtime_ns >= begun else folder
    return None
