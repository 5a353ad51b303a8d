"""Outputs appear whole or not at all, and nothing of the user's is touched."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lite3r_cli.commands.reconstruct import _is_done
from lite3r_cli.errors import OutputError, UsageError
from lite3r_cli.io import transaction
from lite3r_cli.io.atomic import OutputSet, bring_right
from lite3r_cli.io.files import write_bytes
from lite3r_cli.io.output_layout import is_complete, output_layout
from lite3r_cli.io.transaction import MARKER, Transaction


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under `folder`, hidden ones included, and its content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def produce(target: str | Path, content: bytes = b"one", names: tuple[str, ...] = ("depth/a.png",), **options) -> None:
    with OutputSet(target, **options) as out:
        out.cloud.write_bytes(content)
        out.path("cameras.json").write_bytes(content)
        for name in names:
            out.path(name).write_bytes(content)
        out.commit({"seed": 0})


def test_layout_of_a_file_and_of_a_folder(tmp_path: Path) -> None:
    produce(tmp_path / "new" / "scene.ply")
    produce(f"{tmp_path}/v1.2/")
    rest = {"cameras.json", "depth/a.png", "run.json"}
    assert set(tree(tmp_path / "new")) == {"scene.ply", *(f"scene/{name}" for name in rest)}
    assert set(tree(tmp_path / "v1.2")) == {"scene.ply", *rest}
    run = json.loads((tmp_path / "new/scene/run.json").read_text())
    assert run["seed"] == 0 and set(run["files"]) == {"scene.ply", "scene/cameras.json", "scene/depth/a.png"}
    assert run["files"]["scene.ply"]["bytes"] == 3
    for name in ("scene.obj", "scene.html", "scene.MP4", "scene.safetensors"):
        with pytest.raises(UsageError, match="ends in .ply"):
            output_layout(name)
    (tmp_path / "scene.zip").mkdir()  # folders may have any name
    assert output_layout(tmp_path / "scene.zip").cloud == output_layout("scene.zip/").cloud == "scene.ply"
    with pytest.raises(UsageError, match="empty"):
        output_layout("")


def test_complete_means_every_listed_file_in_its_size(tmp_path: Path) -> None:
    target = tmp_path / "scene.ply"
    assert not is_complete(target)
    produce(target)
    assert is_complete(target)
    (tmp_path / "scene/depth/a.png").write_bytes(b"truncated")
    assert not is_complete(target)
    (tmp_path / "scene/run.json").write_text('{"files": {"../etc": {"bytes": 0}}}')
    assert not is_complete(target)


def test_overwrite_replaces_only_what_we_wrote(tmp_path: Path) -> None:
    target = tmp_path / "scene.ply"
    produce(target, names=("depth/a.png", "depth/b.png", "confidence/b.png"))
    (tmp_path / "scene/depth/mine.png").write_bytes(b"mine")
    (tmp_path / "mine.txt").write_bytes(b"mine")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        produce(target, b"two")
    assert tree(tmp_path) == before
    produce(target, b"two", overwrite=True)
    after = tree(tmp_path)
    assert after.pop("scene/run.json") and is_complete(target)
    assert after == {
        "scene.ply": b"two",
        "scene/cameras.json": b"two",
        "scene/depth/a.png": b"two",
        "scene/depth/mine.png": b"mine",
        "mine.txt": b"mine",
    }
    assert not (tmp_path / "scene/confidence").exists()


STRANGERS = ["scene.ply", "scene/cameras.json", "scene/run.json", "scene/depth/a.png", "scene"]


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_file_of_the_user_is_never_replaced(tmp_path: Path, stranger: str) -> None:
    (tmp_path / stranger).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / stranger).write_bytes(b"mine")
    with pytest.raises(OutputError, match=Path(stranger).name):
        produce(tmp_path / "scene.ply", overwrite=True)
    assert tree(tmp_path) == {stranger: b"mine"}


def test_a_forged_list_of_files_cannot_reach_outside(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/a.png").write_bytes(b"mine")
    for name, link in (("out1", None), ("out2", "linked")):
        folder = tmp_path / name
        folder.mkdir()
        if link:
            (folder / link).symlink_to(tmp_path / "precious")
        listed = f"{link}/a.png" if link else "../precious/a.png"
        (folder / "run.json").write_text(json.dumps({"files": {listed: {"bytes": 4}}}))
        with pytest.raises(OutputError, match="run.json"):
            produce(folder, overwrite=True)
    assert (tmp_path / "precious/a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "mine", ["notes.txt", "thesis.ply", "depth/0.txt", "images/mine.gif", "sparse/0/a.ply", "deep/x.npy", ".png"]
)
def test_a_forged_list_cannot_name_a_file_that_is_no_output(tmp_path: Path, mine: str) -> None:
    produce(tmp_path / "scene.ply")
    path, record = tmp_path / "scene" / mine, tmp_path / "scene/run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    listed = json.loads(record.read_text())
    listed["files"][f"scene/{mine}"] = {"bytes": 4}
    record.write_text(json.dumps(listed))
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="run.json"):
        produce(tmp_path / "scene.ply", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    ['{"files": {"scene/' + "y/" * 2000 + 'a": {"bytes": 4}}}', "[" * 100_000, '{"files": ' * 1000 + "1" + "}" * 1000],
)
def test_a_forged_list_cannot_hold_up_or_break_the_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene/run.json").write_text(text)
    with pytest.raises(OutputError, match="run.json"):
        produce(tmp_path / "scene.ply", overwrite=True)
    assert tree(tmp_path) == {"scene/run.json": text.encode()}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OutputError, SystemExit])
def test_an_exception_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    with pytest.raises(stop), OutputSet(tmp_path / "deep/er/scene.ply") as out:
        out.path("depth/a.png").write_bytes(b"half")
        raise stop("stopped")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", range(1, 9))
@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error", "x")], ids=["ctrl-c", "eio"])
def test_a_commit_that_fails_at_any_rename_is_undone(tmp_path, monkeypatch, step: int, failure: BaseException) -> None:
    target = tmp_path / "scene.ply"
    produce(target)
    before = tree(tmp_path)
    move, calls = Transaction._move, []

    def fails(self, source, destination):
        calls.append(source)
        if len(calls) == step:
            raise failure
        move(self, source, destination)

    monkeypatch.setattr(Transaction, "_move", fails)
    with pytest.raises(OutputError if isinstance(failure, OSError) else KeyboardInterrupt):
        produce(target, b"two", names=("depth/c.png",), overwrite=True)
    assert len(calls) == step
    assert tree(tmp_path) == before and not (tmp_path / "scene/depth/c.png").exists()


def test_a_killed_commit_is_undone_by_the_next_run(tmp_path: Path) -> None:
    target = tmp_path / "scene.ply"
    produce(target)
    script = """
