"""Selects, decodes and stores frames of a video.

FFmpeg (PyAV) decodes a video from start to end, because seeking is unreliable for some codecs; a second time only if
its stated length is wrong or frames are damaged. Only the selected frames are kept, as JPEG of quality 98 in memory:
about 1 MB for 1920×1080, a sixth of the raw pixels, with a loss far below that of the video's compression. Any thread
can read the frames in any order. Beyond 256 MiB they are in a temporary file (frame_spool.py).
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .codecs.header import LARGEST_ASPECT
from .containers import DEMUXERS, codec_name, holds_another, require_container
from .frame_spool import Encoded, FrameSpool
from .keyframes import SIDE, Looks, look_through
from .regular import BadImage, guarded, open_regular
from .video_damage import Damage, complaints

DEFAULT_VIEWS = 60  # frames per video without --max-views
_JPEG_QUALITY = 98
OnFrame = Callable[[int, int], None]  # (decoded frames, total number as far as known)


@dataclass(frozen=True)
class Frame:
    """One decoded frame, upright and with square pixels, as JPEG."""

    encoded: Encoded
    width: int
    height: int
    time: float | None = None  # seconds from the clip's start


@dataclass(frozen=True)
class GreyFrame:
    """One frame of a video, small, upright and with square pixels."""

    index: int
    time: float | None  # seconds from the clip's start
    grey: np.ndarray  # (h, w) uint8


def even_indices(count: int, wanted: int) -> list[int]:
    """`wanted` of range(count), evenly spread, the first and the last included; all of them if there are no more."""
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    steps = wanted - 1
    return [(2 * i * (count - 1) + steps) // (2 * steps) for i in range(wanted)]


class Clip:
    """A video as a source of frames. The constructor raises BadImage if the file is no video or cannot be decoded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular(path) as file:
            self.is_joined = holds_another(file)  # a second video follows, which is ignored
        with _opened(path) as (container, stream):
            self.codec = stream.codec_context.name
            self.width, self.height = _shown_size(stream, _first_frame(container, self.codec))
            self.stated = _stated_frames(container, stream)  # number of frames in the container, 0 = unknown
        self.count = self.stated  # number of frames from the decoder, once it has run
        self.frames: dict[int, Frame] = {}
        self.instead: dict[int, int] = {}  # requested damaged frame → the intact frame that replaces it
        self.damaged = 0  # frames that the decoder rejects
        self.missing = 0  # frames that are missing in the file
        self.dropped = 0  # empty frames of the camera, which the stated number includes
        self.undecoded = 0  # frames that give no picture
        self._fetched: list[int] | None = None
        self.looked: Looks | None = None  # the result of `looks`

    def looks(self) -> Looks:
        """Measurements of all frames, for which they are decoded once. Raises BadImage if none can be decoded."""
        if self.looked is None:
            with guarded("damaged: the video cannot be decoded"), _opened(self.path) as (container, _):
                self.looked = look_through(_small_greys(container))
        return self.looked

    @property
    def ends_early(self) -> bool:
        """Whether the video ends clearly before the number of frames in its container."""
        return self._lacks_frames(self.count)

    def _lacks_frames(self, count: int) -> bool:
        found = count + self.missing + self.dropped + self.undecoded
        return found < 0.98 * self.stated - 2  # stated numbers are estimates for a variable frame rate

    def fetch(self, wanted: Sequence[int], on_frame: OnFrame | None = None) -> bool:
        """Fill `frames` with the frames `wanted` by index. Returns whether `count` was right; if not, it is corrected.

        A damaged frame is replaced by the nearest intact one that is not requested itself, see `instead`. Raises
        BadImage if no frame can be decoded.
        """
        wanted = list(wanted)
        if wanted == self._fetched or (not wanted and self.count):
            return True
        self.frames, seen, damaged, facts = _read_frames(self.path, frozenset(wanted), self.count, on_frame)
        self.missing, self.dropped = facts.missing, facts.dropped
        self.undecoded = max(0, facts.packets - seen) if damaged else 0
        if seen > 1 and self._lacks_frames(seen):
            seen -= 1  # the frame at the cut is usually incomplete, and decoders do not always report it
            seen = next((i + 1 for i in reversed(range(seen)) if i not in damaged), 0)
        right, self.count, self._fetched, self.damaged = (
            seen == self.count,
            seen,
            wanted,
            sum(i < seen for i in damaged),
        )
        self.instead = _substitutes(wanted, damaged, seen) if right else {}
        if self.instead:
            more, *_ = _read_frames(self.path, frozenset(self.instead.values()), self.count, on_frame)
            self.frames |= {index: frame for index, frame in more.items() if index not in damaged}
        self.frames = {index: frame for index, frame in self.frames.items() if index not in damaged}
        return right

    def index_of(self, wanted: int) -> int:
        """The frame that replaces the requested one."""
        return self.instead.get(wanted, wanted)


