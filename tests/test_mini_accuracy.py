"""The sets and scores of `benchmarks/mini_accuracy.py`, on sample scenes and with a network that answers from the
truth.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lite3r_cli.config import EvaluateConfig
from lite3r_cli.networks.base import Prediction
from lite3r_cli.pipelines.evaluate_scenes import Scores, evaluate
from lite3r_cli.scene.geometry import scale_intrinsics

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import mini_accuracy
import mini_sets

FOLDERS = [Path(__file__).resolve().parents[1] / "sample_scenes" / name for name in ("desk", "facade")]


class Oracle:
    """A network that knows the pictures of some scenes: their cameras, each turned by `turned` degrees times its number
    in the scene, and a flat depth. Other pictures get a camera that belongs nowhere.
    """

    def __init__(self, scenes, turned=0.0):
        pairs = [(scene.inputs[i], i, view) for scene in scenes for i, view in enumerate(scene.truth)]
        self.known = {item.rgb.tobytes(): (turned * i, view) for item, i, view in pairs}
        self.network, self.asked = self, []

    def answer(self, rgbs, unseen, cameras=None):
        self.asked.append((rgbs, cameras))
        poses, K = [], []
        for rgb in rgbs:
            degrees, view = self.known.get(rgb.tobytes(), (123.0, next(iter(self.known.values()))[1]))
            cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
            poses.append(np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ view.cam_from_world)
            K.append(scale_intrinsics(view.K, rgb.shape[1] / view.width, rgb.shape[0] / view.height))
        maps = [torch.ones(rgb.shape[:2]) for rgb in rgbs]
        return Prediction(maps, maps, *(torch.from_numpy(np.stack(x)).float() for x in (poses, K)))


@pytest.fixture(scope="module")
def scenes():
    return [mini_sets.read_scene(folder) for folder in FOLDERS]


def scores_of(cases, oracle):
    with ThreadPoolExecutor(2) as pool:
        return mini_accuracy.scored(cases, partial(mini_accuracy.predict_case, oracle), pool)


def test_scores_are_those_of_eval(scenes):
    oracle = Oracle(scenes, turned=3.0)
    found = scores_of(mini_sets.at_a_time(scenes, 4), oracle)

    def predict(images, indices):
        scene = next(s for s in scenes if images.records[0].path.parts[-3] == s.name)
        return mini_accuracy.predict_case(oracle, mini_sets.Case(scene, tuple(indices), ()))

    expected = evaluate(EvaluateConfig(tuple(FOLDERS), views=4), predict=predict).scenes
    for name, scores in found.items():
        wanted = dataclasses.replace(expected[name], chamfer_pct=None)  # clouds are not compared
        assert 0.1 < scores.auc30 < 0.9
        assert vars(scores) == pytest.approx(vars(wanted))


def test_one_prediction_is_scored_on_the_pairs_of_the_small_ones(scenes):
    oracle = Oracle(scenes, turned=3.0)
    apart, together = (scores_of(cut(scenes, 4), oracle) for cut in (mini_sets.at_a_time, mini_sets.all_at_once))
    assert [len(rgbs) for rgbs, _ in oracle.asked] == [4] * 8 + [10, 10]
    for name, scores in together.items():
        assert scores.auc30 == pytest.approx(apart[name].auc30)


def test_a_stranger_is_shown_and_not_scored(scenes):
    oracle = Oracle(scenes[:1])
    alone, beside = mini_sets.with_stranger(scenes)
    found = [scores_of(cases[:1], oracle)["desk"] for cases in (alone, beside)]
    assert [scores.auc5 for scores in found] == [1, 1]  # any shift of places would be seen
    assert [len(rgbs) for rgbs, _ in oracle.asked] == [7, 8]
    pictures = [item.rgb.tobytes() for item in scenes[1].inputs]
    assert [rgb.tobytes() in pictures for rgb in oracle.asked[1][0]].index(True) > 0


def test_told_focal_lengths_are_those_of_the_network_s_pictures(scenes):
    case = mini_sets.told_focal(mini_sets.at_a_time(scenes[:1], 4))[0]
    scores_of([case], oracle := Oracle(scenes))
    told = oracle.asked[0][1]
    height, width = case.inputs()[0].rgb.shape[:2]
    assert told.K[0, 0, 0].item() == pytest.approx(543.69 * width / 512, abs=0.01)
    assert told.K[0, 1, 1].item() == pytest.approx(543.69 * height / 384, abs=0.01)
    assert told.cam_from_world.isnan().all()


def test_differences_are_paired_by_scene():
    base = {str(i): Scores(auc30=i / 10, absrel=0.1 if i else None) for i in range(9)}
    better = {name: Scores(auc30=row.auc30 + 0.02, absrel=row.absrel) for name, row in base.items()}
    assert mini_accuracy.difference(better, base, "auc30") == pytest.approx((0.02, 0.02, 0.02))
    low, high = mini_accuracy.difference(better, None, "auc30")[1:]
    assert low < 0.35 < 0.5 < high
    assert mini_accuracy.difference(better, None, "absrel") == pytest.approx((0.1, 0.1, 0.1))
    assert mini_accuracy.difference(better, base, "focal_pct") is None
    lines = mini_accuracy.lines_of("b", "a", {"x": {"a": base, "b": base}, "y": {"a": base, "b": better}})
    assert [(line.model, line.kind) for line in lines] == [
        ("x", "mean"), ("x", "against"), ("y", "mean"), ("y", "difference"), ("y", "against")
    ]  # fmt: skip


def test_kept_scores_are_joined(tmp_path, monkeypatch, capsys):
    """As when several processes measure one model each."""
    files = []
    for model, shift in (("mini", 0.0), ("new", 0.125)):
        measured = mini_accuracy.Measured(model, {"sha256": model * 8})
        for name, against in (("7 views", ""), ("7 views and an unrelated one", "7 views")):
            rows = {f"scene {i}": Scores(auc30=i / 8 + shift, focal_pct=2.0) for i in range(5)}
            measured.add(mini_sets.Set(name, [], against), rows)
        files.append(tmp_path / f"{model}.json")
        files[-1].write_text(json.dumps(vars(measured)))
    words = ["--join", *files, "--json", tmp_path / "joined.json"]
    monkeypatch.setattr(sys, "argv", ["mini_accuracy.py", *map(str, words)])
    mini_accuracy.main()
    told = json.loads((tmp_path / "joined.json").read_text())["models"]["new"]["sets"]
    assert told["7 views"]["difference"]["auc30"] == pytest.approx([0.125] * 3)
    assert told["7 views and an unrelated one"]["against"]["auc30"] == [0, 0, 0]
    assert "| new − mini | – | +0.125 [+0.125, +0.125] * | +0.00 [+0.00, +0.00] | – |" in capsys.readouterr().out
