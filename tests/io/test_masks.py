import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.images import discover
from lite3r_cli.io.regular import reason_of

HEIGHT, WIDTH = 40, 60


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    (tmp_path / "masks").mkdir()
    return folder


def left_half(height=HEIGHT, width=WIDTH, level=255):
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = level
    return mask


def test_black_is_ignored_and_any_size_is_stretched(photos, tmp_path):
    cv2.imwrite(str(tmp_path / "masks" / "a.jpg.png"), left_half(20, 30, level=1))  # labels 0 and 1 are masks, too
    cv2.imwrite(str(tmp_path / "masks" / "b.png"), left_half(160, 240))
    images = discover([photos], masks=tmp_path / "masks")
    for i in range(2):
        assert np.array_equal(images.read_mask(i), left_half().astype(bool))
    assert images.warnings == []


def test_colmap_name_goes_before_the_stem(photos, tmp_path):
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
    cv2.imwrite(str(tmp_path / "masks" / "a.jpg.png"), left_half())
    assert discover([photos / "a.jpg"], masks=tmp_path / "masks").read_mask(0).any()


def test_missing_mask_warns_and_uses_the_whole_image(photos, tmp_path):
    cv2.imwrite(str(tmp_path / "masks" / "a.jpg.png"), left_half())
    images = discover([photos], masks=tmp_path / "masks")
    assert images.read_mask(1) is None
    assert len(images.warnings) == 1 and "1 of 2" in images.warnings[0] and "b.jpg" in images.warnings[0]


def test_masks_that_fit_no_image_or_no_folder(photos, tmp_path):
    with pytest.raises(InputError, match=r"a\.jpg\.png"):
        discover([photos], masks=tmp_path / "masks")
    with pytest.raises(UsageError, match="nowhere"):
        discover([photos], masks=tmp_path / "nowhere")


def noise(height=HEIGHT, width=WIDTH):
    return np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)


def cut(data):
    return data[: len(data) // 2]


def holed(data):
    return data[: len(data) // 2] + bytes(60) + data[len(data) // 2 + 60 :]


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def replaced_by_folder(path):
    path.unlink()
    path.mkdir()


def replaced_by_link(path):
    path.unlink()
    path.symlink_to("nowhere")


def changed(how):
    return lambda path: path.write_bytes(how(path.read_bytes()))


DAMAGE = {
    "header": changed(lambda data: data[:10] + b"\xff\xff\xff" + data[13:]),
    "cut": changed(cut),
    "hole": changed(holed),
    "empty": lambda path: path.write_bytes(b""),
    "page": lambda path: path.write_bytes(b"<html>not found</html>"),
    "pipe": pipe,
    "folder": replaced_by_folder,
    "link": replaced_by_link,
}


@pytest.mark.parametrize(
    "name, damage",
    [("a.png", kind) for kind in DAMAGE]
    + [(name, "hole") for name in ("a.jpg", "a.tif", "a.webp")]
    + [("a.bmp", "cut")],
)
def test_a_picture_whose_mask_cannot_be_used_is_left_out(photos, tmp_path, name, damage):
    """Used whole, it would bring back what the mask hides."""
    mask, whole = tmp_path / "masks" / name, tmp_path / "masks" / "b.png"
    Image.fromarray(noise()).save(mask, **({"compression": "tiff_adobe_deflate"} if name == "a.tif" else {}))
    Image.fromarray(left_half()).save(whole)
    DAMAGE[damage](mask)
    images = discover([photos], masks=tmp_path / "masks")
    (_, error), (_, result) = images.read_each(lambda rgb, record: record.name)
    assert result == "b.jpg" and isinstance(error, InputError)
    assert f"its mask {mask}: " in str(error) and "take it away" in str(error)
    assert reason_of(error).startswith("its mask")


SHAPES = {  # size of the mask → fits a picture of 60 × 40 that nothing turned
    (60, 40): True,
    (15, 10): True,
    (600, 400): True,
    (7, 5): True,  # rounded
    (61, 40): True,
    (40, 60): False,
    (60, 60): False,
    (60, 34): False,
    (120, 40): False,
}


@pytest.mark.parametrize("size", SHAPES)
def test_a_mask_of_another_shape_belongs_to_another_picture(photos, tmp_path, size):
    Image.new("L", size, 255).save(tmp_path / "masks" / "a.png")
    images = discover([photos / "a.jpg"], masks=tmp_path / "masks")
    [(_, result)] = images.read_each(lambda rgb, record: record.name)
    assert (result == "a.jpg") == SHAPES[size]
    if not SHAPES[size]:
        assert f"{size[0]}x{size[1]} pixels are another shape" in str(result)
        assert ("quarter" in str(result)) == (size == (40, 60))


def test_a_mask_on_its_side_by_its_own_exif(photos, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "masks" / "a.png", exif=exif)
    [(_, result)] = discover([photos / "a.jpg"], masks=tmp_path / "masks").read_each(lambda rgb, record: record.name)
    assert "by its own EXIF orientation" in str(result)


def test_another_picture_takes_the_place_of_one_with_a_damaged_mask(photos, tmp_path):
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), left_half())
    (tmp_path / "masks" / "a.png").write_bytes(b"")
    images = discover([photos], masks=tmp_path / "masks", max_views=1)
    assert [result for _, result in images.read_each(lambda rgb, record: record.name)] == ["b.jpg"]
    assert images.skipped[0].name == "a.jpg" and "its mask" in images.skipped[0].reason


