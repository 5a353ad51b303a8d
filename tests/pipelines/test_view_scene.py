"""`lite3r view`: written scenes, also after their photos have moved."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import photograph

from lite3r_cli.cli import main
from lite3r_cli.config.viewing import ViewConfig
from lite3r_cli.errors import InputError, OutputError
from lite3r_cli.pipelines.view_scene import view_scene
from lite3r_cli.pipelines.written_scene import Photographs
from lite3r_cli.scene.posed_view import View

pytestmark = pytest.mark.usefixtures("plane_backbone")


def scene_of(page: Path) -> dict:
    return json.loads(re.findall(r'id="scene">(.*?)</script>', page.read_text("utf-8"), re.S)[0])


def run(*arguments: object) -> int:
    return main([str(argument) for argument in ("reconstruct", *arguments, "--resolution", "112", "-q")])


def test_a_scene_is_found_by_its_cloud_and_by_its_folder(photographs, tmp_path) -> None:
    assert run(photographs(3), "-o", tmp_path / "out/a.ply") == 0
    assert main(["view", str(tmp_path / "out/a.ply"), "-q"]) == 0
    page = tmp_path / "out/a.html"
    scene = scene_of(page)
    assert scene["title"] == "a" and [camera["name"] for camera in scene["cameras"]] == ["a0.jpg", "a1.jpg", "a2.jpg"]
    assert all(camera["picture"] for camera in scene["cameras"])
    first = page.read_bytes()
    assert main(["view", str(tmp_path / "out/a"), "-q"]) == 0 and page.read_bytes() == first
    assert main(["view", str(tmp_path / "out"), "-q"]) == 3 and main(["view", str(tmp_path / "no"), "-q"]) == 3
    page.write_text("mine")
    assert main(["view", str(tmp_path / "out/a"), "-q"]) == 7 and page.read_text() == "mine"
    assert main(["view", str(tmp_path / "out/a"), "--overwrite", "-q"]) == 0 and page.read_bytes() == first


def test_what_is_made_of_a_scene_takes_the_place_of_no_part_of_it(photographs, tmp_path, capsys) -> None:
    photos = photographs(2)
    assert run(photos, "-o", tmp_path / "a.ply") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "b.json").symlink_to("a/cameras.json")
    for i, part in enumerate((tmp_path / "a.ply", tmp_path / "a/cameras.json", photos / "a0.jpg")):
        assert main(["view", str(tmp_path / "a.ply"), "-o", str(part), "--overwrite", "-q"]) == 2
        target = tmp_path / f"{i}.html"  # a page's name, which leads there
        target.symlink_to(part)
        capsys.readouterr()
        assert main(["view", str(tmp_path / "a.ply"), "-o", str(target), "--overwrite", "-q"]) == 2
        assert f"{target}: is a " in capsys.readouterr().err
    for words in (["-o", str(tmp_path / "a.ply")], ["-o", str(tmp_path / "b.ply")]):  # with b.json beside it
        assert main(["splat", str(tmp_path / "a.ply"), *words, "--overwrite", "-q"]) == 2
    os.rename(photos / "a0.jpg", photos / "a0.mp4")
    run_json = tmp_path / "a/run.json"
    run_json.write_text(run_json.read_text().replace("a0.jpg", "a0.mp4"))  # as of a video
    assert main(["render", str(tmp_path / "a.ply"), "-o", str(photos / "a0.mp4"), "--overwrite", "-q"]) == 2
    (photos / "a0.mp4").rename(photos / "a0.jpg")
    run_json.write_text(run_json.read_text().replace("a0.mp4", "a0.jpg"))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("kind", ["link", "pipe", "link of a temporary name"])
def test_what_lies_in_the_place_of_the_page_is_neither_followed_nor_waited_for(photographs, tmp_path, kind) -> None:
    assert run(photographs(2), "-o", tmp_path / "out/a.ply") == 0
    page, theirs = tmp_path / "out/a.html", tmp_path / "theirs"
    if kind == "link":
        theirs.write_bytes(view_scene(ViewConfig(tmp_path / "out/a.ply")).read_bytes())  # a page of ours, elsewhere
        page.unlink()
        page.symlink_to(theirs)
    elif kind == "pipe":
        os.mkfifo(page)
    else:
        (tmp_path / f"out/.a.html.{os.getpid()}.part").symlink_to(theirs)
    before = theirs.read_bytes() if theirs.exists() else None
    code = main(["view", str(tmp_path / "out/a.ply"), "-q"])
    assert code == (0 if kind.endswith("name") else 7)
    assert (theirs.read_bytes() if theirs.exists() else None) == before
    assert main(["view", str(tmp_path / "out/a.ply"), "-q", "--overwrite"]) == code


def test_photographs_are_found_from_any_folder(photographs, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(photographs(2).parent)
    assert run(photographs(2).name, "-o", tmp_path / "out/") == 0
    monkeypatch.chdir("/")
    told: list[str] = []
    page = view_scene(ViewConfig(tmp_path / "out"), told.append)
    assert not told and all(camera["picture"] for camera in scene_of(page)["cameras"])


def test_photographs_that_are_gone_or_changed(photographs, tmp_path) -> None:
    photos = photographs(3)
    assert run(photos, "-o", tmp_path / "out/") == 0
    (photos / "a0.jpg").unlink()
    photograph(photos / "a1.jpg", 50, 50)
    told: list[str] = []
    page = view_scene(ViewConfig(tmp_path / "out"), told.append)
    assert page == tmp_path / "out/scene.html" and len(told) == 1 and "1 of 3" in told[0] and "a0.jpg" in told[0]
    assert [camera["picture"] is not None for camera in scene_of(page)["cameras"]] == [False, False, True]
    (tmp_path / "out/run.json").write_text("{")
    assert [camera["picture"] for camera in scene_of(view_scene(ViewConfig(tmp_path / "out")))["cameras"]] == [None] * 3
    (tmp_path / "out/cameras.json").unlink()
    with pytest.raises(InputError, match=r"cameras\.json is missing"):
        view_scene(ViewConfig(tmp_path / "out"))


def test_exported_pictures_are_taken_first(photographs, tmp_path) -> None:
    photos = photographs(2)
    assert run(photos, "-o", tmp_path / "out/", "-f", "colmap", "-f", "html") == 0
    shutil.rmtree(photos)
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    page = view_scene(ViewConfig(tmp_path / "elsewhere"))
    assert all(camera["picture"] for camera in scene_of(page)["cameras"])
    written = scene_of(tmp_path / "elsewhere/view.html")
    assert {**written, "title": "elsewhere"} == scene_of(page)


def test_frames_of_a_video(tmp_path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (96, 64))
    for level in range(20, 240, 20):
        writer.write(np.full((64, 96, 3), level, np.uint8))
    writer.release()
    assert run(tmp_path / "clip.mp4", "-o", tmp_path / "out/", "--max-views", "3") == 0
    page = view_scene(ViewConfig(tmp_path / "out", tmp_path / "look.html"))
    assert page == tmp_path / "look.html" and all(camera["picture"] for camera in scene_of(page)["cameras"])


def test_no_place_to_write(photographs, tmp_path) -> None:
    assert run(photographs(2), "-o", tmp_path / "out/") == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        view_scene(ViewConfig(tmp_path / "out", tmp_path / "file/look.html"))


def test_open_writes_the_page_and_shows_it(photographs, tmp_path, monkeypatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: shown.append(url) or True)
    assert run(photographs(2), "-o", tmp_path / "a.ply", "--open") == 0
    assert shown == [(tmp_path / "a/view.html").as_uri()] and (tmp_path / "a/view.html").is_file()


def test_a_photograph_of_a_bent_lens_is_shown_straight(photographs, tmp_path) -> None:
    assert run(photographs(2), "-o", tmp_path / "out/") == 0
    straight = scene_of(view_scene(ViewConfig(tmp_path / "out")))["cameras"]
    document = json.loads((tmp_path / "out/cameras.json").read_text())
    lens = {"model": "SIMPLE_RADIAL", "params": [98.0, 49.0, 35.0, -0.2]}
    document["images"]["a0.jpg"]["original_camera"] = lens
    (tmp_path / "out/cameras.json").write_text(json.dumps(document))
    bent = scene_of(view_scene(ViewConfig(tmp_path / "out")))["cameras"]
    assert [a["picture"] == b["picture"] for a, b in zip(straight, bent)] == [False, True]


def test_photographs_whose_names_no_file_can_have_are_not_there(tmp_path):
    view = View("a" * 300 + ".jpg", 4, 3, np.eye(3), np.eye(3, 4))
    facts = {"images": [{"name": view.name, "path": f"/{'x' * 5000}/a.jpg"}]}
    assert not Photographs(tmp_path, facts).has(view) and Photographs(tmp_path, facts).read(view) is None
