"""A set in chunks, from pictures to files: with a network that knows its answer, and with mini."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import PLANE_DEPTH, STEP, photograph

from lite3r_cli.cli import main
from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig, WorldConfig
from lite3r_cli.config.sequence import LongConfig
from lite3r_cli.errors import OutputError, UsageError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.long.chunk_plan import coarse_passes, owners, plan_chunks
from lite3r_cli.long.loop_search import Candidate
from lite3r_cli.long.work_folder import WorkFolder
from lite3r_cli.pipelines import long_loops, long_run, predict, scene_formats
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.pipelines.reconstruct_scene import reconstruct
from lite3r_cli.scene import geometry


@pytest.mark.parametrize(("count", "size"), [(10, 4), (11, 4), (4, 4), (200, 60), (201, 60), (7, 3), (1000, 24)])
def test_chunks_cover_all_views_and_share_enough(count, size):
    plan = plan_chunks(count, size, "test")
    chunks = [c.views for c in plan.chunks]
    assert chunks[0][0] == 0 and chunks[-1][-1] == count - 1
    assert {len(c) for c in chunks} == {min(size, count)}
    assert all(len(set(a) & set(b)) >= plan.overlap for a, b in pairwise(chunks))
    owner = owners(plan.chunks, count)
    assert all(view in chunks[k] for view, k in enumerate(owner)) and owner == sorted(owner)
    for coarse in coarse_passes(plan):
        assert len(coarse.views) <= size and len({k for k, c in enumerate(chunks) if set(c) & set(coarse.views)}) > 2


def folder_of(place: Path, count: int) -> Path:
    place.mkdir()
    for k in range(count):
        photograph(place / f"frame{k:03d}.png", seed=k)
    return place


def asked(pictures: Path, output: Path, chunk: str = "4", **more) -> ReconstructConfig:
    long = LongConfig(chunk, resume=more.pop("resume", False))
    predict = PredictConfig(device="cpu", dtype="float32", resolution=98, **more)
    return ReconstructConfig(InputConfig((pictures,)), predict, output=str(output), long=long)


def files_of(folder: Path) -> dict[str, bytes]:
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.endswith("run.json")}


def test_chunks_of_a_known_scene_fit_together(tmp_path, plane_backbone):
    pictures = folder_of(tmp_path / "photos", 11)
    report = reconstruct(asked(pictures, tmp_path / "out" / "scene.ply"))
    assert report.views == 11 and report.points > 0
    views = read_cameras_json(tmp_path / "out" / "scene" / "cameras.json")
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    assert np.allclose(centres, np.outer(np.arange(11) * STEP, [1, 0, 0]), atol=2e-3)
    assert all(np.allclose(view.depth, PLANE_DEPTH, rtol=2e-3) for view in views)
    run = json.loads((tmp_path / "out" / "scene" / "run.json").read_text())
    edges = run["chunks"]["scenes"][0]["edges"]
    assert len(edges) == len(run["chunks"]["passes"]) - 1 and {e["verdict"] for e in edges} == {"good"}
    assert not list((tmp_path / "out").glob(".scene.ply.*"))


class Killed(BaseException):
    """What stops a run in these tests."""


def stop_after(monkeypatch, passes: int, error: BaseException) -> None:
    predict, made = Predictor.predict_pictures, []

    def some(self, *given, **more):
        if len(made) == passes:
            raise error
        made.append(1)
        return predict(self, *given, **more)

    monkeypatch.setattr(Predictor, "predict_pictures", some)


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(tmp_path, plane_backbone, monkeypatch):
    pictures = folder_of(tmp_path / "photos", 10)
    (tmp_path / "whole").mkdir()
    reconstruct(asked(pictures, tmp_path / "whole" / "scene.ply"))
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 2, Killed())
        reconstruct(asked(pictures, out / "scene.ply", resume=True))
    left = [p.name for p in out.iterdir()]
    assert left == [".scene.ply.lite3r-chunks"]
    with pytest.raises(UsageError, match="--seed 0, this one has 5"):
        reconstruct(asked(pictures, out / "scene.ply", resume=True, seed=5))
    stop_after(monkeypatch, 2, Killed())  # 4 chunks: two are there
    reconstruct(asked(pictures, out / "scene.ply", resume=True))
    assert files_of(out) == files_of(tmp_path / "whole")
    told, expected = (
        json.loads((folder / "scene/run.json").read_text()) for folder in (out, tmp_path / "whole")
    )  # of chunks that another process has predicted, too
    assert (told["attention"], told["runtime"]) == (expected["attention"], expected["runtime"])


def test_loops_leave_no_whole_maps_on_disk_and_a_resumed_run_refuses_the_same(tmp_path, plane_backbone, monkeypatch):
    pictures = folder_of(tmp_path / "photos", 10)
    real, asked_for, kept = long_loops.judge, [], []
    monkeypatch.setattr(long_loops, "find_candidates", lambda *given: [Candidate(1, 8, -30.0), Candidate(0, 9, -20.0)])

    def judge(found, candidate, device):
        asked_for.append(candidate)
        return real(found, candidate, device) if candidate.first == 1 else (0.4, 0.6)

    def leave(folder: WorkFolder) -> None:
        kept.append([folder.store.whole(k) for k in range(5)])
        done(folder)

    done = WorkFolder.done
    monkeypatch.setattr(long_loops, "judge", judge)
    monkeypatch.setattr(WorkFolder, "done", leave)
    reconstruct(asked(pictures, tmp_path / "whole" / "scene.ply", "6"))
    assert kept == [[[0, 1, 2, 3], [4, 5], [6, 7, 8, 9], [], []]]  # each view in the chunk in whose interior it lies
    told = json.loads((tmp_path / "whole" / "scene" / "run.json").read_text())["chunks"]
    assert [loop["verdict"] for loop in told["loops"]] == ["loop", "refused"]
    assert {edge["passes"][1] for edge in told["scenes"][0]["edges"]} == {1, 2, 3}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(long_run, "stand_passes", lambda *given: (_ for _ in ()).throw(Killed()))
        reconstruct(asked(pictures, tmp_path / "stopped" / "scene.ply", "6", resume=True))
    asked_for.clear()
    reconstruct(asked(pictures, tmp_path / "stopped" / "scene.ply", "6", resume=True))
    assert not asked_for and files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    again = json.loads((tmp_path / "stopped" / "scene" / "run.json").read_text())["chunks"]
    assert again["loops"] == told["loops"] and again["drift_estimate_percent"] == told["drift_estimate_percent"]


def test_pictures_that_two_chunks_share_are_prepared_once(tmp_path, plane_backbone, monkeypatch):
    pictures = folder_of(tmp_path / "photos", 10)
    (pictures / "frame004.png").write_bytes((pictures / "frame000.png").read_bytes()[:60])
    prepare, prepared = predict.fit, []
    monkeypatch.setattr(predict, "fit", lambda rgb, *how: prepared.append(1) or prepare(rgb, *how))
    config = replace(asked(pictures, tmp_path / "out" / "scene.ply"), world=WorldConfig(up="none"))
    report = reconstruct(replace(config, long=replace(config.long, loops=False)))
    assert report.views == len(prepared) == 9 and len(report.skipped) == 1


def test_refinement_goes_chunk_by_chunk_from_the_cameras_of_the_graph(tmp_path, plane_backbone, monkeypatch):
    """What it does to a chunk is tested in tests/refine: here nothing moves."""
    pytest.importorskip("pycolmap")
    pictures, starts = folder_of(tmp_path / "photos", 10), []

    def refine(self, images, found, progress=None, camera_model=None):
        starts.append(dict(zip(found.indices, found.views)))
        if len(starts) == stop:
            raise Killed
        verdicts = [{"cameras": "kept" if i == 5 else "refined", "reason": ""} for i in found.indices]
        return replace(found, verdicts=verdicts)

    monkeypatch.setattr(Predictor, "refine", refine)
    stop = 0
    config = replace(asked(pictures, tmp_path / "whole" / "scene.ply", refine=True), formats=("tum",))
    told: list[str] = []
    reconstruct(config, warn=told.append)
    assert [sorted(s) for s in starts] == [list(range(s, s + 4)) for s in (0, 2, 4, 6)]
    for views in starts:  # in one world, whatever chunk they come from
        for i, view in views.items():
            assert np.allclose(geometry.camera_centres(view.cam_from_world[None]), [[STEP * i, 0, 0]], atol=1e-3)
            assert np.allclose(view.depth, PLANE_DEPTH, rtol=1e-3)
    assert [text for text in told if "kept the predicted cameras of frame005.png, of 10 images" in text]
    run = json.loads((tmp_path / "whole" / "scene" / "run.json").read_text())
    assert len(run["chunks"]["passes"]) == 8 and run["chunks"]["scenes"][0]["passes"] == [4, 5, 6, 7]
    assert [image["refinement"]["cameras"] for image in run["images"]].count("kept") == 1
    starts.clear()
    stop = 3
    resumed = replace(config, output=str(tmp_path / "stopped" / "scene.ply"), long=replace(config.long, resume=True))
    with pytest.raises(Killed):
        reconstruct(resumed)
    stop = 0
    reconstruct(resumed)
    assert len(starts) == 3 + 2  # the third one again, and the fourth
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")


def test_chunks_that_nobody_needs_go_with_the_next_run(tmp_path, plane_backbone, capsys):
    pictures, place = folder_of(tmp_path / "photos", 2), tmp_path / "out"
    left = place / ".scene.ply.lite3r-chunks"

    def leave(mode: int = 0o700) -> None:
        (left / "pass-00000").mkdir(parents=True)
        (left / "made-by-lite3r").touch()
        (left / "pass-00000/pass.json").write_text("{}")
        left.chmod(mode)

    leave()
    reconstruct(asked(pictures, place / "scene.ply", "off"))
    assert not left.exists()
    leave()  # newer than the scene: a run with --overwrite --resume that was stopped
    words = ["reconstruct", str(pictures), "-o", str(place / "scene.ply"), "-q", "--skip-existing"]
    assert main(words) == 0 and left.exists()
    os.utime(left / "pass-00000/pass.json", (1, 1))
    assert main(words) == 0 and not left.exists()
    leave()
    os.utime(left / "pass-00000/pass.json", (1, 1))
    assert main(words[:-1]) == 7 and not left.exists()  # refused, for the scene is whole
    leave(0o755)  # not as this program makes it
    with pytest.raises(OutputError, match="in the way"):
        WorkFolder(left, {}, False, print).__enter__()
    assert left.exists() and sorted(os.listdir(place)) == [left.name, "scene", "scene.ply"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_full_disk_leaves_nothing_but_what_resume_needs(tmp_path, plane_backbone, monkeypatch, resume):
    from lite3r_cli.long import pass_store

    pictures, out = folder_of(tmp_path / "photos", 16), tmp_path / "out"
    write = pass_store.write_bytes

    def full(path, *parts):
        if "pass-00006" in str(path):  # the seventh chunk
            raise OutputError(f"{path}: cannot be written: the disk is full")
        write(path, *parts)

    monkeypatch.setattr(pass_store, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full"):
        reconstruct(asked(pictures, out / "scene.ply", resume=resume))
    assert ([p.name for p in out.iterdir()] if out.exists() else []) == [".scene.ply.lite3r-chunks"] * resume


def test_a_model_for_training_has_tracks_in_every_piece(tmp_path, plane_backbone, monkeypatch):
    monkeypatch.setattr(scene_formats, "START_POINTS", 3000)  # all of them take long to spread
    from lite3r_cli.io.colmap_model import read_colmap_model

    pictures = folder_of(tmp_path / "photos", 30)
    config = replace(asked(pictures, tmp_path / "out" / "scene.ply", "12"), formats=("colmap", "nerfstudio"))
    reconstruct(config)
    sparse = tmp_path / "out" / "scene" / "sparse" / "0"
    assert len(read_colmap_model(sparse)) == 30
    with open(sparse / "images.bin", "rb") as stream:
        seen = _observations(stream.read())
    assert len(seen) == 30 and min(seen) > 10
    assert len(list((tmp_path / "out" / "scene" / "images").iterdir())) == 30


def _observations(data: bytes) -> list[int]:
    """Points that each image of COLMAP's images.bin sees."""
    (count,), at, seen = struct.unpack_from("<Q", data), 8, []
    for _ in range(count):
        at = data.index(b"\0", at + 64) + 1
        (points,) = struct.unpack_from("<Q", data, at)
        seen.append(points)
        at += 8 + 24 * points
    return seen


