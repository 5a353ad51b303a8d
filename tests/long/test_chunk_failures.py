"""A run in chunks that fails: what it says, which exit code it has, and what --resume finds."""

from __future__ import annotations

import json

import cv2
import pytest
from conftest import photo, photograph

from lite3r_cli.cli import main
from lite3r_cli.errors import MemoryLimitError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.predict import Predictor

COUNT = 10  # pictures: four chunks of four


def words(source, out, *more: str) -> list[str]:
    fixed = ["--chunk", "4", "--device", "cpu", "--dtype", "float32", "--resolution", "98", "--keep-unrelated"]
    return ["reconstruct", str(source), "-o", str(out / "scene.ply"), "--no-loops", *fixed, *more]


@pytest.fixture
def pictures(tmp_path):
    for k in range(COUNT):
        photograph(tmp_path / "photos" / f"frame{k:03d}.png", seed=k)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "2 finished chunks are kept"),
        (MemoryLimitError("out of memory: use a lower --resolution"), None, "or give a --chunk below 4"),
    ],
)
def test_a_chunk_that_fails_leaves_the_others_for_resume(
    tmp_path, pictures, plane_backbone, monkeypatch, capfd, error, code, line
):
    predict, made = Predictor.predict_pictures, []

    def some(self, *given, **more):
        if len(made) == 2:
            raise error
        made.append(1)
        return predict(self, *given, **more)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_pictures", some)
        assert main(words(pictures, out, "--resume")) == (code or MemoryLimitError.exit_code)
    told = capfd.readouterr().err
    assert line in told and "2 finished chunks are kept" in told and "Traceback" not in told
    assert [path.name for path in out.iterdir()] == [".scene.ply.lite3r-chunks"]
    assert main(words(pictures, out, "--resume")) == 0
    told = capfd.readouterr().err
    assert "2 chunks of a stopped run are there already" in told and "% of the path" in told
    run = json.loads((out / "scene" / "run.json").read_text())
    assert len(run["chunks"]["passes"]) == 4 and run["chunks"]["drift_estimate_percent"] >= 0
    assert sorted(path.name for path in out.iterdir()) == ["scene", "scene.ply"]


@pytest.mark.parametrize("loops", [False, True])
def test_images_of_a_whole_chunk_that_cannot_be_read_are_skipped(tmp_path, pictures, plane_backbone, capfd, loops):
    for k in range(4, 8):
        (pictures / f"frame{k:03d}.png").write_bytes((pictures / "frame000.png").read_bytes()[:60])
    asked = words(pictures, tmp_path / "out")
    assert main([word for word in asked if word != "--no-loops" or not loops]) == 0
    assert "skipped frame004.png, frame005.png, frame006.png, … (4 files): truncated" in capfd.readouterr().err
    assert len(read_cameras_json(tmp_path / "out" / "scene" / "cameras.json")) == 6


def test_a_video_that_ends_early_becomes_the_scene_of_what_it_has(tmp_path, plane_backbone, capfd):
    whole = tmp_path / "whole.avi"
    video = cv2.VideoWriter(str(whole), cv2.VideoWriter_fourcc(*"MJPG"), 30, (98, 70))
    for k in range(20):
        video.write(cv2.resize(cv2.imread(str(photo(tmp_path / "one.png", k))), (98, 70)))
    video.release()
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert main(words(tmp_path / "cut.avi", tmp_path / "out", "--frames", "all")) == 0
    assert "ends early" in capfd.readouterr().err
    views = read_cameras_json(tmp_path / "out" / "scene" / "cameras.json")
    assert 5 < len(views) < 15


SPOILT = {
    "asked.json": (lambda data: b"[]", "asked.json: damaged; run again without --resume"),
    "pass-00000/pass.json": (lambda data: b"{}", "pass-00000/pass.json: damaged; run again without --resume"),
    "pass-00001/maps": (lambda data: b"", "pass-00001/maps: missing or damaged; run again without --resume"),
    "pass-00000/maps": (lambda data: data[:-1], "pass-00000/maps: missing or damaged; run again without --resume"),
}


def test_resume_checks_every_kept_file_and_its_options_before_anything_slow(
    tmp_path, pictures, plane_backbone, monkeypatch, capfd
):
    predict, made = Predictor.predict_pictures, []

    def some(self, *given, **more):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return predict(self, *given, **more)

    out, picture = tmp_path / "out", pictures / "frame004.bmp"
    pixels = cv2.imread(str(picture.with_suffix(".png")))
    picture.with_suffix(".png").unlink()
    cv2.imwrite(str(picture), pixels)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_pictures", some)
        assert main(words(pictures, out, "--resume")) == 130
    chunks = out / ".scene.ply.lite3r-chunks"

    def slow(*given, **more):
        raise AssertionError("the chunks were not checked first")

    with monkeypatch.context() as patch:
        patch.setattr("lite3r_cli.pipelines.reconstruct_scene.find_images", slow)
        for name, (spoil, said) in SPOILT.items():
            whole = (chunks / name).read_bytes()
            (chunks / name).write_bytes(spoil(whole))
            capfd.readouterr()
            assert main(words(pictures, out, "--resume")) == 3
            told = capfd.readouterr().err
            assert said in told and "without --resume" in told
            (chunks / name).write_bytes(whole)
        assert main(words(pictures, out, "--resume", "--seed", "5")) == 2
        assert "--seed" in capfd.readouterr().err
    cv2.imwrite(str(picture), 255 - pixels)  # another picture of the same size, in pixels and in bytes
    assert main(words(pictures, out, "--resume")) == 2
    assert "had the content of the images" in capfd.readouterr().err
    cv2.imwrite(str(picture), pixels)
    assert main(words(pictures, out, "--resume")) == 0
