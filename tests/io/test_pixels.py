"""Pixels of every kind, orientation and format as they come out."""

import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image
from test_images import HEIGHT, WIDTH, oriented, picture, save

from lite3r_cli.errors import InputError
from lite3r_cli.io.codecs import heif
from lite3r_cli.io.images import discover


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_recorded(tmp_path, suffix, orientation):
    upright = picture()
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),  # a viewer turns it clockwise, so it is stored turned the other way
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    stored = np.ascontiguousarray(undo(upright))
    options = {"tiffinfo": {274: orientation}} if suffix == "tif" else {"exif": oriented(orientation)}
    lossy = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    save(tmp_path / f"a.{suffix}", stored, **options, **lossy)
    images = discover([tmp_path])
    record = images.records[0]
    assert (record.width, record.height, record.orientation) == (WIDTH, HEIGHT, orientation)
    assert np.abs(images.read(0).astype(int) - upright).max() <= (6 if suffix == "jpg" else 0)


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert discover([tmp_path]).records[0].orientation == 1


@pytest.mark.parametrize(
    "name, mode, tolerance",
    [
        ("grey.jpg", "L", 3),
        ("grey.png", "L", 0),
        ("grey_alpha.png", "LA", 0),
        ("rgba.png", "RGBA", 0),
        ("rgba.webp", "RGBA", 4),
        ("rgba.tif", "RGBA", 0),
        ("palette.png", "P", 0),
        ("palette.bmp", "P", 0),
        ("bilevel.png", "1", 0),
        ("cmyk.jpg", "CMYK", 4),
        ("rgb.bmp", "RGB", 0),
        ("rgb.ppm", "RGB", 0),
        ("grey.pgm", "L", 0),
        ("rgb.jfif", "RGB", 4),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(tmp_path, name, mode, tolerance):
    converted = Image.fromarray(picture()).convert(mode)
    converted.save(tmp_path / name, format="JPEG" if name.endswith("jfif") else None)
    rgb = discover([tmp_path]).read(0)
    assert rgb.shape == (HEIGHT, WIDTH, 3) and rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    assert np.abs(rgb.astype(int) - np.asarray(converted.convert("RGB"))).mean() <= tolerance


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    levels = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    assert cv2.imwrite(str(tmp_path / f"a{suffix}"), levels)
    rgb = discover([tmp_path]).read(0)
    assert np.array_equal(rgb, np.repeat(np.rint(levels / 257).astype(np.uint8)[..., None], 3, axis=2))


def test_16_bit_alpha_is_a_mask(tmp_path):
    pixels = np.full((HEIGHT, WIDTH, 4), 65535, np.uint16)
    pixels[:10, :, 3] = 20_000
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert np.array_equal(discover([tmp_path]).read_mask(0)[:, 0], np.arange(HEIGHT) >= 10)


def test_transparent_palette_and_turned_alpha(tmp_path):
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[:5] = 1
    palette = Image.fromarray(indices, "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "a.png", transparency=1)
    rgba = np.dstack([picture(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:5, :, 3] = 0
    save(tmp_path / "b.png", rgba, exif=oriented(6))  # the stored top is shown on the right
    images = discover([tmp_path])
    assert np.array_equal(images.read_mask(0)[:, 0], np.arange(HEIGHT) >= 5)
    assert np.array_equal(images.read_mask(1), np.broadcast_to(np.arange(HEIGHT) < HEIGHT - 5, (WIDTH, HEIGHT)))


def test_floating_point_tiff_is_refused_with_the_reason(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), picture().astype(np.float32))
    with pytest.raises(InputError, match="floating-point|signed"):
        discover([tmp_path])


def test_format_is_judged_by_content_not_by_suffix(tmp_path):
    save(tmp_path / "really_a_png.jpg", format="PNG")
    assert np.array_equal(discover([tmp_path]).read(0), picture())


def test_mixed_sizes_and_orientations(tmp_path):
    save(tmp_path / "a.png", picture(40, 60))
    save(tmp_path / "b.png", picture(60, 40))
    save(tmp_path / "c.jpg", picture(33, 77), exif=oriented(8))
    images = discover([tmp_path])
    assert [(r.width, r.height) for r in images.records] == [(60, 40), (40, 60), (33, 77)]
    assert [images.read(i).shape[:2] for i in range(3)] == [(40, 60), (60, 40), (77, 33)]


def test_reading_from_many_threads_gives_the_same_pixels(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.jpg", picture(201, 303, seed=i))
    images = discover([tmp_path])
    alone = [images.read(i) for i in range(3)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(images.read, [0, 1, 2] * 8))
    assert all(np.array_equal(rgb, alone[i % 3]) for i, rgb in enumerate(together))


# --- HEIC and AVIF --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", heif.SUFFIXES)
def test_heif_without_the_extra_names_it(tmp_path, suffix, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # import raises ImportError
    (tmp_path / f"a{suffix}").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(InputError, match=r"pip install 'lite3r\[heif\]'"):
        discover([tmp_path])
    save(tmp_path / "b.png")
    assert "lite3r[heif]" in discover([tmp_path]).skipped[0].reason


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_heif_with_the_extra(tmp_path, suffix):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra: pip install 'lite3r[heif]'")
    pillow_heif.register_heif_opener()
    rgba = np.dstack([picture(64, 96), np.full((64, 96), 255, np.uint8)])
    rgba[:, :48, 3] = 0
    save(tmp_path / f"a{suffix}", rgba, quality=95)
    images = discover([tmp_path])
    assert (images.records[0].width, images.records[0].height) == (96, 64)
    assert np.abs(images.read(0)[:, 60:].astype(int) - rgba[:, 60:, :3]).mean() < 4
    assert np.array_equal(images.read_mask(0)[:, [10, 80]], np.broadcast_to([False, True], (64, 2)))
    data = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"a{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        discover([tmp_path]).read(0)