def test_options_that_need_one_pass_are_refused_by_name(tmp_path, plane_backbone):
    pictures = folder_of(tmp_path / "photos", 6)
    with pytest.raises(UsageError, match="--format mesh does not go with chunks"):
        reconstruct(replace(asked(pictures, tmp_path / "scene.ply"), formats=("mesh",)))
    with pytest.raises(UsageError, match="--chunk takes auto, off or a number"):
        LongConfig("2")


def test_mini_in_three_chunks(tmp_path):
    """The network that ships inside, from end to end: the cameras stay near those of one pass."""
    pictures = Path(__file__).parents[2] / "sample_scenes" / "desk" / "images"
    found = {}
    for chunk in ("4", "off"):
        config = asked(pictures, tmp_path / chunk / "scene.ply", chunk)
        config = replace(config, input=replace(config.input, max_views=8, keep_unrelated=True), formats=("tum", "glb"))
        reconstruct(config)
        found[chunk] = read_cameras_json(tmp_path / chunk / "scene" / "cameras.json")
    poses, whole = (np.stack([view.cam_from_world for view in found[chunk]]) for chunk in ("4", "off"))
    assert len(poses) == 8 and (tmp_path / "4" / "scene" / "trajectory.txt").exists()
    turns = np.degrees(geometry.rotation_angle(poses[:, :, :3] @ whole[:, :, :3].transpose(0, 2, 1)))
    assert np.median(turns) < 15
