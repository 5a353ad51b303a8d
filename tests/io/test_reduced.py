"""Photographs decoded at reduced scale: the network's input stays the same, and each file is decoded once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.cli import main
from lite3r_cli.errors import InputError
from lite3r_cli.io import images as images_module
from lite3r_cli.io.images import discover
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.pipelines.preprocess import fit, pixels_needed

HOW = (Preparation(224), None, 14, False)


def photograph(height: int, width: int) -> np.ndarray:
    make = np.random.default_rng(height)
    coarse = make.integers(0, 256, (17, 23, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + make.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, quality=92, exif=exif)
    return path


def both(path: Path):
    images = discover([path])
    size = (images.records[0].height, images.records[0].width)
    [(_, (small, reduced))] = images.read_each(
        lambda rgb, record: (rgb.shape, fit(rgb, *HOW, size)), least=lambda record: pixels_needed(size, *HOW)
    )
    return size, small, reduced, fit(images.read(0), *HOW)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(1200, 1800), (1804, 1204), (600, 2000)])
def test_a_large_jpeg_is_reduced_and_the_input_stays_the_same(tmp_path, size, orientation):
    upright, small, reduced, full = both(save(tmp_path / "a.jpg", photograph(*size), orientation))
    assert upright == (size if orientation < 5 else size[::-1])
    assert small[0] < upright[0] and small[0] >= 2 * full.full[0] and small[1] >= 2 * full.full[1]
    assert reduced.full == full.full and reduced.rgb.shape == full.rgb.shape
    apart = np.abs(reduced.rgb.astype(int) - full.rgb.astype(int))
    assert apart.mean() < 0.5 and np.quantile(apart, 0.99) <= 2


@pytest.mark.parametrize("name", ["a.png", "small.jpg", "cmyk.jpg", "odd.jpg"])
def test_what_cannot_be_reduced_is_decoded_whole(tmp_path, name):
    # of odd sizes a reduction would cover more than the picture, and every point would move
    pixels = photograph(*{"small.jpg": (304, 400), "odd.jpg": (1203, 1801)}.get(name, (1000, 1400)))
    if name == "cmyk.jpg":
        Image.fromarray(pixels).convert("CMYK").save(tmp_path / name, quality=92)
    else:
        save(tmp_path / name, pixels)
    upright, small, reduced, full = both(tmp_path / name)
    assert small[:2] == upright and np.array_equal(reduced.rgb, full.rgb)


def test_damage_in_a_reduced_picture_is_noticed(tmp_path):
    path = save(tmp_path / "a.jpg", photograph(1200, 1800))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    images = discover([path])
    with pytest.raises(InputError, match="damaged"):
        images.read(0)
    [(_, result)] = images.read_each(lambda rgb, record: rgb.shape, least=lambda record: (448, 672))
    assert isinstance(result, InputError) and "damaged" in str(result)


def test_a_file_that_changed_is_noticed_whatever_the_scale(tmp_path):
    images = discover([save(tmp_path / "a.jpg", photograph(1200, 1800))])
    save(tmp_path / "a.jpg", photograph(1200, 1792))
    [(_, result)] = images.read_each(lambda rgb, record: rgb.shape, least=lambda record: (448, 672))
    assert isinstance(result, InputError) and "changed" in str(result)


def test_reconstruct_decodes_each_file_once(plane_backbone, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        save(tmp_path / "photos" / f"{i}.jpg", photograph(1200, 1800 + 8 * i))
    decoded, original = [], images_module.decode

    def decode(data: bytes, least=None):
        decoded.append(least)
        return original(data, least)

    monkeypatch.setattr(images_module, "decode", decode)
    out = tmp_path / "scene.ply"
    assert main(["reconstruct", str(tmp_path / "photos"), "-o", str(out), "-r", "224", "-q"]) == 0
    assert len(decoded) == 3 and None not in decoded
