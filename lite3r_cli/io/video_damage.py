"""Detects damaged frames of a video: FFmpeg's complaints, holes that its decoders accept, and missing packets."""

from __future__ import annotations

import logging
import re
import threading
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .codecs import jpeg, nal
from .regular import BadImage

_DAMAGED_JPEG = ("Corrupt", "Premature", "extraneous", "hole")
_ARITHMETIC = ("vp8", "vp9", "av1")  # codecs whose decoders accept any bytes
_HOLE = re.compile(rb"\0{64}|\xff{64}")  # runs that never occur in arithmetic codes
_FOREVER = 2**63

_REGULAR = 0.9  # share of equal steps from which a video has a constant frame rate
_MOST_GAPS = 5  # videos with more gaps were recorded like this
_DROPPED = 3  # frames that a camera may drop; in H.264 and HEVC losses are distinguishable from this


@dataclass(frozen=True)
class Gap:
    """Missing frames in a video of constant rate: their number, and the time of the first frame after them."""

    frames: int
    until: int  # in the stream's time base


def find_gaps(times: list[int], codec: str) -> list[Gap]:
    """Gaps in packets with these times (in any order); none if the rate varies.

    A packet can be lost without a trace in the file; most decoders then predict from the wrong picture.
    """
    ordered = np.unique(np.array(times, dtype=np.int64))
    if len(ordered) < 8:
        return []
    steps = np.diff(ordered)
    usual = int(np.median(steps))
    even = np.abs(steps - usual) <= max(1, usual // 50)  # times are rounded to the time base
    if usual < 1 or even.mean() < _REGULAR:
        return []
    lost = np.rint(steps / usual).astype(np.int64) - 1
    found = [Gap(int(lost[i]), int(ordered[i + 1])) for i in np.flatnonzero(lost >= 1)]
    dropped = codec in nal.CODECS and sum(gap.frames for gap in found) <= _DROPPED
    return [] if dropped or len(found) > _MOST_GAPS else found


def _is_told_otherwise(stream: Any) -> bool:
    """Whether a gap in the times does not indicate a loss.

    Intra-coded frames do not depend on lost ones. AVI has no timestamps: a gap in it is empty chunks, which mean "no
    change". In MP4 the frame before a gap states a longer duration; in H.264 and HEVC the frames are numbered in
    addition.
    """
    container, codec = stream.container.format.name.split(",")[0], stream.codec_context.name
    return bool(stream.codec_context.codec.intra_only) or container == "avi" or (container, codec) == ("mov", "mpeg4")


class Damage:
    """Damaged spans of time: from a packet that FFmpeg complains about, or that follows a gap, to the next key frame.
    Frames in between are predicted from damaged or missing ones.

    A complaint may concern the previous packet, whose frame comes later if frames are stored out of order.
    """

    def __init__(self, stream: Any, told: Told) -> None:
        context = stream.codec_context
        self._told = told
        self._gaps_are_drops = _is_told_otherwise(stream)
        counts_time = (
            stream.container.format.name == "avi" or not stream.frames
        )  # includes empty chunks, or is estimated
        self._rate = float((stream.average_rate or 0) * stream.time_base) if counts_time else 0.0
        self._codec = context.name
        self._looks_like_noise = any(name in context.name for name in _ARITHMETIC)
        self._prefix = nal.length_size(context.name, context.extradata) if context.name in nal.CODECS else None
        self._recent: list[int] = []  # times of the packets that may still be in the decoder
        self._open: int | None = None  # start of a damaged span without an end yet
        self._spans: list[tuple[int, int]] = []
        self._times: list[int] = []
        self._keys: list[int] = []
        self.missing = 0  # frames that are missing in the file
        self.dropped = 0  # frames that the stated number includes, while the previous one is shown on

    def about_to_decode(self, packet: Any) -> None:
        if packet.is_keyframe and self._open is not None and packet.pts is not None and packet.pts > self._open:
            self._spans.append((self._open, packet.pts))
            self._open = None
        if packet.pts is not None:
            self._recent = [*self._recent, packet.pts][-2:]
            self._times.append(packet.pts)
            if packet.is_keyframe:
                self._keys.append(packet.pts)
        if packet.is_corrupt or (packet.size and self._is_damaged(bytes(packet))):
            self._note(packet.pts)

    def _is_damaged(self, coded: bytes) -> bool:
        """Damage that the decoder would not detect."""
        if self._prefix is not None:
            return nal.is_damaged(coded, self._codec, self._prefix)
        if self._looks_like_noise and _HOLE.search(coded):
            return True
        return self._codec == "mjpeg" and _is_damaged_jpeg(coded)

    def decoded(self, packet: Any) -> Iterator[Any]:
        import av

        try:
            for frame in packet.decode():
                if frame.is_corrupt:
                    self._note(frame.pts)
                yield frame
        except av.FFmpegError:  # this packet gives no frame
            self._note(packet.pts)
        if self._told.take():
            self._note(min(self._recent, default=None))

    def at_end(self) -> None:
        """All packets were read: the missing ones are known."""
        if self._gaps_are_drops and self._times:
            ordered = np.unique(self._times)
            longest = np.diff(ordered).max(initial=1)  # the last frame may last as long
            self.dropped = max(0, round((ordered[-1] - ordered[0] + longest) * self._rate) - len(self._times))
        gaps = [] if self._gaps_are_drops else find_gaps(self._times, self._codec)
        keys = sorted(self._keys)
        for gap in gaps:
            at = bisect_left(keys, gap.until)
            self._spans.append((gap.until, keys[at] if at < len(keys) else _FOREVER))
            behind = next(i for i, time in enumerate(self._times) if time >= gap.until)
            last = self._times[behind - 1]  # the packet at the edge of a hole is usually incomplete
            self._spans.append((last, last + 1))
        self.missing = sum(gap.frames for gap in gaps)

    @property
    def packets(self) -> int:
        return len(self._times)

    def _note(self, time: int | None) -> None:
        start = 0 if time is None else time
        self._open = start if self._open is None else min(self._open, start)

    def covers(self, time: int | None) -> bool:
        spans = self._spans if self._open is None else [*self._spans, (self._open, _FOREVER)]
        return bool(spans) and (time is None or any(start <= time < end for start, end in spans))


def _is_damaged_jpeg(data: bytes) -> bool:
    try:
        jpeg.strictly(data, "GRAY")
    except BadImage as error:
        return any(word in str(error) for word in _DAMAGED_JPEG)
    return False


class Told:
    """Logged errors of FFmpeg's decoders that have not been fetched."""

    def __init__(self, log: list[tuple[int, str, str]]) -> None:
        self._log = log

    def take(self) -> bool:
        any_told = bool(self._log)
        self._log.clear()
        return any_told


_logging = threading.Lock()  # FFmpeg's log is global to the process


@contextmanager
def complaints() -> Iterator[Told]:
    """Capture the errors that FFmpeg's decoders log, because they repair damage and report it only there. Nothing is
    printed.
    """
    from av import logging as log

    logging.getLogger("libav").addHandler(logging.NullHandler())
    with _logging:
        log.set_skip_repeated(False)
        log.set_level(log.ERROR)
        try:
            with log.Capture(local=False) as lines:
                yield Told(lines)
        finally:
            log.set_level(None)