def _substitutes(wanted: Sequence[int], damaged: frozenset[int], count: int) -> dict[int, int]:
    """Damaged requested frame → the nearest unused intact frame."""
    taken = set(wanted)
    sound = [i for i in range(count) if i not in damaged and i not in taken]
    found = {}
    for index in wanted:
        if index in damaged and sound:
            at = bisect.bisect(sound, index)
            near = min((i for i in (at - 1, at) if 0 <= i < len(sound)), key=lambda i: abs(sound[i] - index))
            found[index] = sound.pop(near)
    return found


# --- FFmpeg -----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, video stream). The file is opened here, because FFmpeg could take its name for a URL."""
    import av

    with open_regular(path) as file:
        require_container(file)
        file.seek(0)
        try:
            container = av.open(file, metadata_errors="replace", options={"format_whitelist": DEMUXERS})
        except Exception as error:  # including FFmpeg's MemoryError: the file claims more than it has
            raise BadImage("not a video that can be decoded: FFmpeg does not know what is in it") from error
        with container:
            streams = [s for s in container.streams.video if not _is_cover(s)]
            if not streams:
                raise BadImage("there is no video in the file, or its kind is not known here")
            stream = streams[0]
            if stream.codec_context is None:
                raise BadImage(_no_decoder(codec_name(file)))
            if stream.frames > os.fstat(file.fileno()).st_size:
                raise BadImage("damaged: the video states more frames than the file has bytes")
            stream.codec_context.thread_count = 1  # logging threads wait for Python, which may be waiting for them
            yield container, stream


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the cover picture of an audio file."""
    return bool(int(getattr(stream, "disposition", 0)) & 0x400)  # AV_DISPOSITION_ATTACHED_PIC


def _no_decoder(codec: str) -> str:
    return (
        f"its codec ({codec}) cannot be decoded here; convert it, e.g. with `ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4`"
        f" on a machine whose FFmpeg knows {codec}"
    )


def _first_frame(container: Any, codec: str) -> Any:
    with complaints():
        for frame in _frames_of(container):
            return frame
    raise BadImage(f"no frame of the video can be decoded (codec {codec}): it is damaged, encrypted or not known here")


def _frames_of(container: Any) -> Iterator[Any]:
    """All frames that can be decoded, ignoring errors between them."""
    import av

    for packet in _packets(container.demux(video=0)):
        try:
            yield from packet.decode()
        except av.FFmpegError:  # a damaged packet, which `Damage` counts
            continue


def _small_greys(container: Any) -> Iterator[np.ndarray]:
    """All frames (h, w) uint8, small, as stored."""
    with complaints():
        for frame in _frames_of(container):
            scale = min(1.0, SIDE / max(frame.width, frame.height))
            size = (max(16, round(frame.width * scale)), max(16, round(frame.height * scale)))
            yield frame.reformat(width=size[0], height=size[1], format="gray").to_ndarray()


def grey_frames(path: Path, side: int) -> Iterator[GreyFrame]:
    """All frames of a video, one after the other, at most `side` pixels large. Raises BadImage."""
    with guarded("damaged: the video cannot be decoded"), _opened(path) as (container, stream), complaints():
        aspect = _pixel_aspect(stream)
        for index, frame in enumerate(_frames_of(container)):
            width, height = _square_size(frame.width, frame.height, aspect)
            scale = min(1.0, side / max(width, height))
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            stored = frame.reformat(width=size[0], height=size[1], format="gray").to_ndarray()
            turns, mirrored = _turns(frame)
            shown = np.rot90(stored, turns)[:, :: -1 if mirrored else 1]
            yield GreyFrame(index, frame.time, np.ascontiguousarray(shown))


def _packets(demuxed: Iterator[Any]) -> Iterator[Any]:
    """Packets up to the first unreadable one, which counts as the end of the video."""
    import av

    try:
        yield from demuxed
    except av.FFmpegError:  # including its MemoryError: a packet that is longer than the file
        return


def _stated_frames(container: Any, stream: Any) -> int:
    frames = stream.frames
    if frames <= 0 and stream.average_rate:
        seconds = 0.0
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration:
            seconds = container.duration / 1e6
        frames = round(seconds * float(stream.average_rate))
    return int(frames) if 0 < frames < 2**31 else 0


def _turns(frame: Any) -> tuple[int, bool]:
    """Transform of a stored frame to upright: counter-clockwise quarter turns, then whether it is mirrored left to
    right.

    Read from the display matrix: FFmpeg's angle does not distinguish mirrored from rotated pictures, and is NaN for
    some matrices.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(float) if data is not None else (1, 0, 0, 0, 1)
    if a * d == b * c:
        return 0, False
    mirrored = a * d < b * c
    across = -a if mirrored else a
    return round(-2 / np.pi * np.arctan2(b / np.hypot(b, d), across / np.hypot(a, c))) % 4, mirrored


