"""TIFF 6.0: the first directory, and pixels from its strips or tiles.

Strips are decompressed one by one, and must give exactly the bytes that the directory states, so that damage inside a
file is detected for every compression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from ..regular import BadImage
from . import tiff_strips
from .header import Header, aspect_of_density
from .tiff_directory import ORIENTATION, X_DENSITY, Y_DENSITY, Directory

(SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER) = (254, 256, 257, 258, 259, 262, 266)
(STRIP_OFFSETS, SAMPLES, ROWS, STRIP_BYTES, PLANAR, PREDICTOR, COLOURS) = (273, 277, 278, 279, 284, 317, 320)
(TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUB_DIRECTORIES) = (322, 323, 324, 325, 330)
(EXTRA, SAMPLE_FORMAT, JPEG_TABLES, FAX_OPTIONS, DNG_VERSION) = (338, 339, 347, 292, 50706)
_TAGS = (
    *(SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, SAMPLES, ROWS, STRIP_BYTES),
    *(PLANAR, PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SUB_DIRECTORIES, EXTRA),
    *(SAMPLE_FORMAT, JPEG_TABLES, FAX_OPTIONS, DNG_VERSION, ORIENTATION, X_DENSITY, Y_DENSITY),
)
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
_COLOURS = {WHITE_IS_0: 1, BLACK_IS_0: 1, RGB: 3, PALETTE: 1, MASK: 1, CMYK: 4, YCBCR: 3, LAB: 3}  # samples of a pixel
_RAW = {32803: "sensor data", 34892: "sensor data"}
_SAVE = "save it as TIFF with 8 or 16 bits, or as PNG"
_MAX_DIRECTORIES = 64
_MAX_BLOCKS = 1 << 18
_THUMBNAIL, _TRANSPARENCY = 1, 4  # bits of SUBFILE


@dataclass(frozen=True)
class StripLayout:
    """The storage of the pixels of a directory."""

    order: str
    bits: int
    samples: int
    photometric: int
    planar: bool
    tiled: bool
    tile: tuple[int, int]  # (width, height) of a tile or strip
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    packing: tiff_strips.Packing
    colours: tuple[int, ...]
    alpha: bool


def matches(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def probe(stream: BinaryIO, size: int) -> Header:
    """Size, orientation, format of the pixels and number of pages. Raises BadImage that names an unsupported kind."""
    stream.seek(8)
    if stream.read(2) == b"CR":
        raise BadImage("a raw photo (Canon CR2): develop it to JPEG or TIFF first")
    directory = Directory.read(stream, size, _TAGS)
    raw = DNG_VERSION in directory.values or directory.first(PHOTOMETRIC) in _RAW
    if raw or (directory.first(SUBFILE) & _THUMBNAIL and SUB_DIRECTORIES in directory.values):
        raise BadImage("a raw photo (DNG, NEF or the like): develop it to JPEG or TIFF first")
    width, height = directory.first(WIDTH), directory.first(HEIGHT)
    if width < 1 or height < 1:
        raise BadImage("damaged: the header gives no size")
    layout = _layout(directory, width, height)
    if any(start + length > size for start, length in zip(layout.offsets, layout.lengths)):
        raise BadImage("truncated: the pixels end before the image does")
    if sum(layout.lengths) > 2 * size:  # each block is copied: a small file must not become gigabytes
        raise BadImage("damaged: the strips of the TIFF lie over one another")
    aspect = aspect_of_density(*(directory.density or (1, 1)))
    pages = _pages(stream, size, directory)
    return Header("tiff", width, height, directory.orientation or 1, layout.alpha, aspect, pages, layout)


def _pages(stream: BinaryIO, size: int, directory: Directory) -> int:
    """Number of pictures in the file, without thumbnails and masks."""
    pages, seen = 1, set[int]()
    while directory.following and directory.following not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(directory.following)
        try:
            directory = Directory.read(stream, size, (SUBFILE, WIDTH), directory.following)
        except BadImage:
            break
        pages += directory.first(WIDTH) > 0 and not directory.first(SUBFILE) & (_THUMBNAIL | _TRANSPARENCY)
    return pages


def _layout(directory: Directory, width: int, height: int) -> StripLayout:
    """Raises BadImage for a damaged or unsupported file."""
    first, values = directory.first, directory.values
    if set(values.get(SAMPLE_FORMAT, (1,))) & {3, 6}:
        raise BadImage(f"floating-point pixels: {_SAVE}")
    samples, photometric = first(SAMPLES, 1), first(PHOTOMETRIC, -1)
    all_bits = set(values.get(BITS, (1,)))
    bits = max(all_bits)
    if len(all_bits) > 1 or bits not in (1, 2, 4, 8, 16) or set(values.get(SAMPLE_FORMAT, (1,))) - {1, 4}:
        depths = "/".join(map(str, sorted(all_bits)[:4]))
        what = "signed" if 2 in values.get(SAMPLE_FORMAT, ()) else f"{depths}-bit"
        raise BadImage(f"{what} pixels are not read: {_SAVE}")
    colours = _COLOURS.get(photometric)
    if colours is None:
        raise BadImage(f"TIFF with pixels of kind {photometric} is not read: {_SAVE}")
    if not colours <= samples <= 16 or (bits < 8 and samples > 1):
        raise BadImage(f"TIFF with {samples} samples of {bits} bits a pixel is not read: {_SAVE}")
    options = first(FILL_ORDER, 1), values.get(JPEG_TABLES, ()), first(FAX_OPTIONS)
    packing = tiff_strips.packing(first(COMPRESSION, 1), first(PREDICTOR, 1), *options)
    if photometric == YCBCR and not packing.is_jpeg:
        raise BadImage(f"TIFF of brightness and colour differences without JPEG compression is not read: {_SAVE}")
    tiled = TILE_OFFSETS in values
    if tiled:
        tile = first(TILE_WIDTH), first(TILE_HEIGHT)
        offsets, lengths = values[TILE_OFFSETS], values.get(TILE_BYTES, ())
    else:
        tile = width, min(first(ROWS, height) or height, height)
        offsets, lengths = values.get(STRIP_OFFSETS, ()), values.get(STRIP_BYTES, ())
    planar = first(PLANAR, 1) == 2 and samples > 1
    if tile[0] < 1 or tile[1] < 1 or tile[0] > width + 65536 or tile[1] > height + 65536:
        raise BadImage("damaged: TIFF tiles of impossible size")
    count = -(-width // tile[0]) * -(-height // tile[1]) * (samples if planar else 1)
    if not lengths and packing.is_plain and count == 1:
        lengths = (tile[1] * ((width * samples * bits + 7) // 8),)  # old writers omit it
    if len(offsets) < count or len(lengths) < count:
        raise BadImage("damaged: the TIFF lists fewer strips or tiles than its size needs")
    if count > _MAX_BLOCKS:
        raise BadImage(f"TIFF of more than {_MAX_BLOCKS} strips or tiles is not read: {_SAVE}")
    alpha = samples > colours and any(extra in (1, 2) for extra in values.get(EXTRA, ())[:1])
    palette = values.get(COLOURS, ())
    if photometric == PALETTE and (len(palette) < 3 << bits or bits > 8):
        raise BadImage("damaged: a TIFF without the colours of its palette")
    blocks = offsets[:count], lengths[:count]
    return StripLayout(
        directory.order, bits, samples, photometric, planar, tiled, tile, *blocks, packing, palette, alpha
    )


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W) to (H, W, 4) uint8 or uint16, grey or RGB, with or without alpha. Raises BadImage."""
    layout: StripLayout = header.detail
    pixels = _assembled(data, header, layout)
    colour, extra = pixels[..., : _COLOURS[layout.photometric]], pixels[..., _COLOURS[layout.photometric] :]
    colour = _CONVERTED[layout.photometric](colour, layout)
    if layout.alpha:
        colour = np.dstack([colour, extra[..., 0].astype(colour.dtype)])
    return colour[..., 0] if colour.shape[2] == 1 else colour


