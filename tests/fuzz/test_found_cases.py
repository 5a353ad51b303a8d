"""Damage that the fuzzer found, each as the smallest change of one file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # where the fuzzer runs from

from readers import readers, write

from lite3r_cli.errors import InputError

CHUNKS = ".scene.ply.lite3r-chunks"
LONG = "a" * 300
CAMERA = {"K": [[50.0, 0, 24], [0, 50, 18], [0, 0, 1]], "cam_from_world": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
          "width": 48, "height": 36}  # fmt: skip
DEEP = '{"a":' * 900 + "1" + "}" * 900


@pytest.fixture(scope="module")
def table():
    return readers()


def read(table, name, folder, files):
    """What is unsound; None also for a refusal in one line."""
    write(folder, files)
    try:
        return table[name].read(folder)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return None


@pytest.mark.parametrize("document", ['{"the images": [["0.jpg", 0, 7], ["1.jpg", 9, 7]]}', '{"the images": []}',
                                      '{"the images": [["0.jpg", 1e999, 7]]}', "[]"])  # fmt: skip
def test_a_run_with_impossible_images_is_not_shown(table, tmp_path, document):
    files = {f"{CHUNKS}/made-by-lite3r": b"", f"{CHUNKS}/asked.json": document.encode()}
    assert read(table, "live", tmp_path, files) is None


@pytest.mark.parametrize("change", [{"K": [[[0, 0, 4], [0, 9, 3], [0, 0, 1]]] * 2}, {"asked": [1e999, 1]},
                                    {"cam_from_world": [[[1, 0, 0, 0]] * 3] * 2}, {"views": [0, 7]},
                                    {"views": [0, 0]}])  # fmt: skip
def test_a_chunk_with_impossible_cameras_is_damaged(table, tmp_path, change):
    from record_readers import _pass

    asked = {"the images": [["0.jpg", 9, 7], ["1.jpg", 9, 7]]}
    head = json.loads(_pass()["pass.json"]) | change
    files = {f"pass-00000/{name}": data for name, data in _pass().items()} | {"made-by-lite3r": b""}
    files |= {"pass-00000/pass.json": json.dumps(head).encode(), "asked.json": json.dumps(asked).encode()}
    write(tmp_path, {f"{CHUNKS}/{name}": data for name, data in files.items()})
    with pytest.raises(InputError, match="damaged"):
        assert table["live"].read(tmp_path)


@pytest.mark.parametrize("line", [LONG, f"{LONG}.mp4", "//red", "~nobody/a", "red/" * 2000])
def test_a_list_of_scenes_may_name_what_no_folder_can_be(table, tmp_path, line):
    files = {"list.txt": f"red\n{line}\n".encode(), "red/0.jpg": b"1234", "blue/1.jpg": b"1234"}
    assert read(table, "manifest", tmp_path, files) is None


def test_parts_in_run_json_that_are_no_list(table, tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 1\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    files = {"run.json": b'{"parts": 7}', "part-1/scene.ply": f"{header}end_header\n1 2 3\n".encode(),
             "part-1/cameras.json": json.dumps({"images": {"0.png": CAMERA}}).encode()}  # fmt: skip
    assert read(table, "parts", tmp_path, files) is None


@pytest.mark.parametrize(
    "run", [f'{{"arguments": {DEEP}, "files": {{}}}}', f'{{"files": {{"{LONG}": {{"bytes": 3}}}}}}']
)
def test_a_batch_finds_a_scene_whose_record_is_damaged(table, tmp_path, run):
    assert read(table, "older", tmp_path, {"a/run.json": run.encode(), "a/scene.ply": b"ply"}) is None


def test_a_scene_to_score_lists_an_image_of_an_impossible_name(table, tmp_path):
    files = {"set/a/cameras.json": json.dumps({"images": {f"{LONG}.jpg": CAMERA}}).encode()}
    assert read(table, "photo_set", tmp_path, files) is None


@pytest.mark.parametrize("reference, number", [(b"\xff\xfe", "3"), (b"", "1" + "0" * 400), (b"a\0b", "NaN")])
def test_damaged_caches_and_logs_cost_nothing(table, tmp_path, reference, number):
    log = f'{{"seconds": {number}, "total": 1}}\n{{"seconds": 2, "total": {number}}}\n'
    files = {"log.jsonl": log.encode(), "hub/models--a--b/refs/main": reference or b"x", "cache/lite3r/x": b"{"}
    assert read(table, "cache", tmp_path, files) is None
    assert "HF_HUB_CACHE" not in os.environ or str(tmp_path) not in os.environ["HF_HUB_CACHE"]
