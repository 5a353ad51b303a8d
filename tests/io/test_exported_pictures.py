"""The images/ of an exported model match its cameras for readers that ignore EXIF."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.errors import OutputError
from lite3r_cli.io.exported_pictures import export_pictures
from lite3r_cli.io.images import discover


def save(path: Path, width: int = 60, height: int = 40, orientation: int = 1, mode: str = "RGB", **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(ramp).convert(mode).save(path, exif=exif, **more)
    return path


def export(folder: Path, out: Path, **more):
    images = discover((folder,), **more)
    exported = export_pictures(out, images, range(len(images.records)))
    return images, exported


def test_pictures_have_the_size_of_their_cameras_whatever_reads_them(tmp_path) -> None:
    photos = tmp_path / "photos"
    save(photos / "plain.jpg")
    for orientation in (3, 6, 8):
        save(photos / f"turned {orientation}.JPG", orientation=orientation)
    save(photos / "grey.png", mode="L")
    save(photos / "palette.png", mode="P")
    save(photos / "flat.png")
    save(photos / "wrong suffix.png", format="JPEG")
    save(photos / "lossless.tif")
    save(photos / "ü#%20.webp")
    images, exported = export(photos, tmp_path / "out")
    assert len(images.records) == len(exported.pictures) == 10 and not exported.masks
    for i, record in enumerate(images.records):
        path = tmp_path / "out" / exported.pictures[record.name]
        pixels = np.asarray(Image.open(path).convert("RGB"))  # does not turn
        assert pixels.shape == (record.height, record.width, 3), record.name
        assert path.suffix.lower() in (".jpg", ".png") and cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None
        assert np.abs(pixels.astype(int) - images.read(i)).mean() < 3, record.name
    linked = {name for name, path in exported.pictures.items() if os.stat(tmp_path / "out" / path).st_nlink > 1}
    assert linked == {"plain.jpg", "flat.png"}


def test_names_that_meet_after_encoding_stay_apart(tmp_path) -> None:
    save(tmp_path / "photos/a.jpg")
    save(tmp_path / "photos/a.webp")
    save(tmp_path / "photos/A.tif")
    save(tmp_path / "photos/b 1 (2).jpg")
    save(tmp_path / "photos/b_1 (2).jpg")
    _, exported = export(tmp_path / "photos", tmp_path / "out")
    assert len({path.casefold() for path in exported.pictures.values()}) == 5
    assert not any(" " in path for path in exported.pictures.values())  # readers of COLMAP's text end names there
    assert sorted(p.name for p in (tmp_path / "out/images").iterdir()) == sorted(
        path.removeprefix("images/") for path in exported.pictures.values()
    )


def test_transparency_and_masks_become_masks_with_colmaps_names(tmp_path) -> None:
    rgba = np.full((40, 60, 4), 200, np.uint8)
    rgba[:, :25, 3] = 0
    (tmp_path / "photos").mkdir()
    Image.fromarray(rgba).save(tmp_path / "photos/cut.png")
    save(tmp_path / "photos/whole.jpg")
    _, exported = export(tmp_path / "photos", tmp_path / "out")
    assert exported.masks == {"cut.png": "masks/cut.png.png"}
    mask = np.asarray(Image.open(tmp_path / "out/masks/cut.png.png"))
    assert mask.shape == (40, 60) and (mask[:, :25] == 0).all() and (mask[:, 25:] == 255).all()
    assert Image.open(tmp_path / "out/images/cut.png").mode == "RGB"


def test_a_picture_that_cannot_be_written_is_an_output_error(tmp_path) -> None:
    save(tmp_path / "photos/plain.jpg")
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError):
        export(tmp_path / "photos", tmp_path / "out")