def test_a_mask_that_would_fill_the_memory_is_not_decoded(photos, tmp_path):
    path = tmp_path / "masks" / "a.png"
    cv2.imwrite(str(path), left_half())
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 24_000, 16_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    [(_, result)] = discover([photos / "a.jpg"], masks=tmp_path / "masks").read_each(lambda rgb, record: record.name)
    assert "24000x16000 pixels are more than a mask may have" in str(result)


def test_alpha_channel_and_mask_are_combined(tmp_path):
    rgba = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    rgba[: HEIGHT // 2, :, 3] = 0
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), rgba)
    expected = np.arange(HEIGHT)[:, None] >= HEIGHT // 2
    assert np.array_equal(discover([tmp_path]).read_mask(0), np.broadcast_to(expected, (HEIGHT, WIDTH)))
    cv2.imwrite(str(tmp_path / "masks" / "a.png.png"), left_half())
    combined = discover([tmp_path], masks=tmp_path / "masks").read_mask(0)
    assert np.array_equal(combined, expected & left_half().astype(bool))


def test_opaque_alpha_is_no_mask(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((HEIGHT, WIDTH, 4), 255, np.uint8))
    assert discover([tmp_path]).read_mask(0) is None


def test_mask_follows_a_photo_on_its_side(tmp_path):
    """Drawn over the upright picture it stays; drawn over the sensor's picture it is turned along."""
    exif = Image.Exif()
    exif[274] = 6  # stored WIDTH × HEIGHT, shown HEIGHT × WIDTH: the stored left edge is shown on top
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "masks").mkdir()
    shown = np.zeros((WIDTH, HEIGHT), np.uint8)
    shown[: WIDTH // 2] = 255
    for drawn in (shown, left_half()):
        cv2.imwrite(str(tmp_path / "masks" / "a.jpg.png"), drawn)
        assert np.array_equal(discover([tmp_path], masks=tmp_path / "masks").read_mask(0), shown.astype(bool))


def test_same_file_name_from_two_folders_takes_masks_from_sub_folders(tmp_path):
    for side, level in (("left", 255), ("right", 0)):
        (tmp_path / side).mkdir()
        (tmp_path / "masks" / side).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / side / "a.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        cv2.imwrite(str(tmp_path / "masks" / side / "a.jpg.png"), np.full((HEIGHT, WIDTH), level, np.uint8))
    images = discover([tmp_path / "left", tmp_path / "right"], masks=tmp_path / "masks")
    assert images.read_mask(0).all() and not images.read_mask(1).any()
