"""Frames of a video: which ones, and how they are held.

A video is decoded from its start to its end (seeking is unreliable between codecs), a second time only where its stated
length was wrong. Only the wanted frames are kept, as JPEG of quality 98 in memory: about 1 MB for 1920×1080, a sixth of
the raw pixels, with a loss far below that of the video's own compression. So there are no temporary files, and any
thread can read the frames again in any order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2

from . import decode  # noqa: F401  (silences OpenCV)
from .regular import BadImage, open_regular

DEFAULT_VIEWS = 60  # frames taken of a video when --max-views does not say
_JPEG_QUALITY = 98
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_CONTAINERS = (  # what stands where at the start of a video file: (offset, bytes), …
    *(((4, start),) for start in _MP4_STARTS),
    ((0, b"RIFF"), (8, b"AVI")),
    ((0, b"\x1a\x45\xdf\xa3"),),  # Matroska, WebM
    ((0, b"\x00\x00\x01\xba"),),  # MPEG program stream
    ((0, b"\x00\x00\x01\xb3"),),  # MPEG video
    ((0, b"\x47"), (188, b"\x47")),  # MPEG transport stream
    ((4, b"\x47"), (196, b"\x47")),  # the same with time codes, .m2ts
    ((0, b"\x30\x26\xb2\x75"),),  # Windows Media
)

OnFrame = Callable[[int, int], None]  # (frames decoded, frames in all as far as known)


@dataclass(frozen=True)
class Frame:
    """One decoded frame, as JPEG."""

    encoded: bytes
    width: int
    height: int


def even_indices(count: int, wanted: int) -> list[int]:
    """`wanted` of range(count), evenly spread, the first and the last included; all of them if there are no more."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    steps = wanted - 1
    return [(2 * i * (count - 1) + steps) // (2 * steps) for i in range(wanted)]


class Clip:
    """A video that frames are taken from. Raises BadImage when built if it is not a video or lacks its index."""

    def __init__(self, path: Path) -> None:
        with open_regular(path) as stream:
            _require_container(stream)
        capture = _capture(path)
        try:
            self.path = path
            self.width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))  # after the container's rotation
            self.height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        finally:
            capture.release()
        self.stated = int(stated) if 0 < stated < 2**31 else 0  # frames according to the container, 0 = unknown
        self.count = self.stated  # frames according to the decoder, once it has run
        self.frames: dict[int, Frame] = {}
        self._fetched: list[int] | None = None

    @property
    def ends_early(self) -> bool:
        """Does the video end clearly before the frame count that its container states?"""
        return self._lacks_frames(self.count)

    def _lacks_frames(self, count: int) -> bool:
        return count < 0.98 * self.stated - 2  # stated counts are estimates where the rate is variable

    def fetch(self, wanted: Sequence[int], on_frame: OnFrame | None = None) -> bool:
        """Fill `frames` with the frames `wanted` by index, and say whether `count` was right; if not, it now is.

        Frames are upright; one that is damaged is left out. Raises BadImage if no frame can be decoded.
        """
        wanted = list(wanted)
        if wanted == self._fetched or (not wanted and self.count):
            return True
        self.frames, seen = _read_frames(self.path, frozenset(wanted), self.count, on_frame)
        if seen > 1 and self._lacks_frames(seen):
            seen -= 1  # the frame at the cut is rarely whole, and decoders do not say so
        right, self.count, self._fetched = seen == self.count, seen, wanted
        return right


def _read_frames(
    path: Path, wanted: frozenset[int], expected: int, on_frame: OnFrame | None
) -> tuple[dict[int, Frame], int]:
    """Decode a video to its end: the wanted frames by index, and how many frames there really are."""
    frames: dict[int, Frame] = {}
    seen = 0
    capture = _capture(path)
    try:
        while capture.grab():
            if seen in wanted and (frame := _encode(capture)) is not None:
                frames[seen] = frame
            seen += 1
            if on_frame is not None:
                on_frame(seen, max(seen, expected))
    finally:
        capture.release()
    if seen == 0:
        raise BadImage("no frame of the video can be decoded")
    return frames, seen


def _encode(capture: cv2.VideoCapture) -> Frame | None:
    ok, bgr = capture.retrieve()
    if not ok or bgr is None:
        return None
    encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1]
    return Frame(encoded.tobytes(), bgr.shape[1], bgr.shape[0])


def _capture(path: Path) -> cv2.VideoCapture:
    # FFmpeg alone, and an absolute path: other back ends take names for device numbers, patterns or addresses.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise BadImage("not a video that can be decoded")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _require_container(stream: BinaryIO) -> None:
    """Raises BadImage unless the file starts like a video; an MP4 must also hold its index, which stands at the end."""
    head = stream.read(200)
    if not any(all(head.startswith(mark, at) for at, mark in marks) for marks in _CONTAINERS):
        raise BadImage("not a video: its first bytes are of no known container")
    if head[4:8] in _MP4_STARTS and not _has_mp4_index(stream):
        raise BadImage("truncated: the video ends before its index (moov), so no frame can be found")


def _has_mp4_index(stream: BinaryIO) -> bool:
    """Walk the top-level boxes (ISO 14496-12, section 4.2) to `moov`."""
    size = stream.seek(0, os.SEEK_END)
    position = 0
    while position + 8 <= size:
        stream.seek(position)
        head = stream.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if head[4:8] == b"moov":
            return length == 0 or position + length <= size
        if length < 8:  # 0 = up to the end of the file; below 8 is no box
            return False
        position += length
    return False
