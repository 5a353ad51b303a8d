"""Finds and reads images: folders, files and videos become one ordered `ImageSet`.

`discover` reads only headers and file ends (about a millisecond per image); `ImageSet.read` decodes pixels. A damaged
image raises InputError there. `read_each` returns the error instead of the result, so that a pipeline can skip the
image.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..cores import count_cores
from ..errors import InputError, UsageError
from ..scene.facing import Facing
from . import containers
from .decode import Picture, decode
from .frame_spool import Encoded, bytes_of
from .masks import Target, find_masks, load_mask, stored_mask
from .names import output_stems, printable, unique_names
from .picture_sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Found, Journal, Skipped, collect, is_video
from .probe import check_size, is_picture, probe
from .regular import BadFile, BadImage, open_regular, read_regular, reason_of
from .video import DEFAULT_VIEWS, Clip, OnFrame
from .video_plan import FrameChoice, decode_videos

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "ImageRecord", "ImageSet", "Skipped", "discover"]

T = TypeVar("T")


@dataclass(frozen=True)
class ImageRecord:
    """One image of a set."""

    name: str  # unique in the set, one line: the file name with sub-folders, or a frame's "frame_000123.png"
    path: Path  # the file it comes from
    width: int  # after EXIF orientation
    height: int
    orientation: int = 1  # EXIF orientation that `read` undoes, 1…8
    stem: str = ""  # unique stem for output files, legal on every file system
    has_alpha: bool = False
    pixel_aspect: float = 1.0  # width of a pixel / its height, upright, from the file
    mask: Path | None = None  # file in the --masks folder
    frame: int | None = None  # index in the video
    encoded: Encoded | None = field(default=None, repr=False)  # a video frame as JPEG
    time: float | None = None  # of a video's frame: seconds from the clip's start
    facing: Facing | None = None  # for a view of a 360° picture

    def __post_init__(self) -> None:
        if not self.stem:
            object.__setattr__(self, "stem", output_stems([self.name])[0])


@dataclass
class ImageSet:
    """Images in order. Reading is deterministic, caches nothing and is thread-safe."""

    records: list[ImageRecord]
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    folders: list[dict[str, Any]] = field(default_factory=list)  # status of the entries of each folder
    spares: list[ImageRecord] = field(default_factory=list)  # usable images that `max_views` left out, in order
    order: dict[Path, int] = field(default_factory=dict)  # of records and spares
    masks: Path | None = None  # folder of the masks of spares
    videos: list[dict[str, Any]] = field(default_factory=list)  # statistics of the frames of each video
    mask_shares: dict[int, float] = field(default_factory=dict)  # share of the pixels that each mask keeps

    def __len__(self) -> int:
        return len(self.records)

    def read(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB at full resolution, upright. Raises InputError if the file is damaged or has changed."""
        return self.read_picture(i).rgb

    def read_picture(self, i: int, least: tuple[int, int] | None = None) -> Picture:
        """Colours and transparency from one decoding; `least` as in `decode`. Raises InputError like `read`."""
        record = self.records[i]
        try:
            picture = decode(_encoded(record), least)
        except BadImage as error:
            raise BadFile(record.path, str(error)) from error
        if picture.header.upright_size != (record.width, record.height):
            raise BadFile(record.path, "the file changed while it was in use: start again")
        return picture

    def read_mask(self, i: int) -> np.ndarray | None:
        """(H, W) bool, True = use the pixel: mask file and alpha channel combined; None = all.

        Raises InputError if the mask or the image is damaged.
        """
        mask = self._mask_of(i)
        if mask is not None:
            self.mask_shares[i] = float(mask.mean())
        return mask

    def mask_warnings(self, indices: Sequence[int]) -> list[str]:
        """Warnings about masks that remove nothing or everything, which may be a mistake."""
        warnings = []
        for share, what in (
            (1.0, "nothing: every pixel is white"),
            (0.0, "everything: every pixel is black or transparent"),
        ):
            those = [self.records[i].name for i in indices if self.mask_shares.get(i) == share]
            if those:
                more = f" and {len(those) - 1} more" if len(those) > 1 else ""
                warnings.append(f"the mask of {those[0]}{more} removes {what}")
        return warnings

    def _mask_of(self, i: int) -> np.ndarray | None:
        mask = self._drawn_mask(i)
        if not self.records[i].has_alpha:
            return mask
        opaque = self.read_picture(i).opaque
        if mask is None or opaque is None:
            return mask if opaque is None else opaque
        return mask & opaque

    def _drawn_mask(self, i: int) -> np.ndarray | None:
        record = self.records[i]
        return None if record.mask is None else load_mask(record.mask, record.width, record.height, record.orientation)

    def stored(self) -> ImageSet:
        """The set with the images as in their files, upright."""
        return self

    def as_stored(self, i: int) -> bool:
        """Whether the image that `read` returns equals the file's, pixel by pixel."""
        return True

    def read_each(
        self,
        function: Callable[[np.ndarray, ImageRecord], T],
        indices: Sequence[int] | None = None,
        workers: int | None = None,
        least: Callable[[ImageRecord], tuple[int, int] | None] = lambda record: None,
    ) -> Iterator[tuple[int, T | InputError]]:
        """Yields (i, function(colours, record)) in the order of `indices` (default: all); a few threads decode ahead.
        `least` returns for a record the smallest size (height, width) that is needed, None for the full size.

        An image that cannot be decoded, or whose mask is unusable, is replaced by the nearest of `spares`: the record
        changes, and `skipped` lists the damaged image. Without a spare its InputError is returned instead; other errors
        are raised. At most `workers` (default: see `reading_threads`) full-size images are in memory.
        """

        def one(i: int) -> T | InputError:
            record = self.records[i]
            try:
                picture = self.read_picture(i, least(record))
                _require_mask(record)
            except InputError as error:
                return error
            return function(picture.rgb, record)

        workers = workers or reading_threads()
        with ThreadPoolExecutor(workers) as pool:
            pending: deque = deque()
            try:
                for i in range(len(self)) if indices is None else indices:
                    pending.append((i, pool.submit(one, i)))
                    if len(pending) > workers:
                        first, future = pending.popleft()
                        yield self._settled(first, future, one)
                while pending:
                    first, future = pending.popleft()
                    yield self._settled(first, future, one)
            finally:
                for _, future in pending:
                    future.cancel()

    def _settled(
        self, i: int, future: Future[T | InputError], one: Callable[[int], T | InputError]
    ) -> tuple[int, T | InputError]:
        """The result for image i; if it is damaged, that of the nearest intact spare."""
        result, first = future.result(), self.records[i]
        damage = result
        while isinstance(result, InputError) and self.spares and first.frame is None:
            place = self.order.get(first.path, 0)
            spare = min(self.spares, key=lambda record: abs(self.order.get(record.path, 0) - place))
            self.spares.remove(spare)
            self.records[i] = self._with_mask(spare)
            result = one(i)
            if isinstance(result, InputError):
                self.skipped.append(Skipped(spare.name, reason_of(result)))
        if isinstance(damage, InputError):
            if isinstance(result, InputError):
                self.records[i] = first
            else:
                text = f"{reason_of(damage)}; {self.records[i].name} is used instead"
                self.skipped.append(Skipped(first.name, text))
        return i, result

    def _with_mask(self, record: ImageRecord) -> ImageRecord:
        if self.masks is None:
            return record
        try:
            found, _ = find_masks(self.masks, [_target(record)])
        except InputError:  # the image has none
            return record
        return replace(record, mask=found.get(record.name))