import os, signal, sys
from lite3r_cli.io.atomic import OutputSet, bring_right
from lite3r_cli.io.transaction import MARKER, Transaction
move, calls = Transaction._move, []
def dies(self, source, target):
    calls.append(source)
    if len(calls) == 6: os.kill(os.getpid(), signal.SIGKILL)
    move(self, source, target)
Transaction._move = dies
with OutputSet(sys.argv[1], overwrite=True) as out:
    out.cloud.write_bytes(b"two")
    out.path("depth/z.png").write_bytes(b"two")
    out.commit({})
"""
    done = subprocess.run([sys.executable, "-c", script, str(target)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL and not is_complete(target)
    assert _is_done(str(target))  # what --skip-existing asks first
    assert is_complete(target) and target.read_bytes() == b"one"
    assert set(tree(tmp_path)) == {"scene.ply", "scene/cameras.json", "scene/depth/a.png", "scene/run.json"}


def test_a_mounted_folder_is_told_before_the_work(tmp_path: Path, monkeypatch) -> None:
    produce(tmp_path / "scene.ply")
    before, lstat = tree(tmp_path), Path.lstat
    for mounted in ("scene", "scene/depth"):

        def other_device(path: Path, mounted=mounted):
            found = lstat(path)
            return found if path != tmp_path / mounted else os.stat_result([*found[:2], found.st_dev + 1, *found[3:]])

        with monkeypatch.context() as patch:
            patch.setattr(Path, "lstat", other_device)
            with pytest.raises(OutputError, match=f"{mounted}: something is mounted here"):
                OutputSet(tmp_path / "scene.ply", overwrite=True).__enter__()
        assert tree(tmp_path) == before


def test_two_runs_into_one_output(tmp_path: Path) -> None:
    with OutputSet(tmp_path / "scene.ply") as first:
        with pytest.raises(OutputError, match="another run"):
            produce(tmp_path / "scene.ply")
        produce(tmp_path / "other.ply")
        first.cloud.write_bytes(b"first")
        first.commit({})
    assert (tmp_path / "scene.ply").read_bytes() == b"first" and is_complete(tmp_path / "other.ply")
    assert not [name for name in tree(tmp_path) if name.startswith(".")]


SPELLINGS = [("w/", "w.ply"), ("w.ply", "w/"), ("w.ply", "w.PLY"), ("a/b/w.ply", "a/b/w/")]


@pytest.mark.parametrize(("first", "second"), SPELLINGS)
def test_two_spellings_of_one_folder_are_one_output_at_a_time(tmp_path: Path, first: str, second: str) -> None:
    with OutputSet(f"{tmp_path}/{first}") as out:
        with pytest.raises(OutputError, match="another run is writing here"):
            produce(f"{tmp_path}/{second}")
        out.cloud.write_bytes(b"first")
        out.path("cameras.json").write_bytes(b"first")
        out.commit({})
    assert is_complete(f"{tmp_path}/{first}") and not [name for name in tree(tmp_path) if ".lock" in name]


@pytest.mark.parametrize(("first", "second"), [*SPELLINGS[:2], ("scene.ply", "scene/"), ("scene/", "scene.ply")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_scene_that_has_the_folder_is_named(tmp_path, monkeypatch, first: str, second: str, overwrite: bool) -> None:
    """Also from inside its folder, where its name is not in the path."""
    monkeypatch.chdir(tmp_path)
    produce(first)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=f"run.json: belongs to the scene {first}; use -o {first}"):
        produce(second, overwrite=overwrite)
    if second.endswith("/"):
        monkeypatch.chdir(tmp_path / second)
        with pytest.raises(OutputError, match=f"use -o {tmp_path}/{first}"):
            produce(".", overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_stopped_run_leaves_neither_lock_nor_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), OutputSet(tmp_path / "new/w.ply"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    code = f"""
