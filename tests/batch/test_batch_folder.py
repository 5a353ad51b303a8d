"""What lies in the output folder of a batch: links and locks of others, scenes that were made with other options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import photograph

from lite3r_cli.batch import claims as recorded
from lite3r_cli.batch import work
from lite3r_cli.batch.claims import Claims
from lite3r_cli.batch.job import THERE
from lite3r_cli.batch.manifest import find_scenes
from lite3r_cli.batch.older_options import older_options, told
from lite3r_cli.batch.past import Past
from lite3r_cli.cli import main
from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
from lite3r_cli.errors import OutputError
from lite3r_cli.io.locks import acquire, give_back

SMALL = ["--resolution", "112", "--device", "cpu", "--keep-unrelated"]


@pytest.fixture
def root(tmp_path) -> Path:
    """Scenes s0, s1, s2 of one photo each."""
    for scene in range(3):
        photograph(tmp_path / "root" / f"s{scene}" / "a.jpg", seed=scene)
    return tmp_path / "root"


def test_complete_scenes_of_other_options_are_named(root, tmp_path):
    """s0 equals what is asked for now as far as it is known, s1 does not, s2 has a damaged run.json."""
    out = tmp_path / "out"
    options = {"device": "cuda", "refine": False, "gone": 1}
    for scene, resolution in (("s0", 112), ("s1", 56), ("s2", 56)):
        (out / scene).mkdir(parents=True)
        document = json.dumps({"arguments": {"predict": options | {"resolution": resolution}, "formats": []}})
        (out / scene / "run.json").write_text(document[: 20 if scene == "s2" else None])
    config = ReconstructConfig(InputConfig((root,)), PredictConfig(resolution=112), output=str(out))
    past, scenes = Past(config, 0.0), find_scenes([root], out)
    found = older_options(past, scenes, [past.outcome(scene, THERE, {}) for scene in scenes])
    assert found == {"s1": ["predict.resolution = 56, not 112"]}
    assert "s1: complete already" in told(found) and "--overwrite" in told(found)


def test_no_link_in_place_of_a_scene_is_followed(root, tmp_path):
    """Another user may have put it there: to a folder, to nothing, to a complete scene, above a nested scene."""
    out, home = tmp_path / "out", tmp_path / "home"
    left = home / "leftover/.run.json.lite3r-0123456789ab"
    left.mkdir(parents=True, mode=0o700)
    (left / "made-by-lite3r").write_text("as of a stopped run")
    (home / "scene").mkdir()
    (home / "scene/run.json").write_text(json.dumps({"files": {"run.json": {}}}))
    root.joinpath("s0").rename(root / "s0-")
    (root / "s0").mkdir()
    (root / "s0-").rename(root / "s0/nested")
    (root / "s3").mkdir()
    photograph(root / "s3/a.jpg", seed=1)
    before = sorted(home.rglob("*"))
    out.mkdir()
    for name, place in (("s0", "leftover"), ("s1", "leftover"), ("s2", "nothing"), ("s3", "scene")):
        (out / name).symlink_to(home / place)
    assert main(["batch", str(root), "-o", str(out), *SMALL, "-q"]) == 3
    scenes = json.loads((out / "batch.json").read_text())["scenes"]
    assert [(s["name"], s["status"], s["exit_code"]) for s in scenes] == [
        (name, "failed", 7) for name in ("s0/nested", "s1", "s2", "s3")
    ]
    assert all("it is a link" in s["reason"] and str(out / s["name"][:2]) in s["reason"] for s in scenes)
    assert sorted(home.rglob("*")) == before


def test_a_scene_of_any_name_has_a_record(plane_backbone, root, tmp_path):
    """A name that fits into no name of a record, one whose record is in the place of another scene's folder."""
    out = tmp_path / "out"
    (root / "s1").rename(root / ("m" * 255))
    (root / "s2").rename(root / "x")
    (root / "s0.json").mkdir()
    (root / "x").rename(root / "s0.json/x")
    assert main(["batch", str(root), "-o", str(out), *SMALL, "-q"]) == 0
    scenes = json.loads((out / "batch.json").read_text())["scenes"]
    assert sorted(scene["name"] for scene in scenes) == ["m" * 255, "s0", "s0.json/x"]
    for scene in scenes:
        record = Claims(out).record(scene["name"])
        assert scene["status"] == "done" and record is not None and record.facts["views"] == 1
    assert len(list((out / ".batch").iterdir())) == 3  # the records; no lock or temporary file stays


def test_what_is_in_the_place_of_the_report_is_seen_before_the_work(root, tmp_path, capsys):
    (tmp_path / "out/batch.json").mkdir(parents=True)
    assert main(["batch", str(root), "-o", str(tmp_path / "out"), *SMALL, "-q"]) == 7
    assert "batch.json: is in the way" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["batch.json"]


def test_no_wait_is_endless(tmp_path, monkeypatch):
    """For a folder that takes no files, as one that was removed while it was the current one, and for a lock that
    another user holds.
    """

    def gone(path: Path) -> int:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(recorded, "acquire", gone)
    with pytest.raises(OutputError, match="takes no new files"):
        Claims(tmp_path / "out").take("a")
    held = acquire(tmp_path / ".batch.json.lock")
    monkeypatch.setattr(work, "LONGEST_WAIT", 0.2)
    try:
        with pytest.raises(OutputError, match="another run is writing here"):
            work._write(tmp_path / "batch.json", {})
    finally:
        give_back(held, tmp_path / ".batch.json.lock")


WRONG = {  # options that no scene can be made with, and the code of reconstruct
    "--gcp nope.txt": 2, "--gcp empty.txt": 3, "--masks nope": 2, "--intrinsics nope.json": 2, "-m nope.safetensors": 4,
    "--focal x": 2, "--device cuda:9": 5,
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_an_error_of_all_scenes_ends_the_batch_at_once_and_leaves_nothing(root, tmp_path, monkeypatch, capsys, words):
    def slow(*given, **more):
        raise AssertionError("a prediction was made first")

    monkeypatch.setattr("lite3r_cli.pipelines.predict.Predictor.predict", slow)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    for command in ("batch root -o x/y/out", "reconstruct root/s0 -o x/y/out.ply"):
        assert main([*command.split(), *SMALL, *words.split(), "-q"]) == WRONG[words]
        said = capsys.readouterr().err
        assert words.split()[1] in said and len(said.splitlines()) == 1 and "bug" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "root"]


def test_what_a_killed_process_left_while_it_asked_for_the_time_goes(plane_backbone, root, tmp_path):
    left = tmp_path / "out/.batch/.clock-0123456789ab"
    left.parent.mkdir(parents=True)
    left.touch()
    assert main(["batch", str(root), "-o", str(tmp_path / "out"), *SMALL, "-q"]) == 0
    assert sorted(path.name for path in left.parent.iterdir()) == ["s0.json", "s1.json", "s2.json"]
