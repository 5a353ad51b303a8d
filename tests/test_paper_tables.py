"""`benchmarks/paper_tables.py` on tiny ray-cast sets in the layouts of BlendedMVS and DTU."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.networks import standin
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.scene import geometry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import paper_report
import paper_tables
import raycast_sets

TINY = VGGTConfig(
    dim=64, pairs=4, heads=1, encoder_depth=1, encoder_heads=1, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, position_grid=3,
)  # fmt: skip


MEASURED = paper_tables._scores


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    raycast_sets.make(folder, 2, (3, 77, 102), seed=3, samples=1, atlas=build_atlas(variants=1))
    return folder


@pytest.fixture(scope="module")
def vggt(tmp_path_factory):
    """Stand-in weights in the place of VGGT-1B's."""
    model = VGGT(TINY)
    standin.fill(model, 7)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    metadata = {"model": "vggt", "config": json.dumps(dataclasses.asdict(TINY))}
    save_file({name: value.clone() for name, value in model.state_dict().items()}, path, metadata=metadata)
    return path


@pytest.fixture
def run(tmp_path, sets, monkeypatch):
    """run("--model", "mini") → exit status and report, on 56×56 pixels of both sets."""

    def call(*options, data=sets, output=tmp_path / "report.json"):
        words = ["--blendedmvs", data / "blendedmvs", "--dtu", data / "dtu", "--size", 56, "-o", output, *options]
        monkeypatch.setattr(sys, "argv", ["paper_tables.py", *map(str, words)])
        status = paper_tables.main()
        return status, json.loads(output.read_text())

    return call


class Oracle:
    """Predicts the truth of the set that was read last, in another world and unit."""

    truth: list = []

    def predict(self, images, strict):
        scale = 0.2
        turn = cv2.Rodrigues(np.array([0.1, 0.7, -0.2]))[0]
        world = geometry.Similarity(scale, turn, np.array([3.0, 1, 2]))
        self.views = [
            dataclasses.replace(
                view,
                cam_from_world=world.apply_to_poses(view.cam_from_world),
                depth=np.full((56, 56), 1, np.float32) if view.depth is None else scale * np.maximum(view.depth, 0.1),
            )
            for view in self.truth
        ]
        return self


def test_all_forms_of_a_network_with_stand_in_weights(run, vggt, capsys):
    status, report = run("--model", f"vggt-1b={vggt}", "--repeats", 1, "--keep-ratio", 0.5)
    assert status == 0
    rows = {row["form"]: row for row in report["rows"]}
    assert list(rows) == list(paper_report.FORMS)
    assert {form: (row["choices"]["attention"], row["choices"]["fp8"]) for form, row in rows.items()} == {
        "dense": ("dense", "off"), "sparse": ("sla", "off"), "fp8": ("dense", "emulate"), "both": ("sla", "emulate"),
    }  # fmt: skip
    for row in rows.values():
        assert {data: len(found) for data, found in row["data"].items()} == {"blendedmvs": 2, "dtu": 2}
        assert row["time"]["ms"] > 0 and row["time"]["mb"] > 0
        assert all("absrel" in scores for scores in row["data"]["blendedmvs"].values())
        assert all("absrel" not in scores for scores in row["data"]["dtu"].values())  # DTU has no depth
    printed = capsys.readouterr().out
    assert "(published 0.0184)" in printed and "(published 5,706)" in printed
    assert [text for text in report["missing"] if "da3-large" in text]


def test_the_truth_is_perfect(run, monkeypatch):
    """The middle square, its cameras and its depth belong together, in each layout."""
    cut = paper_tables._truth_and_pictures

    def watched(*given):
        Oracle.truth = cut(*given)[0]
        return Oracle.truth, cut(*given)[1]

    monkeypatch.setattr(paper_tables, "_truth_and_pictures", watched)
    monkeypatch.setattr(paper_tables, "_scores", lambda predictor, *given: MEASURED(Oracle(), *given))
    _, report = run("--model", "mini", "--forms", "dense", "--repeats", 0)
    for found in report["rows"][0]["data"].values():
        for measures in found.values():
            assert measures["auc5"] == 1 and measures["rotation_deg"] < 1e-3
    for measures in report["rows"][0]["data"]["blendedmvs"].values():
        assert measures["absrel"] < 1e-5 and measures["delta1"] == 1
        assert measures["accuracy_pct"] < 1e-3 and measures["completeness_pct"] < 1e-3


def test_a_stopped_run_goes_on_where_it_was(run, tmp_path, monkeypatch):
    options = ("--model", "mini", "--forms", "dense", "fp8", "--repeats", 0)
    _, whole = run(*options)
    path = tmp_path / "report.json"
    report = json.loads(path.read_text())
    gone = report["rows"][1]["data"]["dtu"]
    gone.pop(next(iter(gone)))
    path.write_text(json.dumps(report))
    measured = []

    def counted(*given):
        measured.append(given[1].name)
        return MEASURED(*given)

    monkeypatch.setattr(paper_tables, "_scores", counted)
    _, again = run(*options)
    assert measured == ["scan1"]
    assert paper_report.markdown(again) == paper_report.markdown(whole)
    status, _ = run(*options, "--pairs", "overlapping")
    assert status == 3  # figures of two settings do not stand in one table


def test_what_is_not_there_is_said_and_the_rest_is_measured(run, sets, tmp_path):
    data = tmp_path / "damaged"
    shutil.copytree(sets, data)
    for picture in (data / "blendedmvs" / "scene000" / "blended_images").iterdir():
        picture.write_bytes(picture.read_bytes()[:100])
    status, report = run(
        "--model", "mini", "--model", "vggt-1b=nowhere.pt", "--forms", "dense", "--repeats", 0, data=data
    )
    assert status == 0
    missing = "\n".join(report["missing"])
    assert "scene000" in missing and "nowhere.pt" in missing
    found = report["rows"][0]["data"]["blendedmvs"]
    assert [key.split(":")[0] for key in found] == ["scene001"]
