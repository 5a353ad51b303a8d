"""Maps of 8 or 16 bits as bytes: low bytes as they are, high bytes as packed differences of neighbouring pixels.

The low bytes of a depth map are noise, which zlib packs by a quarter in six times the time of everything else here; its
high bytes are a smooth surface and nearly vanish. zlib's checksums and the size say whether the bytes are whole.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from ..io.regular import BadImage

_HEAD = struct.Struct("<4sBII")  # name, bytes of a value, height, width
_NAME = b"l3m2"


def packed(values: np.ndarray) -> bytes:
    """`values` (h, w) uint8 or uint16 as bytes."""
    height, width = values.shape
    parts = [_HEAD.pack(_NAME, values.itemsize, height, width)]
    parts.append(zlib.compress(np.ascontiguousarray(values.astype(np.uint8)).data, 0))  # with a checksum, not packed
    if values.itemsize == 2:
        high = (values >> 8).astype(np.uint8)
        packing = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
        parts += [packing.compress(np.diff(high, axis=1, prepend=np.uint8(0)).data), packing.flush()]  # modulo 256
    return b"".join(parts)


def unpacked(data: bytes, size: int, most: int) -> np.ndarray:
    """The values (h, w) of `size` bytes each. Raises BadImage for other or damaged bytes, and for more than `most`
    pixels.
    """
    if len(data) < _HEAD.size:
        raise BadImage("too short for a map")
    name, found, height, width = _HEAD.unpack_from(data)
    if (name, found) != (_NAME, size) or not (height and width):
        raise BadImage("another kind of file")
    if height * width > most:
        raise BadImage(f"{width}x{height} pixels are more than a depth map has")
    rest: bytes | memoryview = memoryview(data)[_HEAD.size :]
    planes = []
    for _ in range(size):
        plane, rest = _plane(rest, height * width)
        planes.append(np.frombuffer(plane, np.uint8).reshape(height, width))
    if rest:
        raise BadImage("damaged")
    if size == 1:
        return planes[0]
    low, steps = planes
    values = np.cumsum(steps, axis=1, dtype=np.uint8).astype(np.uint16)
    values <<= 8
    values |= low
    return values


def _plane(data: bytes | memoryview, length: int) -> tuple[bytes, bytes]:
    """The `length` bytes at the beginning of `data`, and what follows them there. Raises BadImage."""
    unpacking = zlib.decompressobj()
    try:
        plane = unpacking.decompress(data, length + 1)
    except zlib.error as error:
        raise BadImage(f"damaged ({error})") from error
    if len(plane) != length or not unpacking.eof:
        raise BadImage("damaged")
    return plane, unpacking.unused_data
