"""`lite3r synth`: folders are read back correctly, and existing files are handled."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.config.synthesis import SynthConfig
from lite3r_cli.data.procedural.textures import build_atlas, load_photos
from lite3r_cli.errors import InputError, OutputError, UsageError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.transaction import Transaction
from lite3r_cli.pipelines.synthesise import run

pytestmark = pytest.mark.usefixtures("small_atlas")


def config(output, **more) -> SynthConfig:
    return SynthConfig(
        output, **({"views": 2, "width": 113, "height": 75, "samples": 1, "kind": "chaos", "device": "cpu"} | more)
    )


def test_scene_reads_back_and_depth_warps_view_to_view(tmp_path):
    """What one view sees lies, reprojected, at the depth that another view has there, and looks alike."""
    (folder,) = run(config(tmp_path / "out", views=4, seed=3))
    views = read_cameras_json(folder)
    assert [v.name for v in views] == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    images = [cv2.imread(str(folder / "images" / v.name))[..., ::-1].astype(float) for v in views]
    assert all(i.shape == (75, 113, 3) for i in images)
    shares, differences, unrelated = [], [], []
    for a, b, image, other in zip(views, views[1:], images, images[1:]):
        y, x = np.mgrid[0:75, 0:113]
        rays = np.linalg.inv(a.K) @ np.stack([x + 0.5, y + 0.5, np.ones_like(x)], -1).reshape(-1, 3).T
        points = a.cam_from_world[:, :3].T @ (rays * a.depth.reshape(-1) - a.cam_from_world[:, 3:])
        q = b.K @ (b.cam_from_world[:, :3] @ points + b.cam_from_world[:, 3:])
        u, v = np.floor(q[:2] / np.maximum(q[2], 1e-6)).astype(int)
        ok = (a.depth.reshape(-1) > 0) & (q[2] > 0) & (u >= 0) & (u < 113) & (v >= 0) & (v < 75)
        seen = b.depth[v[ok], u[ok]]
        same = np.abs(seen / q[2][ok] - 1) < 0.03
        shares.append(same.mean())
        here, there = image.reshape(-1, 3)[ok][same], other[v[ok], u[ok]][same]
        differences.append(np.abs(here - there).mean())
        unrelated.append(np.abs(here - np.random.default_rng(0).permutation(there)).mean())
    assert min(shares) > 0.5
    assert np.mean(differences) < 0.5 * np.mean(unrelated)


def test_same_seed_same_files(tmp_path):
    (a,), (b,), (c,) = run(config(tmp_path / "a")), run(config(tmp_path / "b")), run(config(tmp_path / "c", seed=1))
    for name in ("images/00.jpg", "depth/01.png", "cameras.json", "synth.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes()
        assert (a / name).read_bytes() != (c / name).read_bytes()


def test_existing_scenes_are_kept_or_replaced_whole(tmp_path):
    (folder,) = run(config(tmp_path / "out"))
    with pytest.raises(OutputError, match="--overwrite"):
        run(config(tmp_path / "out"))
    run(config(tmp_path / "out", views=1, overwrite=True))
    assert sorted(p.name for p in (folder / "images").iterdir()) == ["00.jpg"]
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="mine.txt"):
        run(config(tmp_path / "out", overwrite=True))
    assert (folder / "mine.txt").read_text() == "keep"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scene-000"]


@pytest.mark.parametrize("step", [2, 8])
def test_a_scene_whose_replacement_was_killed_comes_back(tmp_path, monkeypatch, step):
    class Killed(BaseException):
        pass

    def dies(self, *names):
        moved.append(names)
        if len(moved) == step:
            raise Killed
        move(self, *names)

    (folder,) = run(config(tmp_path / "out"))
    old = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    move, moved = Transaction._move, []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Transaction, "_move", dies)
        patch.setattr("lite3r_cli.io.transaction.give_back", lambda lock, path: os.close(lock))
        patch.setattr(Transaction, "leave", lambda self: self._locks.close())
        run(config(tmp_path / "out", seed=5, overwrite=True))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} != old
    with pytest.raises(OutputError, match="--overwrite"):
        run(config(tmp_path / "out"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == old
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scene-000"]


@pytest.mark.parametrize("change", ["edited", "linked", "listed outside", "listed", "deep"])
def test_only_a_scene_as_it_was_written_is_replaced(tmp_path, change):
    (folder,) = run(config(tmp_path / "out"))
    (tmp_path / "mine.txt").write_text("mine")
    record = json.loads((folder / "synth.json").read_text())
    if change == "edited":
        (folder / "images/00.jpg").write_bytes(b"retouched")
    elif change == "linked":
        (folder / "images/00.jpg").unlink()
        (folder / "images/00.jpg").symlink_to(tmp_path / "mine.txt")
    elif change == "listed":
        (folder / "images/mine.jpg").write_text("mine")
        record["files"]["images/mine.jpg"] = {"bytes": 4}
        (folder / "synth.json").write_text(json.dumps(record))
    else:
        record["files"]["../../mine.txt"] = {"bytes": 4}
        text = json.dumps(record) if change == "listed outside" else "[" * 100_000
        (folder / "synth.json").write_text(text)
    with pytest.raises(OutputError, match="move (it|the folder)"):
        run(config(tmp_path / "out", overwrite=True))
    assert (tmp_path / "mine.txt").read_text() == "mine" and (folder / "depth/00.png").is_file()


def test_the_mode_of_a_scene_is_the_users(tmp_path):
    before = os.umask(0o027)
    try:
        (folder,) = run(config(tmp_path / "out"))
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o750 and (folder / "cameras.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("more", [{"views": 0}, {"kind": "opera"}, {"seed": -1}, {"samples": 9}])
def test_impossible_requests(tmp_path, more):
    with pytest.raises(UsageError, match=f"--{next(iter(more))}"):
        run(config(tmp_path, **more))


@pytest.mark.parametrize("kind", ["link to nothing", "file above", "device", "read-only"])
def test_a_place_that_takes_no_scene_is_said_before_one_is_rendered(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("lite3r_cli.pipelines.synthesise.build_atlas", None)
    output = tmp_path / "out"
    if kind == "link to nothing":
        output.symlink_to(tmp_path / "nothing")
    elif kind == "file above":
        output.write_text("mine")
    elif kind == "device":
        output = Path("/dev/null")
    else:
        output = Path("/proc/out")  # takes no files, not even those of root
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="cannot be written"):
        run(config(output, scenes=2))
    assert sorted(tmp_path.iterdir()) == before


def test_photo_textures_are_found_and_broken_archives_named(tmp_path):
    crops = [np.full((256, 256, 3), value, np.uint8) for value in (40, 200)]
    data = [cv2.imencode(".jpg", c)[1].ravel() for c in crops]
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, data=np.concatenate(data), offsets=np.cumsum([0, *map(len, data)]))
    np.savez(bad, data=np.zeros(10, np.uint8), offsets=np.array([0, 10]))
    atlas = build_atlas(good, variants=1)
    first = atlas.catalog.groups["photo"].start
    assert atlas.texels[first + 1, 0, :3].tolist() == pytest.approx([200] * 3, abs=2)
    for path in (bad, tmp_path / "none.npz"):
        with pytest.raises(InputError, match=path.name):
            load_photos(path)


@pytest.mark.parametrize("words", ["synth -o out", "train -o out", "distill procedural -o out.safetensors"])
def test_textures_that_are_none_are_said_first(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo("pipe.npz")
    os.symlink("nothing", "link.npz")
    (tmp_path / "text.npz").write_text("mine")
    np.savez("other.npz", pictures=np.zeros(3))
    cases = {
        "none.npz": (2, "no such file"), "folder": (2, "a folder, not a file"), "pipe.npz": (3, "a named pipe"),
        "/dev/zero": (3, "a device"), "link.npz": (3, "a link to nothing"), "text.npz": (3, "not an .npz archive"),
        "other.npz": (3, "holds no array `data`"),
    }  # fmt: skip
    for name, (code, what) in cases.items():
        assert main([*words.split(), "--textures", name, "-q"]) == code, name
        assert what in (said := capsys.readouterr().err) and name in said
    assert not (tmp_path / "out").exists()


def test_the_field_of_view_is_what_was_asked_for(tmp_path):
    (folder,) = run(config(tmp_path / "out", field_of_view=25, kind="facade"))
    for view in read_cameras_json(folder):
        degrees = np.degrees(2 * np.arctan(view.width / 2 / view.K[0, 0]))
        assert abs(degrees / 25 - 1) < 0.06  # photographs of a scene may be zoomed by 5 % either way