import os
from lite3r_cli.io.atomic import OutputSet
OutputSet({str(tmp_path / "w.ply")!r}).__enter__()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert (tmp_path / "w").is_dir()
    bring_right(tmp_path / "w.ply")
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_does_not_block(tmp_path: Path) -> None:
    (tmp_path / ".scene.ply.lock").touch()
    leftover = tmp_path / ".scene.ply.lite3r-00000000dead"
    leftover.mkdir(mode=0o700)
    (leftover / MARKER).touch()
    produce(tmp_path / "scene.ply")
    assert not leftover.exists()
    assert set(tree(tmp_path)) == {"scene.ply", "scene/cameras.json", "scene/depth/a.png", "scene/run.json"}


def test_disk_full(tmp_path, monkeypatch) -> None:
    target = tmp_path / "scene.ply"
    produce(target)
    before = tree(tmp_path)
    if os.path.exists("/dev/full"):
        with pytest.raises(OutputError, match="disk is full"):
            write_bytes(Path("/dev/full"), b"data")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transaction.os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full") as caught:
        produce(target, b"two", overwrite=True)
    assert tree(tmp_path) == before
    assert str(caught.value).startswith(f"{target}: ")  # the name the user knows, not the temporary one


def test_a_writer_out_of_space_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"{tmp_path}/scene/depth/a.png: .*disk is full"):
        with OutputSet(tmp_path / "scene.ply") as out:
            raise OSError(errno.ENOSPC, "No space left on device", str(out.path("depth/a.png")))


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file/scene.ply", "/dev/null", "/proc/lite3r/scene.ply", tmp_path / f"{'x' * 255}.ply"):
        with pytest.raises(OutputError):
            produce(target)
    assert set(tree(tmp_path)) == {"file"}


def test_a_refused_rename_names_the_place_that_the_user_knows(tmp_path, monkeypatch) -> None:
    target = tmp_path / "scene.ply"
    produce(target)

    def refused(self, source, destination):
        raise PermissionError(errno.EACCES, "", f"{self.root}/{source}", None, f"{self.root}/{destination}")

    for overwrite, other in ((True, target), (False, tmp_path / "b.ply")):  # moving aside, moving into place
        with monkeypatch.context() as patch, pytest.raises(OutputError, match="permission denied") as caught:
            patch.setattr(Transaction, "_move", refused)
            produce(other, b"two", overwrite=overwrite)
        assert ".lite3r-" not in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/{other.name[0]}")
    assert target.read_bytes() == b"one"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="permission denied"):
        produce(tmp_path / "scene.ply")


@pytest.mark.parametrize("kind", ["file", "dangling", "device"])
def test_a_folder_that_is_none_is_said(tmp_path: Path, kind: str) -> None:
    place = tmp_path / kind
    if kind == "file":
        place.write_bytes(b"x")
    elif kind == "dangling":
        place.symlink_to("nowhere")
    else:
        place = Path("/dev/null")
    with pytest.raises(OutputError, match="not a folder; write elsewhere"), OutputSet(place / "scene.ply"):
        pass
    assert len(list(tmp_path.iterdir())) == (kind != "device")


@pytest.mark.parametrize(("change", "first"), [("gone", ""), ("cut", "move or remove what has changed, then ")])
def test_an_output_that_lacks_a_file_is_called_incomplete(tmp_path: Path, change: str, first: str) -> None:
    produce(tmp_path / "scene.ply", names=("depth/a.png", "depth/b.png"))
    lost = tmp_path / "scene/depth/b.png"
    lost.unlink() if change == "gone" else lost.write_bytes(b"")
    with (
        pytest.raises(OutputError, match=f"scene/depth/b.png is missing or has changed; {first}--overwrite"),
        OutputSet(tmp_path / "scene.ply"),
    ):
        pass


def test_where_nothing_can_be_locked_nothing_stays(tmp_path: Path, monkeypatch) -> None:
    def refuses(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("lite3r_cli.io.locks.fcntl.flock", refuses)
    with pytest.raises(OutputError, match="No locks available.*local disk"), OutputSet(tmp_path / "a" / "scene.ply"):
        pass
    assert not list(tmp_path.iterdir())
