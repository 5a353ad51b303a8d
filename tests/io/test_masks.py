import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.images import discover

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


def test_truncated_mask_is_not_used_and_strict_fails(photos, tmp_path):
    path = tmp_path / "masks" / "a.jpg.png"
    cv2.imwrite(str(path), left_half())
    path.write_bytes(path.read_bytes()[:-20])
    images = discover([photos / "a.jpg"], masks=tmp_path / "masks")
    assert images.read_mask(0) is None and "truncated" in images.warnings[0]
    with pytest.raises(InputError, match=r"a\.jpg\.png"):
        discover([photos / "a.jpg"], masks=tmp_path / "masks", strict=True)


def test_mask_with_damaged_pixels_says_what_to_do(photos, tmp_path):
    path = tmp_path / "masks" / "a.jpg.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80), np.uint8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 30] = bytes(30)
    path.write_bytes(data)
    images = discover([photos / "a.jpg"], masks=tmp_path / "masks")
    with pytest.raises(InputError, match=r"a\.jpg\.png: .*damaged.*take it away"):
        images.read_mask(0)


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
