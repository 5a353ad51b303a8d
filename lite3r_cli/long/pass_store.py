"""Stores passes on disk: a pass leaves memory at once, and a resumed run finds it again.

A folder for each pass: `maps`, which holds for each view its depth (16 bits, logarithmic, 0 = unknown), its confidence
(8 bits, by rank: each value has the same number of pixels), both packed by map_codec.py, its picture as JPEG, and a
sample of both maps; and pass.json, which says where they are and is written last: without it a pass is incomplete. One
file, because thousands of small ones take long to sync and to remove. Passes are aligned by the samples; whole maps are
stored only of the views whose depth the scene takes from this pass. The run that wrote a pass also reads it from the
files, so that a resumed run gives the same result.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..cores import count_cores
from ..errors import InputError, OutputError
from ..io.camera_fields import ROTATION_TOLERANCE
from ..io.decode import decode_rgb
from ..io.documents import read_json
from ..io.files import output_error, write_bytes, write_json
from ..io.locks import not_ours
from ..io.regular import BadImage, open_regular
from ..io.syncing import in_threads, sync_file, sync_folder
from ..scene.posed_view import View, known_depth
from .chunk_plan import Pass
from .map_codec import packed, unpacked

DEPTHS, LEVELS = 65534, 255  # steps between the smallest and the largest depth; number of confidence values
LEAST, LARGEST = 1e-45, float(np.finfo(np.float32).max)  # positive float32 numbers, as which maps are read
MOST_PIXELS = 1 << 26  # of a stored map
MAPS, LARGEST_FILE = "maps", 1 << 40  # the file of all views of a pass, and bytes that it never has
_JPEG_QUALITY = 95
MOST_THREADS = 8  # more of them wait for Python's lock, and the network, whose kernels are launched beside, for them
_SAMPLES = 200_000  # pixels of a pass that the values of confidence are chosen from
_SAMPLE = 500  # pixels of the sample of a map
_DEPTH, _CONFIDENCE, _PICTURE, _FEW_DEPTH, _FEW_CONFIDENCE = range(5)  # the parts of a view, in the order of the file
_PARTS = 5
_NO_LEVELS, _NO_RANGE = np.ones(1, np.float32), [1.0, 1.0]  # of a pass without confidence, of a map without depth
_FINE = 1 << 16  # steps of a linear scale of confidence, each of which has one rank


class PassStore:
    """The passes of one run below `folder`, which exists. If they are `lasting`, for a later run, they survive a
    failure of power.
    """

    def __init__(self, folder: Path, lasting: bool = False) -> None:
        self.folder, self._lasting = folder, lasting
        self.identity: tuple[int, int] | None = None  # device and inode of the folder; None is not compared
        self._known: dict[int, dict[str, Any]] = {}

    def place(self, number: int) -> Path:
        """The folder of a pass."""
        return self.folder / f"pass-{number:05d}"

    def has(self, number: int, wanted: Pass) -> bool:
        """Whether a complete pass of these views exists. Raises InputError for a damaged one."""
        if not (self.place(number) / "pass.json").exists():
            return False
        found = self._head(number)
        return found["kind"] == wanted.kind and found["asked"] == list(wanted.views)

    def write(
        self,
        number: int,
        wanted: Pass,
        positions: Sequence[int],
        views: Sequence[View],
        colors: Sequence[np.ndarray | None],
        facts: dict[str, Any],
        whole: Container[int] | None = None,
    ) -> None:
        """Write a pass: `positions` in the sequence of the views that could be read. `whole` are those whose maps and
        pictures are stored, None: all; `read` and `colors` are for them. Raises OutputError.
        """
        place = self.place(number)
        try:
            self._make(place.name)
            levels = _levels(views)
            ranks = _ranks_of(levels)
            kept = [whole is None or position in whole for position in positions]
            with ThreadPoolExecutor(min(MOST_THREADS, count_cores())) as pool:
                made = list(pool.map(lambda *view: _coded_view(levels, ranks, *view), views, colors, kept))
            write_bytes(place / MAPS, *(part for each in made for part in each.parts))
            sizes = [[len(part) for part in each.parts] for each in made]
            starts = accumulate([0, *map(sum, sizes)])
            head = {
                **wanted.as_dict(),
                "asked": list(wanted.views),
                "views": list(positions),
                "K": [view.K.tolist() for view in views],
                "cam_from_world": [view.cam_from_world.tolist() for view in views],
                "ranges": [each.span for each in made],
                "levels": levels.tolist(),
                "places": [[start, *parts] for start, parts in zip(starts, sizes)],
                "facts": facts,
            }
            write_json(place / "pass.tmp", head)
            if self._lasting:  # synced to disk before pass.json has its name
                in_threads(lambda name: sync_file(place / name), os.listdir(place))
            os.replace(place / "pass.tmp", place / "pass.json")
            if self._lasting:
                sync_folder(place)
                sync_folder(self.folder)
        except OSError as error:
            raise output_error(Path(error.filename or place), error) from error
        self._known.pop(number, None)

    def _make(self, name: str) -> None:
        """An empty folder for a pass. In a shared folder others may put a link in place of `folder`: it is not
        followed, and nothing behind it is removed. Raises OSError, OutputError.
        """
        if self.identity is not None and not os.path.lexists(self.folder):
            raise not_ours(self.folder, None)
        opened = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            status = os.fstat(opened)
            if self.identity not in (None, (status.st_dev, status.st_ino)):
                raise not_ours(self.folder, (status.st_dev, status.st_ino))
            shutil.rmtree(name, ignore_errors=True, dir_fd=opened)
            os.mkdir(name, 0o700, dir_fd=opened)
        finally:
            os.close(opened)

    def views(self, number: int) -> list[int]:
        """The positions of a pass's views."""
        return list(self._head(number)["views"])

    def whole(self, number: int) -> list[int]:
        """The positions of the views whose maps are stored."""
        head = self._head(number)
        return [position for position, sizes in zip(head["views"], head["places"]) if sizes[1 + _DEPTH]]

    def facts(self, number: int) -> dict[str, Any]:
        """The facts that were stored with a pass."""
        return dict(self._head(number)["facts"])

    def cameras(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """K (S, 3, 3) and cam_from_world (S, 3, 4) of a pass."""
        head = self._head(number)
        return np.array(head["K"]), np.array(head["cam_from_world"])

    def read(self, number: int, position: int, bare: View) -> View:
        """The view at `position` in pass `number`, which has it whole; name, size and lens are those of `bare`. Raises
        InputError for damaged files.
        """
        return self._view(number, position, bare, _DEPTH, _CONFIDENCE)

    def sample(self, number: int, position: int, bare: View) -> View:
        """The same with maps of about `_SAMPLE` pixels, for any view of a pass."""
        return self._view(number, position, bare, _FEW_DEPTH, _FEW_CONFIDENCE)

    def _view(self, number: int, position: int, bare: View, depth: int, confidence: int) -> View:
        head = self._head(number)
        k = head["views"].index(position)
        codes, ranks = self._maps(number, k, depth, confidence)
        return replace(
            bare,
            K=np.array(head["K"][k]),
            cam_from_world=np.array(head["cam_from_world"][k]),
            depth=_decoded(codes, head["ranges"][k]),
            confidence=_table(head)[ranks],
        )

    def _maps(self, number: int, k: int, depth: int, confidence: int) -> tuple[np.ndarray, np.ndarray]:
        """The codes of depth and the ranks of confidence (h, w) of view k of a pass, from these parts."""
        first, second = self._parts(number, k, depth, confidence + 1)
        codes, ranks = self._codes(number, first, 2), self._codes(number, second, 1)
        if ranks.shape != codes.shape or ranks.max() > len(self._head(number)["levels"]):
            raise self._damaged(number)
        return codes, ranks

    def require_whole(self, number: int) -> None:
        """Read all of a complete pass. Raises InputError for missing or damaged files."""
        head = self._head(number)
        whole = set(self.whole(number))
        for k, position in enumerate(head["views"]):
            self._maps(number, k, _FEW_DEPTH, _FEW_CONFIDENCE)
            if position in whole:
                self._maps(number, k, _DEPTH, _CONFIDENCE)
                self.colors(number, position)

    def confidences(self, number: int, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The confidence values in a pass, and how many known pixels of the samples of these views have each."""
        counts, head = np.zeros(LEVELS + 1, np.int64), self._head(number)
        for position in positions:
            (data,) = self._parts(number, head["views"].index(position), _FEW_CONFIDENCE, _PARTS)
            codes = self._codes(number, data, 1)
            counts += np.bincount(codes.ravel(), minlength=LEVELS + 1)
        table = _table(head)
        return table[1:], counts[1 : len(table)]

    def colors(self, number: int, position: int) -> np.ndarray | None:
        """The picture (h, w, 3) RGB at the size of its depth map; None if it was not stored."""
        views = self._head(number)["views"]
        data = b""
        if position in views:
            (data,) = self._parts(number, views.index(position), _PICTURE, _PICTURE + 1)
        if not data:
            return None
        try:
            return decode_rgb(data)[0]
        except BadImage as error:
            raise InputError(f"{self.place(number) / MAPS}: {error}; run again without --resume") from error

    def _parts(self, number: int, k: int, first: int, stop: int) -> list[bytes]:
        """The parts `first` … `stop` of view k of a pass."""
        start, *sizes = self._head(number)["places"][k]
        begin, size = start + sum(sizes[:first]), sum(sizes[first:stop])
        data = b""
        if size:
            try:
                with open_regular(self.place(number) / MAPS) as stream:
                    if begin + size <= os.fstat(stream.fileno()).st_size:
                        stream.seek(begin)
                        data = stream.read(size)
            except (BadImage, OSError) as error:
                raise self._damaged(number) from error
            if len(data) < size:
                raise self._damaged(number)
        ends = list(accumulate([0, *sizes[first:stop]]))
        return [data[low:high] for low, high in pairwise(ends)]

    def _codes(self, number: int, data: bytes, size: int) -> np.ndarray:
        """(h, w) as stored, `size` bytes a pixel. Raises InputError."""
        try:
            return unpacked(data, size, MOST_PIXELS)
        except BadImage as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> InputError:
        return InputError(f"{self.place(number) / MAPS}: missing or damaged; run again without --resume")

    def _head(self, number: int) -> dict[str, Any]:
        if number not in self._known:
            path = self.place(number) / "pass.json"
            document = read_json(path)
            if not _is_sound(document):
                raise InputError(f"{path}: damaged; run again without --resume")
            self._known[number] = document
        return self._known[number]


def _is_sound(head: Any) -> bool:
    """Whether pass.json has all entries with valid types and shapes."""
    try:
        count = len(head["views"])
        whole = all(type(position) is int for position in (*head["views"], *head["asked"]))
        shapes = {"K": (count, 3, 3), "cam_from_world": (count, 3, 4), "ranges": (count, 2)}
        shapes["places"] = (count, 1 + _PARTS)
        arrays = {name: np.array(head[name]) for name in (*shapes, "levels")}
        whole = whole and all(array.dtype.kind in "if" for array in arrays.values())  # numbers, not text
        low, high = arrays["ranges"].T
        return (
            whole
            and all(type(part) is int and 0 <= part < LARGEST_FILE for place in head["places"] for part in place)
            and isinstance(head["kind"], str)
            and isinstance(head["facts"], dict)
            and all(arrays[name].shape == shape for name, shape in shapes.items())
            and all((abs(array) <= LARGEST).all() for array in arrays.values())  # false for NaN
            and bool(((low >= LEAST) & (low <= high)).all())
            and _are_cameras(arrays["K"], arrays["cam_from_world"])
            and len(set(head["views"])) == count
            and set(head["views"]) <= set(head["asked"])
            and arrays["levels"].ndim == 1
            and 1 <= len(arrays["levels"]) <= LEVELS
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def _are_cameras(K: np.ndarray, poses: np.ndarray) -> bool:
    """Whether all of K (S, 3, 3) have positive focal lengths, and all of `poses` (S, 3, 4) begin with a rotation."""
    rotations = poses[..., :3]
    off = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(initial=0)
    whole = bool((K[:, [0, 1], [0, 1]] > 0).all() and (K[:, 2] == [0, 0, 1]).all() and (K[:, 1, 0] == 0).all())
    return whole and off < ROTATION_TOLERANCE and bool((np.linalg.det(rotations) > 0).all())


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- one view ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coded:
    """The parts of one view as they are stored, and its smallest and largest depth."""

    span: list[float]
    parts: tuple[bytes, ...]


def _coded_view(levels: np.ndarray, ranks: np.ndarray, view: View, colors: np.ndarray | None, whole: bool) -> Coded:
    depth, confidence = known_depth(view), view.confidence
    if not whole:
        depth, confidence = sampled(depth), None if confidence is None else sampled(confidence)
    codes, span = _coded(depth)
    steps = ranks[_fine(_sure(depth, confidence), levels)]
    if not whole:
        return Coded(span, (b"", b"", b"", packed(codes), packed(steps)))
    picture = b""
    if colors is not None and colors.shape[:2] == depth.shape:
        flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        done, data = cv2.imencode(".jpg", np.ascontiguousarray(colors[..., ::-1]), flags)
        if not done:
            raise OutputError(f"{view.name}: OpenCV cannot encode {depth.shape[1]}x{depth.shape[0]} pixels as JPEG")
        picture = data.tobytes()
    return Coded(span, (packed(codes), packed(steps), picture, packed(sampled(codes)), packed(sampled(steps))))


def sampled(values: np.ndarray) -> np.ndarray:
    """Evenly spread values of a map (h, w), about `_SAMPLE`: the pixels in the middle of the cells of a grid."""
    height, width = values.shape
    rows = min(height, _SAMPLE, max(1, round((_SAMPLE * height / width) ** 0.5)))
    return cv2.resize(values, (min(width, round(_SAMPLE / rows)), rows), interpolation=cv2.INTER_NEAREST_EXACT)


def _ranks_of(levels: np.ndarray) -> np.ndarray:
    """The rank of every step of `_fine`, 1 for the lowest level; 0 where there is no confidence. A search for each
    pixel would take longer than all else that is done with it.
    """
    low, high = float(levels[0]), float(levels[-1])
    values = np.linspace(low, high, _FINE - 1)
    ranks = np.searchsorted((levels[1:] + levels[:-1]) / 2, values.astype(np.float32), side="right") + 1
    return np.concatenate([[0], ranks]).astype(np.uint8)


def _fine(confidence: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The step (h, w) of each value between the lowest and the highest level, 0 for none."""
    low, high = float(levels[0]), float(levels[-1])
    step = np.float32((_FINE - 2) / (high - low)) if high > low else np.float32(0)
    steps = np.clip((confidence - np.float32(low)) * step, 0, _FINE - 2).astype(np.uint16) + np.uint16(1)
    return np.where(confidence > 0, steps, np.uint16(0))


def _sure(depth: np.ndarray, confidence: np.ndarray | None) -> np.ndarray:
    """Confidence (h, w), 0 where depth is unknown; 1 if the network has none."""
    values = np.ones(depth.shape, np.float32) if confidence is None else confidence
    return np.where((depth > 0) & np.isfinite(values), values, 0).astype(np.float32)


def _levels(views: Sequence[View]) -> np.ndarray:
    """At most `LEVELS` confidence values that represent all of a pass, float32, ascending."""
    maps = [(known_depth(view), view.confidence) for view in views]
    step = max(2, math.ceil((sum(depth.size for depth, _ in maps) / _SAMPLES) ** 0.5))
    some = (slice(None, None, step),) * 2
    samples = [_sure(depth[some], None if values is None else values[some]) for depth, values in maps]
    known = np.concatenate([values[values > 0] for values in samples]) if samples else np.zeros(0, np.float32)
    if not len(known):
        return _NO_LEVELS
    return np.unique(np.quantile(known, np.linspace(0, 1, LEVELS), method="nearest").astype(np.float32))


def _table(head: dict[str, Any]) -> np.ndarray:
    return np.concatenate([[0.0], head["levels"]]).astype(np.float32)


def _coded(values: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Positive values on a logarithmic scale of 1 … DEPTHS + 1, 0 = none; the smallest and the largest of them."""
    known = np.isfinite(values) & (values > 0)
    if not known.any():
        return np.zeros(values.shape, np.uint16), _NO_RANGE
    low, high = float(values[known].min()), float(values[known].max())
    step = np.float32(DEPTHS / max(np.log(high / low), 1e-12))
    scaled = (np.log(np.where(known, values, np.float32(low)).astype(np.float32)) - np.float32(np.log(low))) * step
    return np.where(known, np.clip(np.rint(scaled), 0, DEPTHS) + 1, 0).astype(np.uint16), [low, high]


def _decoded(codes: np.ndarray, span: Sequence[float]) -> np.ndarray:
    low, high = span
    ratio = np.log(high / low)
    if codes.size < DEPTHS:
        values = low * np.exp((codes.astype(np.float64) - 1) * (ratio / DEPTHS))
        return np.where(codes > 0, values, 0).astype(np.float32)
    table = np.concatenate([[0.0], low * np.exp(np.linspace(0, ratio, DEPTHS + 1))]).astype(np.float32)
    return table[codes]
