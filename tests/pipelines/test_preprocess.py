"""The network's input made from an image, and the way back from its output to the original image."""

import cv2
import numpy as np
import pytest

from lite3r_cli.config import PredictConfig
from lite3r_cli.errors import UsageError
from lite3r_cli.io.images import discover
from lite3r_cli.networks.family import family_named
from lite3r_cli.networks.pictures import NetworkInput, Preparation
from lite3r_cli.pipelines.border import find_border
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.pipelines.preprocess import align, fit


def shown(model: str) -> Preparation:
    return family_named(model).preparation


def picture(height, width):
    """Red tells the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 // width, rows * 255 // height, rows * 0], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    "model, size, resolution, window, full, corner",
    [
        ("vggt-1b", (683, 1024), 518, (350, 518), (350, 518), (0, 0)),
        ("vggt-1b", (1024, 683), 518, (518, 518), (770, 518), (126, 0)),  # 777 rows, to the multiple of 14 below
        ("vggt", (100, 100), 140, (140, 140), (140, 140), (0, 0)),
        ("da3-small", (683, 1024), 504, (336, 504), (336, 504), (0, 0)),
        ("da3-giant", (1024, 500), 504, (504, 252), (504, 252), (0, 0)),  # 246 columns, to the nearest multiple
        ("da3-small", (7, 300), 504, (14, 504), (14, 504), (0, 0)),
        ("mini", (1024, 683), 518, (518, 350), (518, 350), (0, 0)),
    ],
)
def test_native_windows_are_the_authors(model, size, resolution, window, full, corner):
    fitted = fit(picture(*size), shown(model), resolution, 14, native=True)
    assert (fitted.rgb.shape[:2], fitted.full, fitted.corner) == (window, full, corner)
    height, width = fitted.rgb.shape[:2]
    column = (width // 2 + 0.5 + corner[1]) / full[1] * 255
    row = (height // 4 + 0.5 + corner[0]) / full[0] * 255
    assert fitted.rgb[height // 4, width // 2, :2] == pytest.approx([column, row], abs=max(3, 400 / min(size)))


def test_keep_shows_everything():
    fitted = fit(picture(1024, 683), shown("vggt-1b"), 518, 14, native=False)
    assert fitted.full == fitted.rgb.shape[:2] == (518, 350)


@pytest.mark.parametrize(
    "model, size, asked, expected",
    [
        ("mini", (336, 448), None, (336, 448)),  # its own size
        ("mini", (500, 375), None, (490, 364)),
        ("mini", (60, 90), None, (154, 224)),  # but below the sizes it was trained on
        ("mini", (683, 1024), None, (350, 518)),
        ("mini", (336, 448), 518, (392, 518)),  # unless asked
        ("vggt-1b", (336, 448), None, (392, 518)),
        ("da3-small", (336, 448), None, (378, 504)),
    ],
)
def test_default_size_of_a_picture(model, size, asked, expected):
    assert fit(picture(*size), shown(model), asked, 14, native=False).full == expected


def test_da3_crops_a_mixed_set_to_its_smallest_sides():
    items = [
        fit(picture(*size), shown("da3-small"), 504, 14, native=True) for size in ((300, 504), (504, 300), (504, 504))
    ]
    cropped = align(items, shown("da3-small"), native=True)
    assert {item.rgb.shape for item in cropped} == {(294, 294, 3)}
    assert [item.full for item in cropped] == [item.full for item in items]
    assert align(items, shown("da3-small"), native=False) == items


def test_the_way_back():
    whole = NetworkInput(picture(70, 42), (70, 42)).crop(42, 28)
    assert whole.corner == (14, 7)
    depth = whole.uncrop(np.ones((42, 28), np.float32))
    assert depth.shape == (70, 42) and depth.sum() == 42 * 28 and depth[14, 7] == 1 and depth[13, 7] == 0
    K = np.array([[50.0, 0, 14], [0, 60, 21], [0, 0, 1]])
    assert whole.uncrop_intrinsics(K).tolist() == [[50, 0, 21], [0, 60, 35], [0, 0, 1]] and K[0, 2] == 14


def test_default_resolution_is_the_authors():
    assert [
        shown(name).resolution for name in ("mini", "vggt-1b", "da3-large", "lite3r-da3-large", "lite3r-vggt-1b")
    ] == [518, 518, 504, 504, 518]


def test_cropped_views_refer_to_the_whole_photograph(photographs, plane_backbone, monkeypatch):
    images = discover([photographs(2, width=56, height=112)])
    predictor = Predictor(PredictConfig(resolution=56, device="cpu", preprocess="native"))
    monkeypatch.setattr(predictor, "_prepare", shown("vggt-1b"))  # VGGT crops
    view = predictor.predict(images).views[0]
    assert view.depth.shape == (112, 56) and (view.width, view.height) == (56, 112)
    assert not view.depth[:28].any() and (view.depth[28:84] > 0).all() and not view.depth[84:].any()
    assert view.K[:2, 2].tolist() == [28, 56]  # the window's middle is the photograph's


def test_an_unknown_way_is_refused():
    with pytest.raises(UsageError, match="keep, native"):
        PredictConfig(preprocess="squash")


@pytest.mark.parametrize("colour", [0, 255])
def test_a_plain_frame_is_painted_over(colour):
    scene = 60 + picture(683, 1024) // 2
    scene[..., 2] = 100
    framed = scene.copy()
    framed[:9] = framed[:, :14] = framed[-5:] = colour
    framed_shown = fit(framed, shown("mini"), 518, 14, native=False)
    top, left, bottom, right = (
        framed_shown.border[0, 200],
        framed_shown.border[150, 0],
        framed_shown.border[-1, 200],
        framed_shown.border[150, -1],
    )
    assert (top, left, bottom, right) == (True, True, True, False)
    assert framed_shown.border.mean() < 0.06
    plain = fit(scene, shown("mini"), 518, 14, native=False)
    assert plain.border is None
    assert np.abs(framed_shown.rgb.astype(int) - plain.rgb).max() < 25


def test_something_white_that_touches_a_frame_does_not_hide_it():
    noise = np.random.default_rng(3).integers(20, 200, (20, 30, 3), dtype=np.uint8)
    rgb = cv2.resize(noise, (392, 294), interpolation=cv2.INTER_CUBIC)
    rgb[:40, 100:180] = 255  # a lamp, a quarter of the upper side
    alone = find_border(rgb)
    assert alone is None
    rgb[:4] = rgb[-4:] = rgb[:, :4] = rgb[:, -4:] = 255
    found = find_border(rgb)
    assert found is not None and found[0].all() and found[-1].all() and found[:, 0].all() and found[:, -1].all()
    assert not found[12:30, 110:170].any() and found.mean() < 0.09


def test_a_white_background_is_no_frame():
    product = np.full((480, 640, 3), 255, np.uint8)
    product[150:330, 200:440] = 60
    sky = 60 + picture(480, 640) // 2
    sky[:200] = 255
    assert fit(product, shown("mini"), 518, 14, native=False).border is None
    assert fit(sky, shown("mini"), 518, 14, native=False).border is None
