"""Scenes with a damaged run.json, folders in which a scene lies, and loops of links: what add, merge and view say."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.config import InputConfig, ReconstructConfig
from lite3r_cli.config.adding import MergeConfig
from lite3r_cli.errors import InputError, OutputError, UsageError
from lite3r_cli.io.output_layout import is_complete, output_layout
from lite3r_cli.io.transaction import replace_file
from lite3r_cli.pipelines.add_photos import place_of
from lite3r_cli.pipelines.merge_scenes import _require_a_new_place
from lite3r_cli.pipelines.rewritten import _made_of_the_scene_before
from lite3r_cli.pipelines.scene_members import _size, members_of, stored_config
from lite3r_cli.pipelines.view_scene import _require_ours
from lite3r_cli.pipelines.written_scene import WrittenScene
from lite3r_cli.scene.posed_view import View


@pytest.fixture
def scene(tmp_path):
    """The files by which a scene is recognised; `write(run.json)` adds its record."""
    (tmp_path / "d/scene").mkdir(parents=True)
    (tmp_path / "d/scene.ply").write_bytes(b"ply")
    (tmp_path / "d/scene/cameras.json").write_text("{}")

    def write(text):
        (tmp_path / "d/scene/run.json").write_text(text)
        return tmp_path / "d/scene.ply"

    return write


FILES = {"scene.ply": {"bytes": 3}, "scene/cameras.json": {"bytes": 2}}


def record(**entries):
    return json.dumps({"images": [], "files": FILES, **entries})


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"arguments": 7}', '{"arguments": {"predict": {"model": 3}}}'])
def test_merge_names_what_to_do_about_a_damaged_record(scene, text):
    with pytest.raises(InputError, match=r"run\.json.*reconstruct the scene again"):
        stored_config(WrittenScene.at(scene(text)))


def test_a_number_that_no_float_can_be(scene):
    with pytest.raises(InputError, match="tolerance: 1000.* is no value for it"):
        stored_config(WrittenScene.at(scene(record(arguments={"fusion": {"tolerance": 10**400}}))))


def test_a_value_of_thousands_of_letters_is_not_repeated(scene):
    with pytest.raises(InputError, match="--preprocess must be one of") as refused:
        stored_config(WrittenScene.at(scene(record(arguments={"predict": {"preprocess": "x" * 5000}}))))
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("files", [{}, {"scene.ply": {"bytes": 3}}, {"scene/cameras.json": {"bytes": 2}}, 7, None])
def test_add_needs_a_record_of_the_scene_s_own_files(scene, files):
    path = scene(record(files=files))
    with pytest.raises(InputError, match=r"run\.json: (damaged|does not list).*; reconstruct the scene again"):
        place_of(path)
    assert place_of(scene(record())) == str(path)


def test_the_folder_of_a_ply_is_a_scene_too(scene):
    path = scene("{}")
    assert WrittenScene.at(path.parent).folder == path.parent / "scene"


def test_only_a_scene_that_was_there_before_has_old_pages_and_videos(scene):
    path = scene(json.dumps({"files": FILES}))
    for name in ("scene.mp4", "scene.html", "other.mp4", "new.mp4"):
        (path.parent / name).write_bytes(b"film")
    assert _made_of_the_scene_before(output_layout(path)) == ["scene.html", "scene.mp4"]
    assert _made_of_the_scene_before(output_layout(path.parent / "new.ply")) == []


@pytest.mark.parametrize("output", ["loop/x.ply", "loop.ply"])
def test_merge_into_a_loop_of_links(scene, output):
    path = scene("{}")
    for name in ("loop", "loop.ply"):
        (path.parent / name).symlink_to(name)
    found = WrittenScene.at(path)
    config = MergeConfig(first=path, second=path, output=str(path.parent / output))
    assert _require_a_new_place(config, found, found) is None  # refused as any link, when it is written
    with pytest.raises(UsageError, match="stays as it is"):
        _require_a_new_place(replace(config, output=str(path.parent / "scene/../scene.ply")), found, found)


def test_a_record_that_names_files_behind_a_loop_is_not_ours(scene):
    path = scene(json.dumps({"files": FILES | {"scene/loop/x": {"bytes": 1}}}))
    (path.parent / "scene/loop").symlink_to("loop")
    assert not is_complete(path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_page_never_replaces_a_link_or_a_pipe(tmp_path, overwrite):
    (tmp_path / "link.html").symlink_to("elsewhere.html")
    os.mkfifo(tmp_path / "pipe.html")
    for name in ("link.html", "pipe.html"):
        with pytest.raises(OutputError, match="is in the way"):
            _require_ours(tmp_path / name, overwrite)


def test_a_page_at_a_place_that_cannot_be_looked_at_is_an_error_of_the_output(scene, tmp_path, monkeypatch, capsys):
    path, closed = scene(json.dumps({"files": FILES})), tmp_path / "closed/page.html"
    genuine = os.stat

    def stat(place, *arguments, **options):
        if str(place).startswith(str(closed.parent)):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return genuine(place, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "mkdir", stat)
    assert main(["view", str(path), "-o", str(closed), "-q"]) == 3
    assert "cameras.json" in capsys.readouterr().err  # which is read first; the page is not the input
    with pytest.raises(OutputError, match="permission denied"):
        replace_file(closed, b"page")


def test_cameras_are_checked_before_they_are_used(scene):
    with pytest.raises(InputError, match=r"cameras\.json: key `images`"):
        members_of(WrittenScene.at(scene("{}")), ReconstructConfig(InputConfig((Path("photos"),))), print)


@pytest.mark.parametrize("width", [True, 0, -3, 1 << 15, 2.5, "8", None, [8]])
def test_a_size_that_no_network_has_is_that_of_the_depth_map(width):
    view = View("a.jpg", 80, 60, np.eye(3), np.eye(3, 4), np.ones((6, 8), np.float32), None)
    assert _size({"network": {"height": 6, "width": width}}, view) == (6, 8)
    assert _size({"network": {"height": 12, "width": 16}}, view) == (12, 16)
