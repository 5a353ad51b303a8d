"""Damage inside a file, and files that look damaged but have all pixels."""

from __future__ import annotations

import io
import lzma
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from png_files import png_chunk, png_of_rows

from lite3r_cli.errors import InputError
from lite3r_cli.io.codecs import jpeg
from lite3r_cli.io.decode import decode
from lite3r_cli.io.images import discover
from lite3r_cli.io.probe import probe
from lite3r_cli.io.regular import BadImage


def scene(height=192, width=256):
    """Detailed enough that every format spends bytes on it."""
    rng = np.random.default_rng(3)
    rough = cv2.resize(rng.integers(0, 256, (24, 32, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(rough + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)


def encoded(kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(scene())
    image = image.convert(options.pop("mode", "RGB"))
    image.save(stream, kind, **options)
    return stream.getvalue()


def holed(data: bytes, at: float = 0.5, share: float = 0.12) -> bytes:
    """Zeros in the middle, as a bad sector or a resumed download leaves them; head and end are whole."""
    start = int(len(data) * at)
    count = int(len(data) * share)
    return data[:start] + bytes(count) + data[start + count :]


def arithmetic_jpeg() -> bytes:
    """A JPEG whose entropy code is arithmetic, written by hand: one grey block row of all-zero coefficients is not
    enough to be damaged, so the bytes behind it are checked by `test_arithmetic_coding_is_read`."""
    head = b"\xff\xd8\xff\xdb\0\x43\0" + bytes([16] * 64)
    head += b"\xff\xc9" + struct.pack(">HBHHB3B", 11, 8, 32, 32, 1, 1, 0x11, 0)
    return head + b"\xff\xda" + struct.pack(">HBBB3B", 8, 1, 1, 0, 0, 63, 0) + b"\0" * 4 + b"\xff\xd9"


WHOLE = {
    "baseline.jpg": lambda: encoded("JPEG", quality=90),
    "progressive.jpg": lambda: encoded("JPEG", quality=90, progressive=True),
    "optimised.jpg": lambda: encoded("JPEG", quality=75, optimize=True),
    "cmyk.jpg": lambda: encoded("JPEG", quality=90, mode="CMYK"),
    "grey.jpg": lambda: encoded("JPEG", quality=90, mode="L"),
    "restarts.jpg": lambda: encoded("JPEG", quality=90, restart_marker_blocks=8),
    "rgb.png": lambda: encoded("PNG"),
    "palette.png": lambda: encoded("PNG", mode="P"),
    "deep.png": lambda: cv2.imencode(".png", scene().astype(np.uint16) * 257)[1].tobytes(),
    "lzw.tif": lambda: encoded("TIFF", compression="tiff_lzw"),
    "deflate.tif": lambda: encoded("TIFF", compression="tiff_adobe_deflate"),
    "packbits.tif": lambda: encoded("TIFF", compression="packbits", mode="P"),
    "jpeg.tif": lambda: encoded("TIFF", compression="jpeg", quality=90),
    "lzma.tif": lambda: encoded("TIFF", compression="lzma", mode="P"),
    "group3.tif": lambda: encoded("TIFF", compression="group3", mode="1"),
    "group4.tif": lambda: encoded("TIFF", compression="group4", mode="1"),
    "lossy.webp": lambda: encoded("WEBP", quality=85),
    "lossless.webp": lambda: encoded("WEBP", lossless=True),
    "a.gif": lambda: encoded("GIF"),
    "a.jp2": lambda: encoded("JPEG2000", quality_mode="rates", quality_layers=[4]),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("at", (0.35, 0.6))
def test_a_hole_in_the_middle_is_skipped_and_listed(tmp_path, name, at, capfd):
    whole = WHOLE[name]()
    (tmp_path / f"a_{name}").write_bytes(whole)
    (tmp_path / f"b_{name}").write_bytes(holed(whole, at))
    (tmp_path / f"c_{name}").write_bytes(whole)
    images = discover([tmp_path])
    results = [result for _, result in images.read_each(lambda rgb, record: rgb.shape)]
    assert [results[0], results[-1]] == [(192, 256, 3)] * 2
    told = [str(result) for result in results if isinstance(result, InputError)] + [s.reason for s in images.skipped]
    assert len(told) == 1 and ("damaged" in told[0] or "truncated" in told[0])
    assert capfd.readouterr() == ("", "")  # no line of a C library


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_rows": 1}, {"mode": "L"}])
def test_a_short_hole_in_a_jpeg_wherever_it_is(options):
    """libjpeg notices a hole only where it then finds too few or too many pixels."""
    data = encoded("JPEG", quality=90, **options)
    for at in np.linspace(0.15, 0.9, 24):
        with pytest.raises(BadImage, match="damaged"):
            decode(holed(data, at, share=80 / len(data)))


def test_long_zeros_of_a_plain_jpeg_are_no_hole():
    """Where "as before" and "no more" are the shortest codes, a black picture is nothing but zeros."""
    stream = io.BytesIO()
    Image.new("L", (1600, 1600)).save(stream, "JPEG", optimize=True)
    assert bytes(100) in stream.getvalue()
    assert not decode(stream.getvalue()).rgb.any()


@pytest.mark.parametrize("suffix", ("heic", "avif"))
def test_a_hole_in_heif(tmp_path, suffix, capfd):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra: pip install 'lite3r[heif]'")
    pillow_heif.register_heif_opener()
    whole = encoded({"heic": "HEIF", "avif": "AVIF"}[suffix], quality=80)
    assert decode(whole).rgb.shape == (192, 256, 3)
    for at in (0.4, 0.6, 0.8):
        with pytest.raises(BadImage, match="damaged"):
            decode(holed(whole, at))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ("rgb.png", "palette.png", "deep.png", "deflate.tif"))
def test_a_single_bit_is_noticed_where_there_is_a_checksum(name):
    whole = bytearray(WHOLE[name]())
    whole[len(whole) // 2] ^= 0x10
    with pytest.raises(BadImage, match="damaged"):
        decode(bytes(whole))


def test_png_with_sound_checksums_and_too_few_rows():
    rows = b"".join(b"\0" + row.tobytes() for row in scene()[:100])
    with pytest.raises(BadImage, match="damaged"):
        decode(png_of_rows(rows, 256, 192))
    deep = b"".join(b"\0" + row.tobytes() for row in scene()[:100].astype(">u2"))
    for broken in (deep, b"\7" + deep[1:] * 2):
        with pytest.raises(BadImage, match="damaged"):
            decode(png_of_rows(broken, 256, 192, depth=16))


@pytest.mark.parametrize("width, height, depth, read", [(14100, 14100, 16, False), (14100, 14100, 8, True)])
def test_a_png_that_unpacks_to_more_than_memory_is_refused_by_its_header(width, height, depth, read):
    bomb = io.BytesIO(png_of_rows(bytes(100), width, height, depth))
    if read:
        assert probe(bomb).width == width
    else:
        with pytest.raises(BadImage, match=r"48 bits are 1.1 GiB, more than the 1 GiB"):
            probe(bomb)


def test_a_suggested_palette_that_is_damaged_is_not_looked_at(capfd):
    rows = b"".join(b"\0" + row.tobytes() for row in scene().astype(">u2") * 257)
    whole = png_of_rows(rows, 256, 192, depth=16)
    palette = png_chunk(b"PLTE", b"short")
    assert np.array_equal(decode(whole[:33] + palette + whole[33:]).rgb, decode(whole).rgb)
    assert capfd.readouterr() == ("", "")


def test_a_limit_of_the_decoder_is_not_called_damage(monkeypatch):
    """OpenCV reads its limits from the environment when it is imported; here it refuses as it does then."""

    def refuses(*given):
        raise cv2.error("imgcodecs: size.width <= CV_IO_MAX_IMAGE_WIDTH")

    rows = b"".join(b"\0" + row.tobytes() for row in scene().astype(">u2"))
    monkeypatch.setattr(cv2, "imdecode", refuses)
    with pytest.raises(BadImage, match="damaged"):
        decode(png_of_rows(rows, 256, 192, depth=16))
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_WIDTH", "10")
    with pytest.raises(BadImage, match="OPENCV_IO_MAX_IMAGE_WIDTH in the environment"):
        decode(png_of_rows(rows, 256, 192, depth=16))


# --- what is whole is used --------------------------------------------------------------------------------------------


def stray(data: bytes, *codes: int) -> bytes:
    """Junk before the segments of these codes."""
    for code in codes:
        at = data.index(bytes([0xFF, code]))
        data = data[:at] + b"\0\x12junk" + data[at:]
    return data


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2],  # no end marker
        lambda data: stray(data, 0xDB, 0xC4),
        lambda data: stray(data, 0xC0),
        lambda data: data[:-2] + bytes(300) + data[-2:],  # padding before the end marker
        lambda data: data[:-2] + b"\xff" * 7 + data[-2:],
        lambda data: data + b"junk" * 100,
        lambda data: data[:2] + b"\xff\xe2\0\x06ICC_" + data[2:],  # an unfinished colour profile
    ],
)
def test_jpeg_with_every_pixel_is_used(tmp_path, change):
    whole = encoded("JPEG", quality=90)
    (tmp_path / "a.jpg").write_bytes(change(whole))
    assert np.array_equal(discover([tmp_path], strict=True).read(0), decode(whole).rgb)


def test_progressive_jpeg_with_zeros_between_its_scans():
    whole = encoded("JPEG", quality=90, progressive=True)
    first = whole.index(b"\xff\xda")
    second = whole.index(b"\xff\xc4", first)
    assert np.array_equal(decode(whole[:second] + bytes(64) + whole[second:]).rgb, decode(whole).rgb)


@pytest.mark.parametrize("missing", (4, 12, 14))
def test_png_without_its_last_chunk_is_used(tmp_path, missing):
    whole = encoded("PNG", pnginfo=None)
    (tmp_path / "a.png").write_bytes(whole[:-missing])
    images = discover([tmp_path]) if missing <= 12 else None
    if images is None:  # the last two bytes of the pixels' checksum are gone: nothing says that they were right
        with pytest.raises(InputError, match="truncated"):
            discover([tmp_path])
    else:
        assert np.array_equal(images.read(0), scene())


def test_damage_in_metadata_costs_no_pixel():
    whole = encoded("PNG", dpi=(72, 72))
    at = whole.index(b"pHYs") + 6
    assert np.array_equal(decode(whole[:at] + b"\x99" + whole[at + 1 :]).rgb, scene())


def test_arithmetic_coding_is_read():
    assert decode(arithmetic_jpeg()).rgb.shape == (32, 32, 3)


def test_scans_without_end_are_refused():
    whole = encoded("JPEG", progressive=True)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImage, match="too many scans"):
        jpeg.decode(whole[:-2] + scan * 2000 + b"\xff\xd9")


def test_lzma_of_an_empty_strip_is_damage():
    data = encoded("TIFF", compression="lzma")
    start = data.index(b"\xfd7zXZ")
    empty = lzma.compress(b"")
    with pytest.raises(BadImage, match="damaged"):
        decode(data[:start] + empty + data[start + len(empty) :])


@pytest.mark.parametrize("suffix, kind", [(".avif", b"ispe"), (".heic", b"ispe")])
def test_a_few_bytes_that_promise_a_huge_picture(tmp_path, suffix, kind):
    """Decoding what such a header says costs ten seconds and a gigabyte."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (96, 72), "grey").save(path)
    data = path.read_bytes()
    size = data.index(kind) + 8  # ISO 23008-12, section 6.5.3: width and height
    path.write_bytes(data[:size] + struct.pack(">II", 9264, 16436) + data[size + 8 :])
    with pytest.raises(InputError, match=rf"a{suffix}: damaged"):
        discover([path])


def test_a_jpeg_header_that_no_so_small_file_can_keep():
    """Decoding it takes seconds and half a gigabyte; each block needs a bit."""
    data = encoded("JPEG", quality=90)
    frame = data.index(b"\xff\xc0") + 5
    with pytest.raises(BadImage, match=r"damaged: \d+ bytes hold no image of 16000×12000 pixels"):
        probe(io.BytesIO(data[:frame] + struct.pack(">HH", 12000, 16000) + data[frame + 4 :]))
    for options in ({}, {"optimize": True}, {"progressive": True}):
        stream = io.BytesIO()
        Image.new("L", (3000, 2000)).save(stream, "JPEG", quality=1, **options)
        assert probe(stream).upright_size == (3000, 2000)


def test_pictures_of_200_megapixels_are_no_attack(tmp_path, recwarn):
    """Telephones take them. Pillow refuses more than 179 Mpx; its limit is the same again afterwards."""
    from lite3r_cli.io.exif import read_metadata

    exif = Image.Exif()
    exif.get_ifd(0x8769)[37386] = 6.3  # the focal length
    small = tmp_path / "small.jpg"
    Image.new("RGB", (64, 48)).save(small, exif=exif)
    data = small.read_bytes()
    frame = data.index(b"\xff\xc0") + 5  # ITU T.81, B.2.2: height and width
    huge = data[:frame] + struct.pack(">HH", 12240, 16320) + data[frame + 4 :]
    assert read_metadata(huge).focal_mm == read_metadata(small).focal_mm == pytest.approx(6.3)
    Image.new("L", (64, 48)).save(tmp_path / "a.gif")
    data = (tmp_path / "a.gif").read_bytes()
    header = probe(io.BytesIO(data[:6] + struct.pack("<HH", 14_000, 13_500) + data[10:]))
    assert (header.width, header.height) == (14_000, 13_500)
    assert Image.MAX_IMAGE_PIXELS is not None and not [w for w in recwarn if "Decompression" in w.category.__name__]


def test_a_length_beyond_the_file_costs_that_picture(tmp_path):
    data = encoded("JPEG2000")
    at = data.index(b"jp2h")
    (tmp_path / "a.jp2").write_bytes(data[: at - 4] + b"\0\0\0\1jp2h" + (1 << 60).to_bytes(8, "big") + data[at + 4 :])
    with pytest.raises(InputError, match="a.jp2: damaged"):  # no MemoryError, which would end the whole run
        discover([tmp_path / "a.jp2"])


def test_the_size_of_a_gif_is_read_without_memory_for_its_pixels(monkeypatch):
    """Found by fuzzing: Pillow sets 2.2 GiB aside when it opens a file that claims as many pixels."""
    data = encoded("GIF")
    claims = data[:6] + struct.pack("<HH", 60_000, 39_000) + data[10:]
    monkeypatch.setattr(Image, "open", None)
    header = probe(io.BytesIO(claims))
    assert (header.width, header.height, header.pictures) == (60_000, 39_000, 1)
    with pytest.raises(BadImage):
        probe(io.BytesIO(data[:6] + b"\0\0\1\0" + data[10:]))
