"""EXIF blocks as cameras and careless programs write them: each entry is judged alone."""

from __future__ import annotations

import io
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from png_files import png_chunk

from lite3r_cli.io.codecs import exif_block
from lite3r_cli.io.probe import probe


def block(*entries: tuple[int, int, int, int], order: str = "<", tail: bytes = b"") -> bytes:
    """A TIFF structure of (tag, type, count, value) entries; a SHORT's value stands in the first two bytes."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries))
    packed = [
        struct.pack(order + "HHI", tag, kind, count)
        + (struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value))
        for tag, kind, count, value in entries
    ]
    return head + b"".join(packed) + struct.pack(order + "I", 0) + tail


TURNED = (274, 3, 1, 6)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "entries",
    [
        [(271, 2, 200, 1 << 30), TURNED],  # the maker's name lies beyond the end
        [TURNED, (34665, 4, 1, 0xFFFFFFFF)],  # so does the Exif directory
        [(40961, 3, 0xFFFFFFFF, 9), TURNED],  # a count of four thousand million
        [(282, 5, 1, 1 << 29), (283, 5, 1, 2), TURNED],
        [(37500, 77, 12, 5), TURNED],  # no such type
        [(270, 2, 0, 0), TURNED],
        [(274, 3, 1 << 30, 6)],  # its own count lies
    ],
)
def test_one_bad_entry_costs_nothing_else(entries, order):
    assert exif_block.read(block(*entries, order=order)).orientation == 6


def test_a_directory_cut_in_its_last_entry():
    whole = block(TURNED, (296, 3, 1, 2))
    assert exif_block.read(whole[:-7]).orientation == 6


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0", b"Exif\0\0Exif\0\0", b"Exif\0\xff"])
def test_prefixes(prefix):
    assert exif_block.read(prefix + block(TURNED)).orientation == 6


def container(kind: str, *blocks: bytes) -> bytes:
    """A picture of 40 × 30 with these EXIF blocks."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(stream, kind)
    data = stream.getvalue()
    if kind == "JPEG":
        parts = [b"\xff\xe1" + struct.pack(">H", len(b) + 8) + b"Exif\0\0" + b for b in blocks]
        return data[:2] + b"".join(parts) + data[2:]
    return data[:33] + b"".join(png_chunk(b"eXIf", b) for b in blocks) + data[33:]


@pytest.mark.parametrize("kind", ("JPEG", "PNG"))
@pytest.mark.parametrize(
    "blocks", [(b"", block(TURNED)), (block((271, 2, 4, 0)), block(TURNED)), (b"II*\0\xff\xff\xff\xff", block(TURNED))]
)
def test_the_first_block_that_has_an_orientation_counts(kind, blocks):
    assert probe(io.BytesIO(container(kind, *blocks, block((274, 3, 1, 3))))).orientation == 6


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keyword", ["exif", "APP1"])
def test_exif_that_stands_as_text_in_a_png(keyword, packed):
    """ImageMagick 6 leaves the pixels as they were and writes the block as digits."""
    digits = (b"Exif\0\0" + block(TURNED)).hex()
    text = f"\n{keyword}\n{len(digits) // 2:8}\n{digits[:72]}\n{digits[72:]}\n"
    stream, info = io.BytesIO(), PngInfo()
    info.add_text("Raw profile type xmp", "\nxmp\n 2\nzz\n")
    info.add_text(f"Raw profile type {keyword}", text, zip=packed)
    Image.new("RGB", (40, 30)).save(stream, "PNG", pnginfo=info)
    assert probe(io.BytesIO(stream.getvalue())).upright_size == (30, 40)
    assert probe(io.BytesIO(stream.getvalue().replace(digits[:40].encode(), b"z" * 40))).upright_size == (
        (40, 30) if not packed else (30, 40)
    )


def test_a_small_file_that_claims_gigabytes_costs_nothing():
    hostile = block(*[(1000 + i, 1, 64_000, 0) for i in range(4095)], TURNED, tail=bytes(15_000))
    many = block(*[(274, 1, 60_000, 0)] * 4000, tail=bytes(15_000))
    tracemalloc.start()
    assert probe(io.BytesIO(container("JPEG", hostile[:65_000]))).orientation == 6
    probe(io.BytesIO(container("JPEG", many[:65_000])))
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_pixel_aspect_is_read_where_it_is_sound():
    def density(*values):
        return exif_block.read(block((282, 5, 1, 38), (283, 5, 1, 46), tail=struct.pack("<4I", *values))).density

    assert density(72, 1, 144, 1) == (72, 144)
    assert density(72, 0, 144, 1) is None and density(0, 1, 144, 1) is None
