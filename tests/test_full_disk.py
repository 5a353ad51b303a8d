"""A full disk at every write of every command: exit code 7, one line, nothing left, the old result intact.

The limit on the size of a file that the system keeps for each process (RLIMIT_FSIZE) makes every write fail that goes
beyond it, in whatever library it is made; and each file operation of a commit fails once.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import on_the_disk_in_order, photograph

from lite3r_cli.checkpoints import write
from lite3r_cli.checkpoints.write import CheckpointWriter, Slot
from lite3r_cli.cli import main
from lite3r_cli.data.procedural import scene_folder
from lite3r_cli.data.procedural.scene_folder import write_scene
from lite3r_cli.errors import OutputError
from lite3r_cli.io import atomic
from lite3r_cli.io.atomic import OutputSet
from lite3r_cli.io.files import write_bytes
from lite3r_cli.io.locks import acquire, give_back
from lite3r_cli.io.transaction import Transaction, commit_together, recover, replace_file, require_writable
from lite3r_cli.networks import standin
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.pipelines import train_mini as train
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.state import save_weights
from lite3r_cli.training.train_loop import Batch

TINY = MiniConfig(dim=32, depth=4, heads=2, alternate_from=1, taps=(0, 1, 2, 3), head_features=16,
                  head_stages=(8, 8, 8, 8), camera_hidden=16, position_grid=4)  # fmt: skip
COMMANDS = {
    "reconstruct": ("reconstruct photos -m tiny.safetensors -o out/scene.ply -f glb -f colmap -r 56", " --seed 1"),
    "convert": ("convert tiny.safetensors -o out/c.safetensors", " --weights float32"),
    "shards": ("convert tiny.safetensors -o out/c.safetensors --shard-size 40K", " --weights float32"),
    "synth": ("synth -o out --views 2 --width 64 --height 48 --samples 1", " --seed 1"),
    "distill": ("distill photos -m tiny.safetensors -o out/d.safetensors --steps 2 --views 2 -r 56 "
                "--calibration-batches 1 --validate-every 1", " --seed 1"),
    "view": ("view made/scene.ply -o out/page.html", ""),
    "film": ("render made/scene.ply -o out/f.mp4 --seconds 0.2 --fps 10 --size 64x48", " --path orbit"),
    "frames": ("render made/scene.ply --frames out/f --seconds 0.2 --fps 10 --size 64x48", " --path orbit"),
    "chunks": ("reconstruct photos more -m tiny.safetensors -o out/scene.ply -r 56 --chunk 3 --no-loops", " --seed 1"),
    "train": ("train -o out --max-steps 2 --device cpu", None),  # without --overwrite
}  # fmt: skip

MADE = "reconstruct photos -m tiny.safetensors -o made/scene.ply -r 56 -q"
FSYNC = os.fsync


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def place(tmp_path, monkeypatch, small_atlas) -> Path:
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        photograph(tmp_path / f"photos/{i}.png", seed=i)
        photograph(tmp_path / f"more/{i}.png", seed=i)
    model = Mini(TINY)
    standin.fill(model, 1)
    save_weights(tmp_path / "tiny.safetensors", model.state_dict(), model, torch.float16)
    monkeypatch.setattr(train, "Mini", lambda config: Mini(TINY))
    monkeypatch.setattr(train, "TrainingData", Fixed)
    return tmp_path


class Fixed:
    """Batches of `lite3r train` that need no ray-caster."""

    def __init__(self, *arguments: object) -> None:
        pass

    def batches(self, first: int) -> Iterator[Batch]:
        images = torch.rand(1, 2, 3, 28, 42, generator=torch.Generator().manual_seed(0))
        K = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]).expand(1, 2, 3, 3)
        poses = torch.eye(3, 4).repeat(1, 2, 1, 1)
        while True:
            yield Batch(images, Targets(1 + images.mean(2), K, poses, torch.zeros(1, dtype=torch.long)))


def test_a_batch_is_on_the_disk_in_order(place: Path) -> None:
    shutil.copytree(place / "photos", place / "sets/a")
    with on_the_disk_in_order(place / "out"):
        assert main("batch sets -o out -m tiny.safetensors -r 56 -q".split()) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_write_that_does_not_fit(place: Path, capsys, command: str) -> None:
    words, other = COMMANDS[command]
    if "made" in words:
        assert main(MADE.split()) == 0
    before = tree(place)
    for size in (0, 300):
        with files_of_at_most(size):
            code = main([*words.split(), "-q"])
        said = capsys.readouterr().err.strip().splitlines()
        assert code == 7 and tree(place) == before and not (place / "out").exists(), said
        assert said[-1].startswith("error: ") and "cannot be written" in said[-1]
    with on_the_disk_in_order(place / "out"):
        assert main([*words.split(), "-q"]) == 0, capsys.readouterr().err
    if other is None:
        return
    before = tree(place)
    with files_of_at_most(300):
        code = main([*(words + other).split(), "--overwrite", "-q"])
    said = capsys.readouterr().err.strip().splitlines()
    assert code == 7 and tree(place) == before and said[-1].startswith("error: "), said


def test_distill_looks_for_space_before_it_trains(place: Path, capsys, monkeypatch) -> None:
    free = write.shutil.disk_usage(place)._replace(free=1000)
    monkeypatch.setattr(write.shutil, "disk_usage", lambda path: free)
    before = tree(place)
    assert main([*COMMANDS["distill"][0].split(), "-q"]) == 7
    assert "only 0.0 MB are free" in capsys.readouterr().err and tree(place) == before and not (place / "out").exists()


LOCKS = {
    "reconstruct": "out/.scene.ply.lock", "convert": "out/.c.safetensors.lock", "shards": "out/.c.safetensors.lock",
    "synth": "out/.scene-000.lock", "distill": "out/d/.lite3r.lock", "train": "out/.lite3r.lock",
}  # fmt: skip


@pytest.mark.parametrize("command", LOCKS)
def test_of_two_commands_at_one_place_the_second_is_refused(place: Path, capsys, command: str) -> None:
    lock = place / LOCKS[command]
    lock.parent.mkdir(parents=True)
    descriptor = acquire(lock)
    before = tree(place)
    assert main([*COMMANDS[command][0].split(), "-q"]) == 7
    assert "another run is writing here" in capsys.readouterr().err and tree(place) == before
    give_back(descriptor, lock)


# -- every operation of a commit ---------------------------------------------------------------------------------------


def scene(folder: Path, value: int) -> None:
    with OutputSet(folder / "scene.ply", overwrite=True) as out:
        for path in (out.cloud, out.path("cameras.json"), out.path(f"depth/{value}.png")):
            path.write_bytes(bytes([value]))
        out.commit({})


def shards(folder: Path, value: int) -> None:
    slots = [Slot(f"t{i}", torch.float32, (5,)) for i in range(3 - value)]
    with CheckpointWriter(folder / "c.safetensors", slots, {}, shard_bytes=20, overwrite=True) as out:
        for slot in slots:
            out.write(slot.name, torch.full((5,), float(value)))


def synthetic(folder: Path, value: int) -> None:
    count, poses = 1 + value, np.tile(np.eye(3, 4), (2, 1, 1))
    images, K = np.full((count, 16, 24, 3), value, np.uint8), np.tile(np.diag([20.0, 20, 1]), (2, 1, 1))
    write_scene(folder / "s", images, np.ones((count, 16, 24)), K[:count], poses[:count], {})


def one_file(folder: Path, value: int) -> None:
    folder.mkdir(exist_ok=True)
    replace_file(folder / "page.html", bytes([value]))


def two_files(folder: Path, value: int) -> None:
    names = ("a.json", "a.ply")
    with Transaction(folder, "a.ply", lambda name: name in names) as files:
        for name in names:
            write_bytes(files.new / name, bytes([value]))
        files.commit(names, "a.json")


def two_places(folder: Path, value: int) -> None:
    """The frames and the video of `render`, in two folders."""
    names = ("frames/a.png", "frames.json")
    with (
        Transaction(folder / "films", "film.mp4", lambda name: name == "film.mp4") as film,
        Transaction(folder / "flight", "frames.json", lambda name: name in names) as frames,
    ):
        write_bytes(film.new / "film.mp4", bytes([value]))
        for name in names:
            write_bytes(frames.new / name, bytes([value]))
        commit_together(frames, names[::-1], "frames.json", film, ["film.mp4"])


def both_right(first: str) -> Callable[[Path], None]:
    """What the next runs do that write to one of these places, and then to the other one."""

    def right(folder: Path) -> None:
        for name in sorted(("film.mp4", "frames.json"), key=first.__ne__):
            place = folder / ("films" if name == "film.mp4" else "flight")
            recover(place, name, lambda file, name=name: name != "film.mp4" or file == name)
            found = [value for path, value in tree(folder).items() if "/." not in path]
            if first == "frames.json":  # the frames bring the video right, too
                assert len(found) in (0, 3) and len(set(found)) < 2
            with suppress(OSError):
                place.rmdir()  # an empty one is in nobody's way

    return right


PLACES = {
    "frames, then film": (two_places, both_right("frames.json")),
    "film, then frames": (two_places, both_right("film.mp4")),
    "two files": (two_files, lambda folder: require_writable(folder / "a.ply", True, folder / "a.json")),
    "scene": (scene, lambda folder: atomic.bring_right(folder / "scene.ply")),
    "shards": (shards, lambda folder: write.bring_right(folder / "c.safetensors")),
    "synthetic": (synthetic, lambda folder: scene_folder.require_free(folder / "s", True)),
}


@pytest.mark.parametrize("kind", PLACES)
def test_any_operation_that_fails_leaves_the_old_result(tmp_path, monkeypatch, kind: str) -> None:
    make, right = PLACES[kind]
    make(tmp_path / "new", 0)
    make(tmp_path / "new", 1)
    folder = tmp_path / "out"
    make(folder, 0)
    old, new, failed = tree(folder), tree(tmp_path / "new"), 0
    for at in range(1, 500):
        count = 0

        number = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)[at % 3]

        def fails(genuine, at=at, number=number):
            def operation(*arguments, **options):
                nonlocal count
                count += 1
                if count == at:
                    raise OSError(number, os.strerror(number), str(arguments[0]))
                return genuine(*arguments, **options)

            return operation

        with monkeypatch.context() as patch:
            for name in ("open", "mkdir", "rename", "replace", "fsync"):
                patch.setattr(os, name, fails(getattr(os, name)))
            try:
                make(folder, 1)
            except OutputError:
                failed += 1
        if count < at:
            break
        right(folder)  # where cleaning up failed, the next run does it
        assert not [name for name in os.listdir(folder) if name.startswith(".")], at
        if tree(folder) != old:  # complete: what failed came behind the last file
            assert tree(folder) == new, at
            make(folder, 0)
            assert tree(folder) == old
    assert failed > 12 and count < at and tree(folder) == new


class Killed(BaseException):
    """Stands for a kill: no file operation is made after it, not even in cleaning up."""


def killed_at(number: int, function) -> bool:
    """Kill a run of the function before its n-th file operation; False if it has fewer."""
    left, killed = iter(range(number - 1)), False
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "mkdir", "rename", "replace", "fsync", "unlink", "rmdir"):

            def counted(*arguments, genuine=getattr(os, name), **options):
                nonlocal killed
                killed = killed or next(left, None) is None
                if killed:
                    raise Killed
                return None if genuine is FSYNC else genuine(*arguments, **options)

            patch.setattr(os, name, counted)
        with suppress(Killed):
            function()
    return killed


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("before", [False, True])
def test_killed_at_any_operation_the_next_run_finds_the_old_result_or_the_new(tmp_path, kind: str, before: bool):
    """Folders count too: an empty one would be in the way of the next run."""

    def everything() -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))

    make, right = PLACES[kind]
    folder = tmp_path / "out"
    folder.mkdir()
    for value in (1, 0) if before else (1,):
        if value == 0:
            shutil.rmtree(folder)
        make(folder, value)
        new, names = (tree(folder), everything()) if value == 1 else (new, names)  # noqa: F821
    if not before:
        shutil.rmtree(folder)
        folder.mkdir()
    old, old_names = tree(folder), everything()
    kills = 0
    for number in range(1, 300):
        if not killed_at(number, lambda: make(folder, 1)):
            break
        kills += 1
        right(folder)
        assert (tree(folder), everything()) in ((old, old_names), (new, names)), number
        if tree(folder) != old:
            shutil.rmtree(folder)
            if before:
                make(folder, 0)
            else:
                folder.mkdir()
    assert 15 < kills < 299 and tree(folder) == new


@pytest.mark.parametrize("make", [scene, shards, synthetic, one_file])
def test_a_power_cut_finds_the_old_result_or_the_new_on_the_disk(tmp_path, monkeypatch, make) -> None:
    """Contents are synced before the journal, that before the first rename, all renames before the last one."""
    folder = tmp_path / "out"
    make(folder, 0)
    events: list[tuple[str, str]] = []
    move = Transaction._move

    def synced(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(folder)
        events.append(("sync", "/".join("HIDDEN" if ".lite3r-" in part else part for part in path.parts) or "."))

    def moved(self, source: str, target: str) -> None:
        events.append(("into place" if "/new/" in source else "aside", target))
        move(self, source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Transaction, "_move", moved)
    make(folder, 1)
    kinds = [kind for kind, _ in events]
    first = next(i for i, kind in enumerate(kinds) if kind != "sync")
    last = max(i for i, kind in enumerate(kinds) if kind == "into place")
    new = [name for kind, name in events if kind == "into place"]
    assert "aside" in kinds and sorted(new) == sorted(tree(folder))
    journal = events.index(("sync", "HIDDEN/journal.tmp"))
    assert {("sync", f"HIDDEN/new/{name}") for name in new} <= set(events[:journal])
    assert events[journal + 1 : first] == [("sync", "HIDDEN"), ("sync", ".")]
    renamed = max((i for i in range(last) if kinds[i] == "into place"), default=first - 1)
    above = {str(parent) for name in new for parent in Path(name).parents}
    assert {("sync", name) for name in above} <= set(events[renamed + 1 : last])
    assert ("sync", str(Path(new[-1]).parent)) in events[last:]
