"""Detects packets of H.264 or HEVC that no encoder can have written, because decoders show holes as pictures.

An encoder never writes 0 0 0, 0 0 1 or 0 0 2 into the data of a unit: it inserts a 3 (H.264 section 7.4.1, HEVC section
7.4.2). A hole of zeros violates this, so it is found without decoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

CODECS = ("h264", "hevc")
_START = re.compile(rb"\x00\x00\x01")
_NEVER_WRITTEN = re.compile(rb"\x00\x00[\x00-\x02]")
_RUN = re.compile(rb"\xff{64}|\0{64}")  # in coded data: neither occurs by chance
_MOST_PADDING = 64  # zeros after a unit


def length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length field before each unit (ISO 14496-15, `avcC` and `hvcC`); 0 if start codes separate them."""
    at = {"h264": 4, "hevc": 21}[codec]
    if not extradata or extradata[0] != 1 or len(extradata) <= at:
        return 0
    return (extradata[at] & 3) + 1


def is_damaged(packet: bytes, codec: str, prefix: int) -> bool:
    """Whether a packet, whose units follow length fields of `prefix` bytes, is damaged."""
    units = list(_after_lengths(packet, prefix)) if prefix else _between_start_codes(packet)
    return any(unit is None or _is_damaged_unit(unit, codec) for unit in units)


def _after_lengths(packet: bytes, prefix: int) -> Iterator[bytes | None]:
    """The units of a packet; None if a length exceeds the packet."""
    at = 0
    while at < len(packet):
        length = int.from_bytes(packet[at : at + prefix], "big")
        at += prefix
        if at + length > len(packet):
            yield None
            return
        yield packet[at : at + length]
        at += length


def _between_start_codes(packet: bytes) -> list[bytes | None]:
    return [*_START.split(packet)[1:]]


def _is_damaged_unit(unit: bytes, codec: str) -> bool:
    """Checks picture units only: cameras write other units that violate the standard."""
    if not _is_picture(unit, codec):
        return bool(unit) and unit[0] & 0x80 != 0  # forbidden_zero_bit
    data = unit.rstrip(b"\0")
    padded = len(unit) - len(data)
    return padded > _MOST_PADDING or bool(_NEVER_WRITTEN.search(data)) or bool(_RUN.search(data))


def _kind(unit: bytes, codec: str) -> int:
    return unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63


def _is_picture(unit: bytes, codec: str) -> bool:
    if not unit or unit[0] & 0x80:
        return False
    return 1 <= _kind(unit, codec) <= 5 if codec == "h264" else _kind(unit, codec) < 32