def _assembled(data: bytes, header: Header, layout: StripLayout) -> np.ndarray:
    """(H, W, samples) uint8 or uint16 from the strips or tiles."""
    wide, tall = layout.tile
    across, down = -(-header.width // wide), -(-header.height // tall)
    planes, depth = (layout.samples, 1) if layout.planar else (1, layout.samples)
    whole = np.zeros((header.height, header.width, layout.samples), np.uint16 if layout.bits == 16 else np.uint8)
    shapes = []
    for index in range(across * down * planes):
        row = index // across % down * tall
        rows = tall if layout.tiled else min(tall, header.height - row)
        shapes.append((rows, wide, depth))
    blocks = tiff_strips.unpacked(data, layout, shapes)
    for index, block in enumerate(blocks):
        plane, place = divmod(index, across * down)
        row, column = place // across * tall, place % across * wide
        rows, columns = min(tall, header.height - row), min(wide, header.width - column)
        target = whole[row : row + rows, column : column + columns, plane * depth : plane * depth + depth]
        target[:] = block[:rows, :columns]
    return whole


def _grey(pixels: np.ndarray, layout: StripLayout) -> np.ndarray:
    """Levels of fewer than 8 bits scaled to 0…255; inverted if white is 0."""
    full = 255 if layout.bits <= 8 else 65535
    if layout.bits < 8:
        pixels = (pixels * (255 // (2**layout.bits - 1))).astype(np.uint8)
    return full - pixels if layout.photometric == WHITE_IS_0 else pixels


def _palette(pixels: np.ndarray, layout: StripLayout) -> np.ndarray:
    """(H, W, 3) uint8; the table has 16 bits per colour, but some writers use 8."""
    table = np.array(layout.colours[: 3 << layout.bits], np.uint32).reshape(3, -1).T
    table = (table if table.max(initial=0) < 256 else table >> 8).astype(np.uint8)
    return table[pixels[..., 0]]


def _cmyk(pixels: np.ndarray, layout: StripLayout) -> np.ndarray:
    full = np.uint64(np.iinfo(pixels.dtype).max)
    bright = full - pixels.astype(np.uint64)
    return ((bright[..., :3] * bright[..., 3:] + full // np.uint64(2)) // full).astype(pixels.dtype)


def _lab(pixels: np.ndarray, layout: StripLayout) -> np.ndarray:
    """CIE L*a*b* with 8 bits, a and b signed."""
    if layout.bits != 8:
        raise BadImage(f"Lab pixels of 16 bits are not read: {_SAVE}")
    lab = pixels.copy()
    lab[..., 1:] += 128  # OpenCV's convention: 128 = no colour
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _same(pixels: np.ndarray, layout: StripLayout) -> np.ndarray:
    return pixels


_CONVERTED = {
    **dict.fromkeys((WHITE_IS_0, BLACK_IS_0, MASK), _grey),
    **dict.fromkeys((RGB, YCBCR), _same),
    PALETTE: _palette,
    CMYK: _cmyk,
    LAB: _lab,
}
