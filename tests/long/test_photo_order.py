"""Photographs without order: what belongs together, in which order, and the scene that subsets of them make."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import STEP, PlaneBackbone

from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
from lite3r_cli.config.sequence import LongConfig
from lite3r_cli.errors import InputError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.long.chunk_plan import owners
from lite3r_cli.long.photo_order import nearness, pairs_to_ask, plan_subsets, seriated
from lite3r_cli.pipelines.reconstruct_scene import reconstruct
from lite3r_cli.scene import geometry

COUNT, CODE = 11, 16  # pictures of the wall; grey levels of the corner, from one to the next


def along(count: int, reach: int = 2) -> dict[tuple[int, int], float]:
    """Ties of pictures along a line."""
    return {(i, j): 100.0 / (j - i) for i in range(count) for j in range(i + 1, min(i + 1 + reach, count))}


def test_a_line_is_found_again_whatever_the_order_of_its_pictures():
    rng = np.random.default_rng(1)
    names = rng.permutation(30).tolist()  # names[k]: the picture at place k
    near = nearness({tuple(sorted((names[i], names[j]))): w for (i, j), w in along(30).items()})
    order = seriated(sorted(names), near)
    assert order in (names, names[::-1])
    branch = nearness(along(10) | {(5, 10): 50.0, (10, 11): 50.0})  # two pictures beside the line
    order = seriated(range(12), branch)
    at = {picture: place for place, picture in enumerate(order)}
    assert (abs(at[10] - at[11]) == 1 and at[10] == at[5] + 1) or at[11] == at[5] + 1


@pytest.mark.parametrize(("count", "size"), [(30, 9), (7, 9), (100, 12), (13, 4)])
def test_subsets_hold_all_pictures_and_share_what_is_tied_most(count, size):
    near = nearness(along(count))
    subsets = plan_subsets([range(count)], near, size, "test")
    passes = subsets.plan.chunks
    assert sorted(subsets.order) == list(range(count)) and all(
        len(set(p.views)) == len(p.views) <= size for p in passes
    )
    owner = owners(passes, count)
    assert all(position in passes[k].views for position, k in enumerate(owner)) and min(owner) == 0
    for k, each in enumerate(passes[1:], 1):
        assert sum(owner[v] < k for v in each.views) == subsets.plan.overlap
    assert subsets.around([0], 3) == [1, 2]


def test_two_groups_make_no_subset_together():
    near = nearness(along(6) | {(i + 6, j + 6): w for (i, j), w in along(5).items()})
    subsets = plan_subsets([range(6), range(6, 11)], near, 4, "test")
    groups = [{subsets.order[v] < 6 for v in each.views} for each in subsets.plan.chunks]
    assert all(len(g) == 1 for g in groups) and {True} in groups and {False} in groups


def test_each_picture_is_asked_beside_those_like_it():
    likeness = -np.abs(np.subtract.outer(np.arange(50), np.arange(50))).astype(float)
    pairs = pairs_to_ask(likeness)
    assert all(i < j <= i + 17 for i, j in pairs) and {(i, i + 1) for i in range(49)} <= set(pairs)
    assert pairs_to_ask(np.zeros((2, 2))) == [(0, 1)]


class WallBackbone(PlaneBackbone):
    """Reads from the corner of each picture where along the wall it was taken."""

    def predict(self, images):
        found = super().predict(images)
        for pose, image in zip(found.cam_from_world, images):
            pose[0, 3] = -STEP * round(float(image[0, :6, :6].mean()) * 255 / CODE)
        return found


def wall(folder: Path, foreign: int) -> dict[str, int]:
    """Photographs along a wall under names without order, and others; the place of each of the former."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    texture = cv2.resize(rng.integers(0, 256, (40, 120, 3), np.uint8), (840, 280), interpolation=cv2.INTER_CUBIC)
    names = [f"img{n}.png" for n in rng.permutation(100)[: COUNT + foreign]]
    for k, name in enumerate(names):
        picture = texture[:200, 28 * k : 28 * k + 280].copy()
        if k >= COUNT:
            noise = np.random.default_rng(k).integers(0, 90, (25, 35, 1), np.uint8) + np.uint8([[[10, 90, 160]]])
            picture = cv2.resize(noise, (280, 200), interpolation=cv2.INTER_CUBIC)
        picture[:40, :40] = CODE * min(k, COUNT)
        assert cv2.imwrite(str(folder / name), picture)
    return {name: k for k, name in enumerate(names[:COUNT])}


def test_shuffled_photographs_become_one_scene_without_the_foreign_ones(tmp_path, monkeypatch):
    from lite3r_cli.networks.checkpoint import Checkpoint

    monkeypatch.setattr(Checkpoint, "build", lambda self: WallBackbone())
    monkeypatch.setattr(Checkpoint, "load", lambda self, *options: WallBackbone())
    places = wall(tmp_path / "photos", 3)
    config = ReconstructConfig(
        InputConfig((tmp_path / "photos",)),
        PredictConfig(device="cpu", dtype="float32", resolution=98),
        output=str(tmp_path / "out"),
        long=LongConfig("5"),
    )
    told: list[str] = []
    reconstruct(config, warn=told.append)
    views = {view.name: view for view in read_cameras_json(tmp_path / "out" / "cameras.json")}
    assert views.keys() == places.keys()
    first = min(places, key=lambda name: int(name[3:-4]))  # of the files: its camera is the world
    assert np.allclose(views[first].cam_from_world, np.eye(3, 4), atol=1e-6)
    for name, view in views.items():
        expected = [STEP * (places[name] - places[first]), 0, 0]
        assert np.allclose(geometry.camera_centres(view.cam_from_world[None])[0], expected, atol=0.02)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert sum(image["verdict"] == "left out" for image in run["images"]) == 3
    assert [text for text in told if "left out" in text]
    assert {each["kind"] for each in run["chunks"]["passes"]} == {"subset"} and len(run["chunks"]["scenes"]) == 1
    strict = InputConfig((tmp_path / "photos",), strict=True)
    with pytest.raises(InputError, match="left out"):
        reconstruct(ReconstructConfig(strict, config.predict, output=str(tmp_path / "other"), long=config.long))
