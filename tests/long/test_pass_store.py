"""Passes on disk: what they say survives, and what is damaged or exchanged is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lite3r_cli.errors import InputError, OutputError
from lite3r_cli.long.chunk_plan import plan_chunks
from lite3r_cli.long.pass_store import PassStore
from lite3r_cli.long.work_folder import WorkFolder
from lite3r_cli.scene.posed_view import View


def test_what_a_pass_says_survives_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.3, 40, (17, 23)).astype(np.float32)
    depth[:3] = 0
    confidence = np.where(depth > 0, rng.uniform(1, 30, depth.shape), 0).astype(np.float32)
    view = View("a.jpg", 46, 34, np.diag([50.0, 50, 1]), np.eye(3, 4), depth, confidence)
    store = PassStore(tmp_path)
    plan = plan_chunks(1, 1, "")
    assert not store.has(0, plan.chunks[0])
    store.write(0, plan.chunks[0], [0], [view], [None], {})
    assert PassStore(tmp_path).has(0, plan.chunks[0])
    back = PassStore(tmp_path).read(0, 0, view)
    assert np.allclose(back.depth, depth, rtol=1e-4) and (back.depth[:3] == 0).all()
    assert np.corrcoef(back.confidence[3:].ravel(), confidence[3:].ravel())[0, 1] > 0.999
    values, counts = store.confidences(0, [0])
    assert counts.sum() == (depth > 0).sum() and (np.diff(values) > 0).all()


@pytest.mark.parametrize("shape", [(17, 23), (1, 5000), (5000, 1), (301, 444)])
def test_a_sample_of_a_view_has_its_depth_where_it_lies_in_the_picture(tmp_path, shape):
    height, width = shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    depth = 1 + rows / height + 3 * columns / width  # a plane: depth tells the place
    view = View("a.jpg", 2 * width, 2 * height, np.diag([50.0, 50, 1]), np.eye(3, 4), depth, 1 + rows)
    store, wanted = PassStore(tmp_path), plan_chunks(2, 2, "").chunks[0]
    store.write(0, wanted, [0, 1], [view, view], [None, None], {}, whole={1})
    assert store.whole(0) == [1]
    few, of_whole = (store.sample(0, position, view) for position in (0, 1))
    assert few.depth.shape == few.confidence.shape == of_whole.depth.shape and 1 <= few.depth.size <= 1100
    high, wide = few.depth.shape
    down, across = np.mgrid[:high, :wide] + 0.5
    there = 1 + (down * height / high - 0.5) / height + 3 * (across * width / wide - 0.5) / width
    assert np.abs(few.depth - there).max() <= 0.6 / height + 0.6 * 3 / width
    assert np.allclose(few.depth, of_whole.depth, rtol=1e-3)
    store.require_whole(0)
    with pytest.raises(InputError, match="damaged"):
        store.read(0, 0, view)


@pytest.mark.parametrize(
    "change",
    [
        {"K": 3},
        {"ranges": [[2, 1]]},
        {"ranges": [["1", 2]]},
        {"ranges": [[1, 1e39]]},  # no number of float32
        {"ranges": [[1e-300, 1]]},
        {"levels": []},
        {"views": ["a"]},
        {"facts": None},
        {"kind": 0},
        {"places": [[0, 1, 1, -1]]},
        {"places": [[0, 5, 1 << 39, 0]]},
        {"places": [[5, 60, 60, 0]]},
        {"places": [[0, 0, 0, 0]]},
        {"places": [[0, 1, 1]]},
        None,
    ],
)
def test_passes_that_are_damaged_are_refused_by_name(tmp_path, change):
    view = View("a.jpg", 9, 7, np.diag([9.0, 9, 1]), np.eye(3, 4), np.ones((7, 9), np.float32), np.ones((7, 9)))
    store, plan = PassStore(tmp_path), plan_chunks(1, 1, "")
    store.write(0, plan.chunks[0], [0], [view], [None], {})
    if change is None:
        (store.place(0) / "maps").unlink()
    else:
        path = store.place(0) / "pass.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match="damaged"):
        PassStore(tmp_path).read(0, 0, view)


def test_a_pass_is_not_written_through_a_link_or_into_another_folder(tmp_path, monkeypatch):
    """In a shared folder without the sticky bit, others can rename the folder of the chunks."""
    view = View("a.jpg", 9, 7, np.diag([9.0, 9, 1]), np.eye(3, 4), np.ones((7, 9), np.float32), np.ones((7, 9)))
    plan, home = plan_chunks(1, 1, ""), tmp_path / "home"
    (home / "pass-00000").mkdir(parents=True)
    (home / "pass-00000/thesis.txt").write_text("years of work")
    with pytest.raises(OutputError), WorkFolder(tmp_path / "chunks", {}, False, print) as work:
        work.path.rename(tmp_path / "taken")
        work.path.symlink_to(home)
        work.store.write(0, plan.chunks[0], [0], [view], [None], {})
    (tmp_path / "chunks").unlink()
    with pytest.raises(OutputError, match="is gone"), WorkFolder(tmp_path / "chunks", {}, False, print) as work:
        shutil.rmtree(work.path)
        work.store.write(0, plan.chunks[0], [0], [view], [None], {})
    with pytest.raises(OutputError, match="exchanged"), WorkFolder(tmp_path / "chunks", {}, False, print) as work:
        work.path.rename(tmp_path / "taken again")
        shutil.copytree(home, work.path)
        work.store.write(0, plan.chunks[0], [0], [view], [None], {})
    assert (tmp_path / "chunks/pass-00000/thesis.txt").exists()
    shutil.rmtree(tmp_path / "chunks")
    genuine = Path.mkdir

    def exchanged(self, *arguments, **options):  # before anything is in it
        genuine(self, *arguments, **options)
        self.rename(tmp_path / "taken at once")
        self.symlink_to(home)

    with pytest.raises(OutputError), monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", exchanged)
        WorkFolder(tmp_path / "chunks", {}, False, print).__enter__()
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["thesis.txt"]


def test_damaged_colours_of_a_pass_are_refused_without_a_line_of_a_library(tmp_path, capfd):
    store = PassStore(tmp_path / os.fsdecode(b"caf\xe9"))  # a C library takes no such name
    store.folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    view = View("a.jpg", 80, 64, np.diag([80.0, 80, 1]), np.eye(3, 4), np.ones((64, 80), np.float32))
    store.write(0, plan_chunks(1, 1, "").chunks[0], [0], [view], [noise], {})
    assert store.colors(0, 0).shape == (64, 80, 3)
    maps = store.place(0) / "maps"
    data, end = maps.read_bytes(), maps.stat().st_size - 2000
    maps.write_bytes(data[:end] + bytes(99) + data[end + 99 :])
    with pytest.raises(InputError, match="damaged"):
        store.colors(0, 0)
    assert capfd.readouterr() == ("", "")
