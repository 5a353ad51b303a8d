"""One rule in all containers: a pixel counts where it is opaque and, in a mask, not black."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from png_files import png_of_rows

from lite3r_cli.io.images import discover

HEIGHT, WIDTH = 40, 56
LEFT = np.arange(WIDTH) < 20  # what is transparent


def tiff(samples: np.ndarray, photometric: int, extra: int | None) -> bytes:
    """An uncompressed TIFF of (H, W, S) uint8 or uint16."""
    height, width, count = samples.shape
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    bits = samples.dtype.itemsize * 8
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    entries += [(273, 4, 0), (277, 3, count), (278, 4, height), (279, 4, len(data))]
    entries += [] if extra is None else [(338, 3, extra)]
    start = 8 + 2 + 12 * len(entries) + 4
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    for tag, kind, value in entries:
        head += struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value)
    return head + struct.pack("<I", 0) + data


def png(samples: np.ndarray, colour: int, depth: int, tRNS: bytes = b"") -> bytes:
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in samples)
    return png_of_rows(rows, samples.shape[1], samples.shape[0], depth, colour, tRNS)


def layers(dtype=np.uint8, channels=3):
    """White colour, and alpha that is 0 on the left."""
    full = np.iinfo(dtype).max
    colour = np.full((HEIGHT, WIDTH, channels), full, dtype)
    alpha = np.broadcast_to(np.where(LEFT, 0, full).astype(dtype), (HEIGHT, WIDTH))
    return np.dstack([colour, alpha])


def with_level(dtype):
    """Grey with one level that tRNS makes transparent."""
    return np.broadcast_to(np.where(LEFT, 77, 200).astype(dtype)[:, None], (HEIGHT, WIDTH, 1))


def by_pillow(mode, **options):
    def write(path):
        Image.fromarray(layers(channels={"LA": 1}.get(mode, 3))).save(path, **options)

    return write


CASES = {
    "rgba.png": by_pillow("RGBA"),
    "la.png": by_pillow("LA"),
    "rgba.webp": by_pillow("RGBA", lossless=True),
    "rgba.tif": by_pillow("RGBA"),
    "la.tif": lambda path: path.write_bytes(tiff(layers(channels=1), 1, 2)),
    "la16.tif": lambda path: path.write_bytes(tiff(layers(np.uint16, 1), 1, 2)),
    "rgba16.tif": lambda path: path.write_bytes(tiff(layers(np.uint16), 2, 2)),
    "associated.tif": lambda path: path.write_bytes(tiff(layers(), 2, 1)),
    "la16.png": lambda path: path.write_bytes(png(layers(np.uint16, 1), 4, 16)),
    "rgba16.png": lambda path: path.write_bytes(png(layers(np.uint16), 6, 16)),
    "grey_level.png": lambda path: path.write_bytes(png(with_level(np.uint8), 0, 8, struct.pack(">H", 77))),
    "grey_level16.png": lambda path: path.write_bytes(png(with_level(np.uint16), 0, 16, struct.pack(">H", 77))),
    "rgb_level.png": lambda path: path.write_bytes(
        png(np.repeat(with_level(np.uint8), 3, 2), 2, 8, struct.pack(">3H", 77, 77, 77))
    ),
    "rgb_level16.png": lambda path: path.write_bytes(
        png(np.repeat(with_level(np.uint16), 3, 2), 2, 16, struct.pack(">3H", 77, 77, 77))
    ),
    "palette.gif": lambda path: Image.fromarray(LEFT.astype(np.uint8)[None].repeat(HEIGHT, 0), "P").save(
        path, transparency=1
    ),
    "alpha.jp2": by_pillow("RGBA", irreversible=False),
}


@pytest.mark.parametrize("name", CASES)
def test_alpha_of_a_picture(tmp_path, name):
    CASES[name](tmp_path / name)
    mask = discover([tmp_path / name]).read_mask(0)
    assert mask is not None and np.array_equal(mask, np.broadcast_to(~LEFT, (HEIGHT, WIDTH)))


@pytest.mark.parametrize("name", [name for name in CASES if name != "palette.gif"])
def test_alpha_of_a_mask(tmp_path, name):
    """A cut-out that is white where it is transparent, and a black area in it, in every container."""
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    CASES[name](tmp_path / "masks" / f"a{name[name.index('.') :]}")
    images = discover([tmp_path / "a.jpg"], masks=tmp_path / "masks")
    assert np.array_equal(images.read_mask(0), np.broadcast_to(~LEFT, (HEIGHT, WIDTH)))
    assert not images.mask_warnings([0])


def test_a_sample_that_is_no_alpha_is_none(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(layers(), 2, 0))
    (tmp_path / "b.tif").write_bytes(tiff(layers(), 2, None))
    images = discover([tmp_path])
    assert images.read_mask(0) is None and images.read_mask(1) is None


@pytest.mark.parametrize("name", ["a.PNG", "a.jpg.Png", "a.jpg", "a.JPG.bmp", "a.TIF", "a.jpg.webp"])
def test_suffixes_of_masks(tmp_path, name):
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "a.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    Image.fromarray(np.where(LEFT, 0, 255).astype(np.uint8)[None].repeat(HEIGHT, 0)).save(
        tmp_path / "masks" / name, "PNG"
    )
    if name == "a.JPG.bmp":  # the picture's own suffix is part of the name
        return
    images = discover([tmp_path / "a.jpg"], masks=tmp_path / "masks")
    assert images.read_mask(0).mean() == (~LEFT).mean()


def test_a_picture_is_not_its_own_mask(tmp_path):
    for name in ("a.jpg", "b.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((HEIGHT, WIDTH), np.uint8))
    images = discover([tmp_path / "a.jpg", tmp_path / "b.jpg"], masks=tmp_path)
    assert images.read_mask(0) is None and not images.read_mask(1).any()


def test_masks_that_remove_nothing_or_everything_are_said(tmp_path):
    (tmp_path / "masks").mkdir()
    for name, level in (("a", 255), ("b", 0), ("c", 255)):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), np.full((HEIGHT, WIDTH), level, np.uint8))
    images = discover([tmp_path], masks=tmp_path / "masks")
    for i in range(3):
        images.read_mask(i)
    nothing, everything = images.mask_warnings(range(3))
    assert "a.jpg and 1 more removes nothing" in nothing and "b.jpg removes everything" in everything
