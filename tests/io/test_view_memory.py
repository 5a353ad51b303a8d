"""memory/: what is written is read back; foreign contents are refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from lite3r_cli.errors import InputError
from lite3r_cli.io import view_memory
from lite3r_cli.io.view_memory import FORMAT, VERSION, Features, ViewMemory, read_memory, source_of, write_memory

ABOUT = {"format": FORMAT, "version": VERSION}


@pytest.fixture
def memory(tmp_path: Path) -> ViewMemory:
    rng = np.random.default_rng(0)
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"not looked at")
    confidence = np.where(rng.random((23, 37)) < 0.2, 0, np.exp(rng.normal(0, 2, (23, 37)))).astype(np.float32)
    points = (rng.random((40, 2)) * [518, 350]).astype(np.float32)
    thumbnail = rng.normal(size=(16, 16)).astype(np.float32)
    features = Features(points, rng.integers(0, 256, (40, 128), dtype=np.uint8), (350, 518), thumbnail)
    return ViewMemory(confidence, source_of(photo, 7, 0.25), features)


def test_what_is_written_comes_back(memory: ViewMemory, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_memory(path, memory)
    found = read_memory(path, (23, 37))
    known = memory.confidence > 0
    assert np.array_equal(found.confidence > 0, known)
    assert np.allclose(found.confidence[known], memory.confidence[known], rtol=0.04)
    assert found.source == memory.source and found.features is not None and memory.features is not None
    assert all(np.array_equal(getattr(found.features, name), value) for name, value in vars(memory.features).items())
    write_memory(path, replace(memory, features=None, source=None, confidence=np.zeros((23, 37), np.float32)))
    found = read_memory(path, (23, 37))
    assert found.features is None and found.source is None and not found.confidence.any()


def test_a_file_that_nobody_has_touched_is_not_read_again(memory: ViewMemory, tmp_path: Path, monkeypatch) -> None:
    photo, copy = tmp_path / "a.jpg", tmp_path / "b.jpg"
    shutil.copyfile(photo, copy)
    while time.time_ns() < os.stat(photo).st_ctime_ns + 5 * 10**7:  # the clock of a file system has ticks
        time.sleep(0.01)
    write_memory(tmp_path / "m.safetensors", memory)
    source = read_memory(tmp_path / "m.safetensors", memory.confidence.shape).source
    assert source is not None and source.stamp is not None
    read, ask = [], view_memory.checksum
    monkeypatch.setattr(view_memory, "checksum", lambda path: read.append(path) or ask(path))
    assert source.unchanged(photo) and not read
    assert source.unchanged(copy) and read == [copy]
    assert replace(source, stamp=None).unchanged(photo) and read == [copy, photo]  # of an earlier version
    os.link(photo, tmp_path / "c.jpg")  # touched: an export may do so
    assert source.unchanged(photo) and read == [copy, photo, photo]
    assert source_of(photo, source.frame, source.time) == source  # and the bytes of a second run are the same
    photo.write_bytes(b"not lookeD at")
    os.utime(photo, ns=(0, source.stamp[0]))  # as `cp -p` does, with the same inode
    assert not source.unchanged(photo) and not source.unchanged(tmp_path / "no.jpg")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"range": np.array([np.nan, 1], np.float32)}, "range of confidence"),
        ({"range": np.array([1, 2], np.float64)}, "range is no array"),
        ({"points": np.full((40, 2), np.inf, np.float32)}, "outside"),
        ({"points": np.zeros((39, 2), np.float32)}, "not as many"),
        ({"size": np.array([0, 518], np.int32)}, "no image"),
        ({"thumbnail": None}, "missing"),
        ({"more": np.zeros(3, np.float32)}, "more is no array"),
        ({"confidence": np.zeros(50, np.uint8)}, "cannot be used"),
    ],
)
def test_forged_files_are_refused(memory: ViewMemory, tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "a.safetensors"
    write_memory(path, memory)
    arrays = {name: value for name, value in (load(path.read_bytes()) | change).items() if value is not None}
    path.write_bytes(save(arrays, {"about": json.dumps(ABOUT)}))
    with pytest.raises(InputError, match=said):
        read_memory(path, (23, 37))


def test_damage_anywhere_is_an_input_error(memory: ViewMemory, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_memory(path, memory)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_memory(path, (23, 37))
    for _ in range(150):  # a change among the features may be read as other features
        data = bytearray(whole)
        data[int(rng.integers(0, 1500))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read_memory(path, (23, 37))
        except InputError as error:
            assert "\n" not in str(error)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="37x23"):
        read_memory(path, (24, 37))
    nowhere = {"path": "a\0", "bytes": 1, "sha256": "", "frame": None, "time": None}
    unstamped = {**nowhere, "path": "/a", "stamp": [1, "2"]}
    sources = [ABOUT | {"source": source} for source in ([], nowhere, unstamped, {**unstamped, "stamp": [1]})]
    for about in (5, {}, ABOUT | {"version": 2}, *sources):
        path.write_bytes(save(load(whole), {"about": json.dumps(about)}))
        with pytest.raises(InputError):
            read_memory(path, (23, 37))