def reading_threads() -> int:
    """Threads that decode images: one for each core up to 4, one for two cores up to 8. Each holds an image."""
    cores = count_cores()
    return max(min(4, cores), min(8, cores // 2))


def discover(
    inputs: Sequence[Path],
    *,
    masks: Path | None = None,
    max_views: int | None = None,
    stride: int = 1,
    max_pixels: int = 200_000_000,
    strict: bool = False,
    recursive: bool = False,
    on_frame: OnFrame | None = None,
    of_video: int | None = DEFAULT_VIEWS,
    frames: str = "even",
    of_stream: Callable[[], int | None] = lambda: None,
) -> ImageSet:
    """The usable images of folders, files and videos in natural order; unusable ones are listed in `skipped`.

    `stride` keeps every n-th image (and every n-th frame of each video), then `max_views` keeps this many evenly,
    including the first and the last. A video gives `frames` (as `--frames`), at most `of_video` of them (None: any
    number of key frames), if `max_views` is None. `of_stream` is called if there is a video: a streaming network takes
    so many of its frames, evenly spaced where `frames` is "auto" (None: no such network). `recursive` also searches
    sub-folders. `on_frame` is called with the progress in a video. Raises UsageError for a path that does not exist,
    InputError if no image is usable and, if `strict`, for the first image that would be skipped.
    """
    if max_views is not None and max_views < 1:
        raise UsageError(f"--max-views must be at least 1, not {max_views}")
    if stride < 1:
        raise UsageError(f"--stride must be at least 1, not {stride}")
    journal = Journal(strict)
    items = _probe_all(collect([Path(path) for path in inputs], journal, recursive), max_pixels, journal)
    streamed = of_stream() if any(isinstance(item, Clip) for item in items) else None
    choice = FrameChoice("even" if streamed and frames == "auto" else frames, streamed or of_video)
    plan, videos = decode_videos(items, max_views, stride, journal, on_frame, choice)
    records = [record for record in itertools.starmap(_record, plan) if record is not None]
    if not records:
        raise InputError(journal.nothing_left())
    used = {record.path for record in records}
    spares = [item for item in items if isinstance(item, ImageRecord) and item.path not in used]
    if max_views is None or strict:  # every n-th image was requested, or the first damage must be reported
        spares = []
    named = _name(records + spares)
    records, spares = named[: len(records)], named[len(records) :]
    order = {item.path: place for place, item in enumerate(items)}
    if masks is not None:
        masks = Path(masks)
        records = _with_masks(records, masks, journal)
    return ImageSet(records, journal.skipped, journal.warnings, journal.accounts(), spares, order, masks, videos=videos)


def _encoded(record: ImageRecord) -> bytes:
    return read_regular(record.path) if record.encoded is None else bytes_of(record.encoded)


def _require_mask(record: ImageRecord) -> None:
    """Raises InputError for a mask that is damaged or belongs to another image: ignoring it would bring back what it
    hides.
    """
    if record.mask is not None:
        try:
            stored_mask(record.mask, record.width, record.height, record.orientation)
        except InputError as error:
            raise BadFile(record.path, f"its {error}") from error


def _probe_all(files: Sequence[Found], max_pixels: int, journal: Journal) -> list[ImageRecord | Clip]:
    """The usable images (named by their file for now) and videos, in order."""
    items: list[ImageRecord | Clip] = []
    several: list[str] = []
    for file in files:
        try:
            if _is_clip(file.path):
                items.append(_probe_video(file.path, max_pixels))
                continue
            record, pictures = _probe_image(file, max_pixels)
        except BadImage as error:
            journal.skip(file.path, str(error))
            continue
        items.append(record)
        several += [f"{printable(file.name)} ({pictures})"] if pictures > 1 else []
    if several:
        more = f" and {len(several) - 3} more" if len(several) > 3 else ""
        what = "files hold several images, pages or frames" if len(several) > 1 else "file holds several images"
        text = f"{len(several)} {what}: {', '.join(several[:3])}{more}; the first one of each is used"
        journal.warnings.append(text)
    return items


def _is_clip(path: Path) -> bool:
    """By content if it is known, else by name."""
    with open_regular(path) as stream:
        head = stream.read(200)
    return not is_picture(head) and (is_video(path) or containers.is_video(head))


def _probe_image(file: Found, max_pixels: int) -> tuple[ImageRecord, int]:
    """The record, and the number of images in the file."""
    with open_regular(file.path) as stream:
        header = probe(stream)
    width, height = header.upright_size
    check_size(width, height, max_pixels)
    aspect = header.upright_aspect
    turn, alpha = header.orientation, header.has_alpha
    return ImageRecord(file.name, file.path, width, height, turn, "", alpha, aspect), header.pictures


def _probe_video(path: Path, max_pixels: int) -> Clip:
    clip = Clip(path)
    check_size(clip.width, clip.height, max_pixels)
    return clip


def _record(item: ImageRecord | Clip, frame: int | None) -> ImageRecord | None:
    """The record of a plan's entry; None for a frame that could not be decoded."""
    if isinstance(item, ImageRecord):
        return item
    if frame is None:
        raise ValueError("an entry of a video names its frame")
    frame = item.index_of(frame)
    held = item.frames.get(frame)
    if held is None:
        return None
    name = f"frame_{frame:06d}.png"
    return ImageRecord(name, item.path, held.width, held.height, frame=frame, encoded=held.encoded, time=held.time)


def _name(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Unique names and stems; with several videos, frames carry the name of their video."""
    several = len({record.path for record in records if record.frame is not None}) > 1
    prefixes = [f"{r.path.stem}_" if several and r.frame is not None else "" for r in records]
    names = unique_names([prefix + record.name for prefix, record in zip(prefixes, records)])
    return [replace(r, name=name, stem=stem) for r, name, stem in zip(records, names, output_stems(names))]


def _with_masks(records: Sequence[ImageRecord], folder: Path, journal: Journal) -> list[ImageRecord]:
    found, warnings = find_masks(folder, [_target(record) for record in records])
    journal.warnings += warnings
    return [replace(record, mask=found.get(record.name)) for record in records]


def _target(record: ImageRecord) -> Target:
    return Target(record.name, record.path, record.frame is not None)
