"""Which pictures an input gives, and reading them: folders, files and videos become one ordered `ImageSet`.

`discover` looks at headers and file ends only (about a millisecond a picture); pixels are decoded by `ImageSet.read`. A
picture whose middle turns out to be damaged raises InputError there: `read_each` hands the error over in place of the
result, so that a pipeline can leave that picture out and go on.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import InputError, UsageError
from .codecs import heif
from .decode import Picture, decode
from .masks import Target, find_masks, load_mask
from .names import output_stems, printable, unique_names
from .probe import check_size, probe
from .regular import BadImage, open_regular, read_regular
from .sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Journal, Skipped, collect, is_video
from .video import DEFAULT_VIEWS, Clip, OnFrame, even_indices

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "ImageRecord", "ImageSet", "Skipped", "discover"]

T = TypeVar("T")


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a set."""

    name: str  # unique in the set, one line: the file name, or "frame_000123.png" for a frame of a video
    path: Path  # the file it comes from
    width: int  # after EXIF orientation
    height: int
    orientation: int = 1  # EXIF orientation that `read` undoes, 1…8
    stem: str = ""  # unique stem for output files, legal on every file system
    has_alpha: bool = False
    mask: Path | None = None  # file out of --masks
    frame: int | None = None  # index in the video
    encoded: bytes | None = field(default=None, repr=False)  # a video's frame, as JPEG

    def __post_init__(self) -> None:
        if not self.stem:
            object.__setattr__(self, "stem", output_stems([self.name])[0])


@dataclass
class ImageSet:
    """Pictures in order. Reading is deterministic, keeps nothing in memory and may be done from several threads."""

    records: list[ImageRecord]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB at full resolution, upright. Raises InputError if the file is damaged or has changed."""
        return self.read_picture(i).rgb

    def read_picture(self, i: int) -> Picture:
        """Colours and transparency by one decoding. Raises InputError as `read` does."""
        record = self.records[i]
        try:
            picture = decode(_encoded(record))
        except BadImage as error:
            raise InputError(f"{printable(record.path)}: {error}") from error
        if picture.rgb.shape[:2] != (record.height, record.width):
            raise InputError(f"{printable(record.path)}: the file changed while it was in use: start again")
        return picture

    def read_mask(self, i: int) -> np.ndarray | None:
        """(H, W) bool, True = use the pixel: mask file and alpha channel together; None = all.

        Raises InputError if the mask or the picture is damaged.
        """
        record = self.records[i]
        mask = None
        if record.mask is not None:
            mask = load_mask(record.mask, record.width, record.height, record.orientation)
        if not record.has_alpha:
            return mask
        opaque = self.read_picture(i).opaque
        if mask is None or opaque is None:
            return mask if opaque is None else opaque
        return mask & opaque

    def read_each(
        self, function: Callable[[np.ndarray], T], indices: Sequence[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, T | InputError]]:
        """(i, function(read(i))) in the order of `indices` (default: all), decoded by a few threads ahead of time.

        A picture that cannot be decoded gives its InputError instead; other errors are raised. At most `workers`
        (default: the number of cores, up to 4) full-size pictures are in memory at a time.
        """

        def one(i: int) -> T | InputError:
            try:
                rgb = self.read(i)
            except InputError as error:
                return error
            return function(rgb)

        workers = workers or min(4, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            pending: deque = deque()
            try:
                for i in range(len(self)) if indices is None else indices:
                    pending.append((i, pool.submit(one, i)))
                    if len(pending) > workers:
                        done, future = pending.popleft()
                        yield done, future.result()
                while pending:
                    done, future = pending.popleft()
                    yield done, future.result()
            finally:
                for _, future in pending:
                    future.cancel()


Item = ImageRecord | Clip
Plan = list[tuple[Item, int | None]]  # a picture with None, or a video with the index of a frame


def discover(
    inputs: Sequence[Path],
    *,
    masks: Path | None = None,
    max_views: int | None = None,
    stride: int = 1,
    max_pixels: int = 200_000_000,
    strict: bool = False,
    on_frame: OnFrame | None = None,
) -> ImageSet:
    """The usable pictures of folders, files and videos, in natural order; what cannot be used is listed in `skipped`.

    `stride` keeps every n-th picture (and every n-th frame of each video), then `max_views` keeps that many evenly,
    the first and the last included. A video gives at most `DEFAULT_VIEWS` frames where `max_views` is None.
    `on_frame` is told about the progress through a video. Raises UsageError for a path that does not exist, InputError
    if nothing usable is left and, if `strict`, for the first thing that would be skipped.
    """
    if max_views is not None and max_views < 1:
        raise UsageError(f"--max-views must be at least 1, not {max_views}")
    if stride < 1:
        raise UsageError(f"--stride must be at least 1, not {stride}")
    journal = Journal(strict)
    items = _probe_all(collect([Path(path) for path in inputs], journal), max_pixels, journal)
    plan = _decode_videos(items, max_views, stride, journal, on_frame)
    records = _name([record for record in itertools.starmap(_record, plan) if record is not None])
    if not records:
        raise InputError(_nothing_left(journal))
    if masks is not None:
        records = _with_masks(records, masks, journal)
    return ImageSet(records, journal.skipped, journal.warnings)


def _encoded(record: ImageRecord) -> bytes:
    return read_regular(record.path) if record.encoded is None else record.encoded


def _probe_all(files: Sequence[Path], max_pixels: int, journal: Journal) -> list[Item]:
    """The usable pictures (named by their file for now) and videos, in order."""
    items: list[Item] = []
    for path in files:
        try:
            items.append(_probe_video(path, max_pixels) if is_video(path) else _probe_image(path, max_pixels))
        except BadImage as error:
            journal.skip(path, str(error))
    return items


def _probe_image(path: Path, max_pixels: int) -> ImageRecord:
    if path.suffix.lower() in heif.SUFFIXES:
        heif.require()
    with open_regular(path) as stream:
        header = probe(stream)
    width, height = header.upright_size
    check_size(width, height, max_pixels)
    return ImageRecord(path.name, path, width, height, header.orientation, has_alpha=header.has_alpha)


def _probe_video(path: Path, max_pixels: int) -> Clip:
    clip = Clip(path)
    check_size(clip.width, clip.height, max_pixels)
    return clip


def _plan(items: Sequence[Item], max_views: int | None, stride: int) -> Plan:
    """What `stride` and `max_views` leave, as far as the videos' frame counts are known."""
    images = itertools.count()
    plan: Plan = []
    for item in items:
        if isinstance(item, Clip):
            frames: Sequence[int] = range(0, item.count, stride)
            if max_views is None:
                frames = [frames[i] for i in even_indices(len(frames), DEFAULT_VIEWS)]
            plan += [(item, frame) for frame in frames]
        elif next(images) % stride == 0:
            plan.append((item, None))
    return plan if max_views is None else [plan[i] for i in even_indices(len(plan), max_views)]


