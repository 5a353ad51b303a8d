import cv2
import numpy as np
import pytest

from lite3r_cli.errors import UsageError
from lite3r_cli.io.resize import network_size, resize_for_network


@pytest.mark.parametrize(
    "width, height, longest, expected",
    [
        (1024, 683, 518, (350, 518)),
        (683, 1024, 518, (518, 350)),
        (518, 518, 518, (518, 518)),
        (4000, 3000, 520, (392, 518)),  # not a multiple: rounded down
        (100, 75, 518, (392, 518)),  # small images are enlarged
        (8000, 1000, 224, (28, 224)),
        (140, 14, 28, (14, 28)),  # never below one patch
    ],
)
def test_network_size_keeps_the_aspect_ratio_in_whole_patches(width, height, longest, expected):
    assert network_size(width, height, longest) == expected


def test_short_side_is_the_nearest_multiple():
    for height in range(300, 1000, 7):
        h, w = network_size(1000, height, 518)
        assert w == 518 and h % 14 == 0
        assert abs(h - 518 * height / 1000) <= 7


def test_resolution_below_one_patch_is_refused():
    with pytest.raises(UsageError, match="at least 14"):
        network_size(100, 100, 13)


def test_shrinking_is_antialiased():
    stripes = np.zeros((683, 1024, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the network's pixels: must become an even grey
    small = resize_for_network(stripes, 224)
    assert small.shape == (154, 224, 3) and small.dtype == np.uint8
    assert np.ptp(small[:, 2:-2].astype(int)) < 64
    assert abs(small.mean() - 127.5) < 1


def test_pixel_centres_do_not_shift():
    ramp = np.repeat(np.linspace(0, 255, 1000, dtype=np.float32)[None, :, None], 700, axis=0)
    rgb = np.repeat(ramp, 3, axis=2).round().astype(np.uint8)
    for source in (rgb, cv2.resize(rgb, (101, 71), interpolation=cv2.INTER_AREA)):
        small = resize_for_network(source, 518)
        columns = (np.arange(518) + 0.5) / 518 * 1000 - 0.5
        inner = slice(8, -8)
        assert np.abs(small[100, inner, 0] - columns[inner] / 999 * 255).max() < 1.1


def test_only_rgb_bytes_are_taken():
    with pytest.raises(ValueError, match="uint8"):
        resize_for_network(np.zeros((20, 20, 3), np.float32), 28)
