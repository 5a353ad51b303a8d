"""A checkpoint's fingerprint depends on its bytes only, even if the cache is wrong, and is computed once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from lite3r_cli.checkpoints import fingerprint as module
from lite3r_cli.checkpoints.fingerprint import Fingerprint, cache_file, fingerprint
from lite3r_cli.checkpoints.shards import identities
from lite3r_cli.errors import WeightsError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_file()


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights" * 1000)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_read_once_and_again_when_the_file_changes(cache, checkpoint, monkeypatch):
    assert fingerprint(checkpoint) == sha256(checkpoint)
    assert cache.stat().st_mode & 0o077 == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "hashlib", None)  # reading it again would fail
        assert fingerprint(checkpoint) == sha256(checkpoint)
    before = checkpoint.stat()
    checkpoint.write_bytes(b"weighty" * 1000)  # of the same size, and with the same time
    os.utime(checkpoint, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fingerprint(checkpoint) == sha256(checkpoint)
    other = checkpoint.with_name("b.safetensors")  # another file with the name, the size and the time of the first one
    other.write_bytes(b"strange" * 1000)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, checkpoint)
    assert fingerprint(checkpoint) == sha256(checkpoint)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "null", "\ud800".encode("utf-8", "surrogatepass")])
def test_a_damaged_cache_is_no_cache(cache, checkpoint, content):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert fingerprint(checkpoint) == sha256(checkpoint)
    assert fingerprint(checkpoint) == sha256(checkpoint)


def test_what_killed_processes_left_beside_the_cache_goes(cache, checkpoint):
    old, new = (cache.parent / f".fingerprints-{name}" for name in ("old", "new"))
    cache.parent.mkdir(parents=True)
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    fingerprint(checkpoint)
    assert not old.exists() and new.exists() and cache.exists()


def test_what_others_may_write_is_not_believed(cache, checkpoint):
    fingerprint(checkpoint)
    known = json.loads(cache.read_text())
    known[str(checkpoint.resolve())]["sha256"] = "0" * 64
    cache.write_text(json.dumps(known))
    assert fingerprint(checkpoint) == "0" * 64
    cache.chmod(0o666)
    assert fingerprint(checkpoint) == sha256(checkpoint)


def test_without_a_cache_folder_nothing_fails(checkpoint, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fingerprint(checkpoint) == sha256(checkpoint)


def test_a_file_that_cannot_be_read_is_told_where_it_is_asked_for(cache, tmp_path):
    pending = Fingerprint(tmp_path / "missing.safetensors")
    with pytest.raises(OSError):
        pending.result()


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_that_is_exchanged_after_it_was_opened_has_none(cache, checkpoint, cached):
    other = checkpoint.with_name("b.safetensors")
    other.write_bytes(b"strange" * 1000)
    seen = identities(checkpoint)
    assert Fingerprint(checkpoint, seen).result() == sha256(checkpoint)
    os.replace(other, checkpoint)
    if cached:
        fingerprint(checkpoint)
    with pytest.raises(WeightsError, match="was changed or replaced"):
        Fingerprint(checkpoint, seen).result()