def _decode_videos(
    items: Sequence[Item], max_views: int | None, stride: int, journal: Journal, on_frame: OnFrame | None
) -> Plan:
    """The final plan, its frames decoded; planned again while a video's true length differs from the stated one."""
    items = list(items)
    while True:
        plan = _plan(items, max_views, stride)
        settled = True
        for clip in [item for item in items if isinstance(item, Clip)]:
            try:
                settled &= clip.fetch([frame for item, frame in plan if item is clip], on_frame)
            except BadImage as error:
                journal.skip(clip.path, str(error))
                items.remove(clip)
                settled = False
        if settled:
            break
    for clip in [item for item in items if isinstance(item, Clip)]:
        if clip.ends_early:
            journal.degrade(clip.path, f"ends early: {clip.count} of {clip.stated} frames can be decoded and are used")
        if clip.damaged:
            others = f", {len(clip.instead)} wanted ones are replaced by their neighbours" if clip.instead else ""
            journal.degrade(clip.path, f"{clip.damaged} of {clip.count} frames are damaged and left out{others}")
        if max_views is None and len(range(0, clip.count, stride)) > DEFAULT_VIEWS:
            chosen = f"{DEFAULT_VIEWS} of {clip.count} frames are used, evenly spread"
            journal.warnings.append(f"{printable(clip.path)}: {chosen}; --max-views takes more or fewer")
    return plan


def _record(item: Item, frame: int | None) -> ImageRecord | None:
    """Record of a plan's entry; None for a frame that the video's decoder had to give up."""
    if isinstance(item, ImageRecord):
        return item
    frame = item.index_of(frame)
    held = item.frames.get(frame)
    if held is None:
        return None
    name = f"frame_{frame:06d}.png"
    return ImageRecord(name, item.path, held.width, held.height, frame=frame, encoded=held.encoded)


def _name(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Names and stems that are unique in the set; frames carry their video's name where there are several videos."""
    several = len({record.path for record in records if record.frame is not None}) > 1
    prefixes = [f"{r.path.stem}_" if several and r.frame is not None else "" for r in records]
    names = unique_names([prefix + record.name for prefix, record in zip(prefixes, records)])
    return [replace(r, name=name, stem=stem) for r, name, stem in zip(records, names, output_stems(names))]


def _with_masks(records: Sequence[ImageRecord], folder: Path, journal: Journal) -> list[ImageRecord]:
    targets = [Target(record.name, record.path, record.frame is not None) for record in records]
    found, warnings = find_masks(Path(folder), targets, journal.strict)
    journal.warnings += warnings
    return [replace(record, mask=found.get(record.name)) for record in records]


def _nothing_left(journal: Journal) -> str:
    if not journal.skipped:
        return "no images given: name a folder, image files or a video"
    others = len(journal.skipped) - 1
    return f"no usable image: {journal.first_loss}" + (f" (and {others} more skipped)" if others else "")
