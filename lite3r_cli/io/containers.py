"""Recognises video files by their first bytes, before FFmpeg, which would also open playlists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from .regular import BadImage

SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".asf", ".3gp",
    ".3g2", ".flv", ".f4v", ".ogv", ".vob", ".mxf", ".y4m",
)  # fmt: skip
# FFmpeg demuxers that may be used: none of them opens other files.
DEMUXERS = "mov,avi,matroska,webm,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf,yuv4mpegpipe"
_MP4_STARTS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_NO_VIDEO = (b"crx ", b"jp2 ", b"jxl ")  # brands of image formats that use the same boxes
_CONTAINERS = (  # signatures of video files: (offset, bytes), …
    *(((4, start),) for start in _MP4_STARTS),
    ((0, b"RIFF"), (8, b"AVI")),
    ((0, b"\x1a\x45\xdf\xa3"),),  # Matroska, WebM
    ((0, b"\x00\x00\x01\xba"),),  # MPEG program stream
    ((0, b"\x00\x00\x01\xb3"),),  # MPEG video
    ((0, b"\x47"), (188, b"\x47")),  # MPEG transport stream
    ((4, b"\x47"), (196, b"\x47")),  # the same with timecodes, .m2ts
    ((0, b"\x30\x26\xb2\x75"),),  # Windows Media
    ((0, b"FLV\x01"),),
    ((0, b"OggS"),),
    ((0, b"\x06\x0e\x2b\x34"),),  # MXF
    ((0, b"YUV4MPEG2"),),
)
# Name of the codec in MP4 (ISO 14496-12, section 8.5.2), Matroska and AVI.
_CODEC = re.compile(rb"stsd.{12}(.{4})|\x86.{0,2}(V_[A-Z0-9/_]{2,24})|vids(.{4})", re.DOTALL)
_MOST_BOXES = 1_000_000  # at the top level: a fragmented video has two per fragment
_LOOKED_THROUGH = 1 << 20  # bytes at the start and at the end that are searched


def is_video(head: bytes) -> bool:
    """Whether the first 200 bytes are those of a video."""
    if head[4:8] == b"ftyp" and head[8:12] in _NO_VIDEO:
        return False
    return any(all(head.startswith(mark, at) for at, mark in marks) for marks in _CONTAINERS)


def require_container(stream: BinaryIO) -> None:
    """Raises BadImage unless the file starts like a video. An MP4 must also contain its index, which is at the end."""
    head = stream.read(200)
    if not is_video(head):
        raise BadImage("not a video: its first bytes are of no known container")
    if head[4:8] in _MP4_STARTS and not _has_mp4_index(stream):
        raise BadImage("truncated: the video ends before its index (moov), so no frame can be found")


def holds_another(stream: BinaryIO) -> bool:
    """Whether a second MP4 follows the first in the same file, as after `cat`; decoders ignore it."""
    stream.seek(0)
    if stream.read(8)[4:] not in _MP4_STARTS:
        return False
    return [kind for kind, _, _ in _boxes(stream)].count(b"moov") > 1


def codec_name(stream: BinaryIO) -> str:
    """The container's name for the codec of the first video stream, for a message; "unknown" if it is not found."""
    size = stream.seek(0, os.SEEK_END)
    for start in (0, max(0, size - _LOOKED_THROUGH)):
        stream.seek(start)
        match = _CODEC.search(stream.read(_LOOKED_THROUGH))
        if match is not None:
            name = next(group for group in match.groups() if group is not None)
            return "".join(c for c in name.decode("latin-1") if c.isascii() and c.isprintable()).strip() or "unknown"
    return "unknown"


def _has_mp4_index(stream: BinaryIO) -> bool:
    size = stream.seek(0, os.SEEK_END)
    return any(kind == b"moov" and position + length <= size for kind, position, length in _boxes(stream))


def _boxes(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place and length of the top-level boxes (ISO 14496-12, section 4.2); limited for hostile files."""
    size = stream.seek(0, os.SEEK_END)
    position = 0
    for _ in range(_MOST_BOXES):
        if position + 8 > size:
            return
        stream.seek(position)
        head = stream.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # extends to the end of the file
            length = size - position
        if length < 8:
            return
        yield head[4:8], position, length
        position += length
