from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli.errors import InputError, OutputError
from lite3r_cli.io import depth_files as depth_io
from lite3r_cli.io.depth_files import (
    read_depth_png,
    write_confidence,
    write_depth_npy,
    write_depth_png,
    write_depth_preview,
)
from lite3r_cli.io.quick_png import quick_png


@pytest.mark.parametrize("unit", [1e-6, 1.0, 3e7])
def test_depth_comes_back_to_half_a_step(tmp_path: Path, unit: float) -> None:
    rng = np.random.default_rng(0)
    depth = (unit * rng.uniform(0.5, 20, (41, 63))).astype(np.float32)
    depth[3, 5:9] = [0, np.nan, np.inf, -unit]
    scale = write_depth_png(tmp_path / "a.png", depth)
    back = read_depth_png(tmp_path / "a.png", scale)
    known = np.isfinite(depth) & (depth > 0)
    assert back.dtype == np.float32 and np.array_equal(back > 0, known)
    assert np.abs(back - depth)[known].max() <= 0.501 / scale
    values = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert values.dtype == np.uint16 and values.max() == 65535  # the whole range is used
    write_depth_png(tmp_path / "b.png", depth)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_one_far_pixel_does_not_cost_the_rest_its_precision(tmp_path: Path) -> None:
    depth = np.full((5, 7), 2.0, dtype=np.float32)
    depth[0, 0], depth[1, 1] = 1e9, 1e-7
    back = read_depth_png(tmp_path / "a.png", write_depth_png(tmp_path / "a.png", depth))
    assert back[0, 0] == 0  # unknown rather than wrong
    assert 0 < back[1, 1] < 0.005  # known stays known, however near
    assert np.allclose(back[2:], 2.0, rtol=1e-3)


def test_a_map_without_any_depth(tmp_path: Path) -> None:
    nothing = np.zeros((3, 1), dtype=np.float32)
    assert write_depth_png(tmp_path / "a.png", nothing) == 1.0
    assert not read_depth_png(tmp_path / "a.png", 1.0).any()
    write_depth_preview(tmp_path / "b.png", nothing)
    write_confidence(tmp_path / "c.png", nothing)
    assert not cv2.imread(str(tmp_path / "b.png")).any() and not cv2.imread(str(tmp_path / "c.png")).any()


def test_npy_is_exact(tmp_path: Path) -> None:
    depth = np.array([[1.1, np.nan, 0], [7e9, 1e-7, -1]], dtype=np.float32)
    write_depth_npy(tmp_path / "a.npy", depth)
    back = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert np.array_equal(back, np.array([[1.1, 0, 0], [7e9, 1e-7, 0]], dtype=np.float32)) and back.dtype == np.float32


def test_preview_shows_near_in_red_and_unknown_in_black(tmp_path: Path) -> None:
    depth = np.repeat(np.linspace(1, 5, 63, dtype=np.float32)[None], 41, axis=0)
    depth[:, 30] = 0
    write_depth_preview(tmp_path / "a.png", depth)
    blue, green, red = cv2.imread(str(tmp_path / "a.png"))[20, [0, 30, 62]].T.astype(int)
    assert red[0] > 100 and red[0] > 2 * blue[0] and red[0] > 2 * green[0]
    assert (red[1], green[1], blue[1]) == (0, 0, 0)
    assert blue[2] > red[2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (70, 131)])
def test_maps_are_written_as_png_that_other_programs_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, shape, np.uint8)
    (tmp_path / "a.png").write_bytes(quick_png(values))
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), values)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), values)
    assert np.array_equal(depth_io.read_grey_png(tmp_path / "a.png", 8, values.size), values)
    colours = rng.integers(0, 256, (256, 3), np.uint8)
    (tmp_path / "a.png").write_bytes(quick_png(values, colours))
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png").convert("RGB")), colours[values])
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], colours[values])


def test_damaged_depth_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.png"
    with pytest.raises(InputError, match="d.png"):
        read_depth_png(path, 1.0)
    for data in (b"", b"no image", cv2.imencode(".png", np.zeros((5, 7), np.uint8))[1].tobytes()):
        path.write_bytes(data)
        with pytest.raises(InputError, match="d.png.*16-bit|d.png.*decoded"):
            read_depth_png(path, 1.0)


def test_an_encoder_that_fails_is_an_output_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(depth_io.cv2, "imencode", lambda *arguments: (False, None))
    with pytest.raises(OutputError, match="a.png"):
        write_depth_png(tmp_path / "a.png", np.ones((5, 7), dtype=np.float32))
