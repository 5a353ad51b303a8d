"""A checkpoint of one or several files replaces an older one as a whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lite3r_cli.checkpoints import write
from lite3r_cli.checkpoints.tensor_sources import open_source
from lite3r_cli.checkpoints.write import CheckpointWriter, Slot, save_tensors
from lite3r_cli.errors import OutputError
from lite3r_cli.io.transaction import Transaction


def save(output: Path, value: float, shards: int, **options) -> list[Path]:
    """A checkpoint of `shards` tensors of one value, in as many files; the paths of its files."""
    slots = [Slot(f"t{i}", torch.float32, (5,)) for i in range(shards)]
    with CheckpointWriter(output, slots, {"value": str(value)}, shard_bytes=20, overwrite=True, **options) as out:
        for slot in reversed(slots):
            out.write(slot.name, torch.full((5,), value))
    return out.files


def values(path: Path) -> set[float]:
    with open_source(path) as source:
        return {float(x) for name in source.entries for x in source.read(name)}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("before, after", [(3, 2), (3, 1), (1, 4), (2, 2), (1, 1)])
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error", "x")], ids=["ctrl-c", "eio"])
def test_a_stop_at_any_rename_leaves_the_old_set_whole(tmp_path, monkeypatch, before, after, failure):
    output = tmp_path / "m.safetensors"
    first = save(output, 1.0, before)[0]
    old = tree(tmp_path)
    move = Transaction._move
    for step in range(1, 20):
        calls = []

        def fails(self, source, target, step=step, calls=calls):
            calls.append(source)
            if len(calls) == step:
                raise failure
            move(self, source, target)

        monkeypatch.setattr(Transaction, "_move", fails)
        try:
            files = save(output, 2.0, after)
        except (OutputError, KeyboardInterrupt):
            assert tree(tmp_path) == old and values(first) == {1.0}
            continue
        break
    assert step == len(old) + len(files) + 1  # every rename has failed once
    assert sorted(tree(tmp_path)) == sorted(path.name for path in files) and values(files[0]) == {2.0}


def test_a_killed_commit_is_undone_by_the_next_writer(tmp_path):
    output = tmp_path / "m.safetensors"
    first = save(output, 1.0, 3)[0]
    old = tree(tmp_path)
    script = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_write import Transaction, save
move, calls = Transaction._move, []
def dies(self, source, target):
    calls.append(source)
    if len(calls) == 6: os.kill(os.getpid(), signal.SIGKILL)
    move(self, source, target)
Transaction._move = dies
save(Path(sys.argv[1]), 2.0, 2)
"""
    command = [sys.executable, "-c", script, str(output), str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL and not first.exists()
    with pytest.raises(OutputError, match="exists"):  # looks again after the old set is back
        with CheckpointWriter(output, [Slot("t", torch.float32, (1,))], {}):
            pass
    assert tree(tmp_path) == old and values(first) == {1.0}


def test_what_is_in_the_way_is_refused_before_anything_is_written(tmp_path):
    output = tmp_path / "m.safetensors"
    files = save(output, 1.0, 2)
    old = tree(tmp_path)
    # replacing the old index would delete a shard of the source
    with pytest.raises(OutputError, match="this is the checkpoint that is read"):
        save(output, 2.0, 1, sources=files[1:2])
    with pytest.raises(OutputError, match="exists; give --overwrite"):
        with CheckpointWriter(output, [Slot("t", torch.float32, (1,))], {}):
            pass
    (tmp_path / "n.safetensors").mkdir()
    with pytest.raises(OutputError, match="n.safetensors"):
        save(tmp_path / "n.safetensors", 2.0, 1)
    (tmp_path / "n.safetensors").rmdir()
    assert tree(tmp_path) == old


def test_two_writers_and_a_full_disk(tmp_path, monkeypatch):
    output = tmp_path / "m.safetensors"
    slots = [Slot("t", torch.float32, (2,))]
    with CheckpointWriter(output, slots, {}) as out:
        with pytest.raises(OutputError, match="another run"):
            save(output, 1.0, 1)
        out.write("t", torch.ones(2))
    assert sorted(tree(tmp_path)) == ["m.safetensors"]

    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write_all", full)
        with pytest.raises(OutputError, match=r"m.safetensors: .*disk is full"):
            save(output, 2.0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(write.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
        with pytest.raises(OutputError, match="only 0.0 MB are free"):
            save(output, 2.0, 1)
    assert values(output) == {1.0} and sorted(tree(tmp_path)) == ["m.safetensors"]


def test_the_order_of_metadata_and_tensors_changes_no_byte(tmp_path):
    """`train` promises the same bytes for the same seed; sets and libraries order differently in each process."""
    one, two = {"a": torch.zeros(2), "b": torch.ones(3)}, {"model": "mini", "config": "{}", "recipe": "{}"}
    save_tensors(tmp_path / "a.safetensors", one, two)
    save_tensors(tmp_path / "b.safetensors", dict(reversed(one.items())), dict(reversed(two.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_folders_are_brought_to_the_disk_too(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save_tensors(tmp_path / "state.safetensors", {"a": torch.zeros(())}, {}, beside={"log.jsonl": b"{}\n"})
    names = [Path(path).name for path in synced]
    assert names.index("state.safetensors") < names.index("journal.tmp") < len(names) - 1 and "log.jsonl" in names
    assert synced[-1] == str(tmp_path)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_checkpoint_is_the_users(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode
