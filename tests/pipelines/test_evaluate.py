"""`evaluate` with predictors that stand in for the network: the truth itself, distorted in known ways."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.config import EvaluateConfig
from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import Scores, evaluate, mean_scores, windows
from lite3r_cli.scene import geometry

WIDTH, HEIGHT = 47, 33
K = np.array([[40.0, 0, 23], [0, 41.0, 17], [0, 0, 1]])


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def write_scene(folder: Path, count: int = 5, depth: bool = True) -> Path:
    """Cameras on an arc before a wavy wall; images 1, 2, …, 10 in an order that only natural sorting restores."""
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    rng = np.random.default_rng(0)
    images = {}
    for i in range(count):
        name = f"{i + 1}.png"
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        rotation = turned(4 * i)
        pose = np.c_[rotation, -rotation @ [0.3 * i, 0.1 * (i % 2), 0.05 * i]]
        images[name] = {"K": K.tolist(), "cam_from_world": pose.tolist(), "width": WIDTH, "height": HEIGHT}
        if depth:
            z = 3 + 0.5 * np.sin(0.3 * np.arange(WIDTH) + i) + 0.02 * np.arange(HEIGHT)[:, None]
            z[:4, :5] = 0
            cv2.imwrite(str(folder / "depth" / f"{i + 1}.png"), np.rint(1000 * z).astype(np.uint16))
            images[name]["depth"] = f"depth/{i + 1}.png"
    document = {"depth_scale": 1000, "images": dict(sorted(images.items()))}
    (folder / "cameras.json").write_text(json.dumps(document))
    return folder


def oracle(change=lambda view, k: view):
    """A predictor that knows the truth and changes view k of each window; it records the windows it was asked for."""
    asked = []

    def predict(images, indices):
        records = [images.records[i] for i in indices]
        asked.append([record.name for record in records])
        truth = {view.name: view for view in read_cameras_json(records[0].path.parent.parent)}
        return [change(truth[record.name], k) for k, record in enumerate(records)]

    predict.asked = asked
    return predict


def score(folder: Path, change=lambda view, k: view, views: int = 4) -> Scores:
    return evaluate(EvaluateConfig((folder,), views=views), predict=oracle(change)).mean


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (8, 4, [(0, 4), (2, 6), (4, 8)]),
        (11, 4, [(0, 4), (2, 6), (4, 8), (6, 10), (7, 11)]),
        (5, 3, [(0, 3), (1, 4), (2, 5)]),
        (3, 4, [(0, 3)]),
        (4, 4, [(0, 4)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows(count, size, expected):
    assert [(w.start, w.stop) for w in windows(count, size)] == expected


def test_images_come_in_natural_order(tmp_path):
    predict = oracle()
    evaluate(EvaluateConfig((write_scene(tmp_path / "s", count=11),), views=6), predict=predict)
    assert predict.asked[0] == [f"{i}.png" for i in range(1, 7)]
    assert predict.asked[-1] == [f"{i}.png" for i in range(6, 12)]


def test_the_truth_in_another_world_and_unit_is_perfect(tmp_path):
    similarity = geometry.Similarity(0.13, turned(60), np.array([1.0, 20, -3]))

    def elsewhere(view, k):
        pose = similarity.apply_to_poses(view.cam_from_world)
        return replace(view, cam_from_world=pose, depth=view.depth * np.float32(0.13))

    scores = score(write_scene(tmp_path / "s"), elsewhere)
    assert (scores.auc5, scores.auc15, scores.auc30, scores.delta1) == (1, 1, 1, 1)
    assert max(scores.rotation_deg, scores.translation_deg, scores.focal_pct) < 1e-4
    assert max(scores.absrel, scores.chamfer_pct) < 1e-4


def test_a_mirrored_path_is_180_degrees_off(tmp_path):
    def mirrored(view, k):
        return replace(view, cam_from_world=view.cam_from_world * [1, 1, 1, -1])

    scores = score(write_scene(tmp_path / "s", depth=False), mirrored)
    assert scores.translation_deg == pytest.approx(180) and scores.auc30 == 0
    assert scores.rotation_deg == pytest.approx(0, abs=1e-6)


def test_known_errors_give_known_scores(tmp_path):
    """The second of two views is turned by 2.5° in place: below 3, 4 and 5; depth and focal length are off by 10 %."""

    def worse(view, k):
        turn = np.c_[turned(2.5), np.zeros(3)] if k else np.eye(3, 4)
        pose = geometry.compose(turn, view.cam_from_world)
        depth = view.depth * np.where(np.arange(WIDTH) % 3 == 0, 1.1, 1).astype(np.float32)
        return replace(view, K=view.K * [[1.1], [1.1], [1]], cam_from_world=pose, depth=depth)

    scores = score(write_scene(tmp_path / "s", count=2), worse, views=2)
    assert scores.rotation_deg == pytest.approx(2.5, abs=1e-6)
    assert scores.translation_deg == pytest.approx(0, abs=1e-6)  # the camera stays where it is, seen from the first
    assert scores.auc5 == pytest.approx(3 / 5) and scores.auc30 == pytest.approx(28 / 30)
    assert scores.focal_pct == pytest.approx(10)
    assert scores.absrel == pytest.approx(0.1 / 3, rel=0.05) and scores.delta1 == 1
    assert 0.1 < scores.chamfer_pct < 20


def test_predicted_maps_of_another_size_are_resampled(tmp_path):
    def halved(view, k):
        known = np.where(view.depth > 0, view.depth, 3).astype(np.float32)
        return replace(view, depth=cv2.resize(known, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA))

    scores = score(write_scene(tmp_path / "s"), halved)
    assert scores.absrel < 0.01 and scores.delta1 == 1 and scores.chamfer_pct < 1


def test_without_depth_there_are_no_depth_scores(tmp_path):
    scores = score(write_scene(tmp_path / "s", depth=False))
    assert (scores.absrel, scores.delta1, scores.chamfer_pct) == (None, None, None)
    assert scores.auc5 == 1
    alone = score(write_scene(tmp_path / "one", count=1))
    assert (alone.auc5, alone.rotation_deg, alone.translation_deg) == (None, None, None)
    assert alone.absrel == pytest.approx(0, abs=1e-6)


def test_means_leave_out_what_a_scene_lacks():
    mean = mean_scores([Scores(auc5=0.2, absrel=0.1), Scores(auc5=0.6)])
    assert mean.auc5 == pytest.approx(0.4) and mean.absrel == 0.1 and mean.delta1 is None


def test_scenes_of_one_name_are_told_apart(tmp_path):
    folders = (write_scene(tmp_path / "a" / "s"), write_scene(tmp_path / "b" / "s"), write_scene(tmp_path / "t"))
    result = evaluate(EvaluateConfig(folders), predict=oracle())
    assert list(result.scenes) == [str(folders[0]), str(folders[1]), "t"]
    with pytest.raises(UsageError, match="twice"):
        evaluate(EvaluateConfig((folders[0], folders[0])), predict=oracle())


def break_nothing_there(folder):
    (folder / "cameras.json").unlink()


def break_image_gone(folder):
    (folder / "images" / "2.png").unlink()


def break_image_of_another_size(folder):
    cv2.imwrite(str(folder / "images" / "2.png"), np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8))


def break_depth_gone(folder):
    (folder / "depth" / "2.png").unlink()


def break_json(folder):
    (folder / "cameras.json").write_text('{"images": {"2.png": {"K": [1, 2]}}}')


def changed(change):
    def damage(folder):
        document = json.loads((folder / "cameras.json").read_text())
        change(document["images"])
        (folder / "cameras.json").write_text(json.dumps(document))

    return damage


def outside(name):
    return changed(lambda images: images.update({name: images.pop("2.png")}))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (outside("../images/2.png"), "outside"),
        (outside("/tmp/2.png"), "outside"),
        (changed(lambda images: images["2.png"]["K"][0].__setitem__(0, 5e-324)), "focal"),
        (changed(lambda images: images["2.png"].update(depth_scale=1e-40)), "depth_scale"),
        (break_nothing_there, "cameras.json"),
        (break_image_gone, "2.png"),
        (break_image_of_another_size, "2.png"),
        (break_depth_gone, "2.png"),
        (break_json, "cameras.json"),
    ],
)
def test_a_damaged_scene_is_named(tmp_path, damage, named):
    folder = write_scene(tmp_path / "s")
    damage(folder)
    with pytest.raises(InputError, match=named) as caught:
        evaluate(EvaluateConfig((folder,)), predict=oracle())
    assert "\n" not in str(caught.value)


def test_the_command_prints_one_json_document(tmp_path, plane_backbone, capsys):
    from lite3r_cli.cli import main

    folder = write_scene(tmp_path / "s", count=3)
    assert main(["eval", str(folder), "--resolution", "56", "--device", "cpu", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == ["scenes", "mean", "runtime"] and list(document["scenes"]) == ["s"]
    assert list(document["mean"]) == [field.name for field in fields(Scores)]
    assert document["mean"] == document["scenes"]["s"]
    focal = np.sqrt(56 * WIDTH / 56 * 56 * HEIGHT / 42)  # the network saw 56 × 42 pixels and answered 56
    assert document["mean"]["focal_pct"] == pytest.approx(100 * (focal / 40 - 1 + focal / 41 - 1) / 2)
    assert main(["eval", str(folder), "--resolution", "56", "--device", "cpu"]) == 0
    assert "AUC@30" in capsys.readouterr().out
    assert main(["eval", str(tmp_path), "--device", "cpu"]) == 3
    assert main(["eval", str(tmp_path / "nowhere"), "--device", "cpu"]) == 2
    assert main(["eval", str(folder), "--views", "0"]) == 2
