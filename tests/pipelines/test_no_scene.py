"""Masked and transparent pixels and plain frames are no part of the scene: no depth, no points, and said."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import photograph

from lite3r_cli.cli import main
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines.no_scene import in_picture, plain_where, shown_to_network, with_masks

SMALL = ["--resolution", "112", "--device", "cpu"]
WIDTH, HEIGHT = 112, 84


def scene(i: int) -> np.ndarray:
    noise = np.random.default_rng(i).integers(30, 226, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def write(folder, kind: str) -> tuple[np.ndarray, list[str]]:
    """Three pictures of a kind; (H, W) bool of what is no scene, and the options."""
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    if kind == "frame":
        nothing[:4] = nothing[-4:] = nothing[:, :4] = nothing[:, -4:] = True
    else:
        nothing[20:70, 30:75] = True
    for i in range(3):
        picture = np.where(nothing[..., None], 255, scene(i)).astype(np.uint8)
        if kind == "transparent":
            picture = np.dstack([scene(i), np.where(nothing, 0, 255).astype(np.uint8)])
        cv2.imwrite(str(folder / "photos" / f"{i}.png"), picture)
        cv2.imwrite(str(folder / "masks" / f"{i}.png"), np.where(nothing, 0, 255).astype(np.uint8))
    return nothing, ["--masks", str(folder / "masks")] if kind == "mask" else []


@pytest.mark.parametrize("kind", ["mask", "transparent", "frame"])
def test_what_is_no_scene_has_no_depth(tmp_path, kind, capsys):
    nothing, options = write(tmp_path, kind)
    assert main(["reconstruct", str(tmp_path / "photos"), "-o", str(tmp_path / "a.ply"), *SMALL, *options]) == 0
    for view in read_cameras_json(tmp_path / "a"):
        assert (view.depth[nothing] == 0).all() and (view.depth[~nothing] > 0).mean() > 0.85
        confidence = cv2.imread(str(tmp_path / "a" / "confidence" / view.name), -1)
        assert confidence is None or (confidence[nothing] == 0).all()
    info = json.loads((tmp_path / "a" / "run.json").read_text())
    masked, unknown = info["fusion"]["masked"], info["fusion"]["unknown"]
    assert (masked if kind != "frame" else unknown) >= 3 * nothing.sum()
    assert info["runtime"]["masked"]["chosen"] == "left out"
    assert ("frame" in capsys.readouterr().err) == (kind == "frame")


def test_refinement_brings_no_frame_back(tmp_path):
    """It has a confidence of its own, and looks for depth by itself."""
    pytest.importorskip("pycolmap")
    images = Path(__file__).parents[2] / "sample_scenes" / "facade" / "images"
    (tmp_path / "photos").mkdir()
    nothing = np.zeros((252, 336), bool)
    nothing[:4] = nothing[-4:] = nothing[:, :4] = nothing[:, -4:] = True
    for name in ("00.jpg", "01.jpg", "02.jpg"):
        picture = cv2.resize(cv2.imread(str(images / name)), (336, 252), interpolation=cv2.INTER_AREA)
        picture[nothing] = 255
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), picture)
    options = ["--refine", "--resolution", "336", "--device", "cpu"]
    assert main(["reconstruct", str(tmp_path / "photos"), "-o", str(tmp_path / "a.ply"), *options]) == 0
    refined = [image["refinement"] for image in json.loads((tmp_path / "a" / "run.json").read_text())["images"]]
    assert any(verdict.get("depth") == "stereo" for verdict in refined)
    for view in read_cameras_json(tmp_path / "a"):
        assert (view.depth[nothing] == 0).all() and (view.depth > 0).mean() > 0.6


def test_a_network_that_cannot_leave_pixels_out_is_told(tmp_path, plane_backbone):
    _, options = write(tmp_path, "mask")
    assert main(["reconstruct", str(tmp_path / "photos"), "-o", str(tmp_path / "a.ply"), *SMALL, *options]) == 0
    told = json.loads((tmp_path / "a" / "run.json").read_text())["runtime"]["masked"]
    assert told["chosen"] == "plain" and "plane cannot" in told["reason"]


def test_whole_masks_change_nothing(tmp_path):
    """Bit for bit, whether there are masks or not."""
    clouds = []
    photograph(tmp_path / "photos" / "a.png", seed=1)
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), np.full((70, 98), 255, np.uint8))
    for options in ([], ["--masks", str(tmp_path / "masks")]):
        output = tmp_path / f"{len(options)}.ply"
        assert main(["reconstruct", str(tmp_path / "photos"), "-o", str(output), *SMALL, *options]) == 0
        clouds.append(output.read_bytes())
    assert clouds[0] == clouds[1]


class _Masks:
    def __init__(self, *masks):
        self.read_mask = masks.__getitem__


def test_masks_follow_the_window_that_the_network_sees():
    rgb = np.arange(10 * 14 * 3, dtype=np.uint8).reshape(10, 14, 3)
    item = NetworkInput(rgb, (20, 14), (5, 0))
    mask = np.ones((41, 29), bool)  # of a photograph about twice as large
    mask[:16] = False  # down to row 8 of 20
    (found,) = with_masks(_Masks(mask), [0], [item])
    assert found.masked is not None and found.masked[:3].all() and not found.masked[4:].any()
    unseen = in_picture(found)
    assert unseen is not None and unseen[:8].all() and unseen[15:].all() and not unseen[9:15].any()
    shown = shown_to_network(found)
    assert (shown[4:] == rgb[4:]).all() and len(np.unique(shown[:3].reshape(-1, 3), axis=0)) == 1
    assert (plain_where(rgb, np.ones((10, 14), bool)) == 0).all()