def _pixel_aspect(stream: Any) -> float:
    aspect = float(stream.sample_aspect_ratio or 1)
    return aspect if 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT else 1.0


def _square_size(width: int, height: int, aspect: float) -> tuple[int, int]:
    """(width, height) with square pixels: the squeezed axis is stretched."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def _shown_size(stream: Any, frame: Any) -> tuple[int, int]:
    width, height = _square_size(frame.width, frame.height, _pixel_aspect(stream))
    return (height, width) if _turns(frame)[0] % 2 else (width, height)


def _encode(frame: Any, aspect: float, spool: FrameSpool) -> Frame:
    rgb = frame.to_ndarray(format="rgb24")
    width, height = _square_size(rgb.shape[1], rgb.shape[0], aspect)
    if (height, width) != rgb.shape[:2]:
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC)
    turns, mirrored = _turns(frame)
    shown = np.rot90(rgb, turns)[:, :: -1 if mirrored else 1]
    bgr = cv2.cvtColor(np.ascontiguousarray(shown), cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1]
    return Frame(spool.keep(encoded.tobytes()), bgr.shape[1], bgr.shape[0], frame.time)


def _read_frames(
    path: Path, wanted: frozenset[int], expected: int, on_frame: OnFrame | None
) -> tuple[dict[int, Frame], int, frozenset[int], Damage]:
    """Decode a video to its end. Returns the requested frames by index, the number of frames, the damaged ones, and
    statistics.
    """
    frames: dict[int, Frame] = {}
    spool = FrameSpool()
    times: list[int | None] = []
    with guarded("damaged: the video cannot be decoded"), _opened(path) as (container, stream), complaints() as told:
        damage, aspect = Damage(stream, told), _pixel_aspect(stream)
        for packet in _packets(container.demux(stream)):
            damage.about_to_decode(packet)
            for frame in damage.decoded(packet):
                if len(times) in wanted:
                    frames[len(times)] = _encode(frame, aspect, spool)
                times.append(frame.pts)
                if on_frame is not None:
                    on_frame(len(times), max(len(times), expected))
        damage.at_end()
    if not times:
        raise BadImage("no frame of the video can be decoded")
    return frames, len(times), frozenset(i for i, time in enumerate(times) if damage.covers(time)), damage
