"""In folders where others may write, existing files are not trusted by name and no link is followed.

The user in these tests cannot change, so
another user's files are told by what cannot be faked: mode, kind and marker (and the owner, where root runs the tests).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lite3r_cli.checkpoints.write import save_tensors
from lite3r_cli.errors import OutputError
from lite3r_cli.io import beneath, transaction
from lite3r_cli.io.atomic import OutputSet
from lite3r_cli.io.locks import run_folder
from lite3r_cli.io.log_lines import append_line
from lite3r_cli.io.transaction import ABOUT, MARKER, Transaction, replace_file
from lite3r_cli.long.work_folder import WorkFolder

HIDDEN = ".scene.ply.lite3r-0123456789ab"


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def produce(target: Path, content: bytes = b"one", **options) -> None:
    with OutputSet(target, **options) as out:
        out.cloud.write_bytes(content)
        out.path("cameras.json").write_bytes(content)
        out.path("depth/a.png").write_bytes(content)
        out.commit({})


def plant(place: Path, marker: bool = True) -> Path:
    """A hidden folder with a journal that removes scene/depth/b.png and brings back scene/depth/c.png."""
    thesis = place.parent / "scene/depth/b.png"
    thesis.parent.mkdir(parents=True)
    thesis.write_bytes(b"years of work")
    (place / "new/scene").mkdir(parents=True)
    (place / "new/scene/run.json").write_text("{}")
    (place / "old/scene/depth").mkdir(parents=True)
    (place / "old/scene/depth/c.png").write_text("planted")
    stat = thesis.stat()
    files = {"scene/depth/b.png": [stat.st_size, stat.st_mtime_ns]}
    (place / "journal.json").write_text(json.dumps({"last": "scene/run.json", "files": files}))
    if marker:
        (place / MARKER).write_text(ABOUT)
    place.chmod(0o700)
    return place


def no_marker(place: Path) -> None:
    plant(place, marker=False)


def open_to_others(place: Path) -> None:
    plant(place).chmod(0o770)


def marker_is_a_link(place: Path) -> None:
    plant(place, marker=False)
    (place / MARKER).symlink_to("journal.json")


def a_link(place: Path) -> None:
    plant(place.with_name("elsewhere"))
    place.symlink_to("elsewhere")


def longer_name(place: Path) -> None:  # the hidden folder of another output, "scene.ply.lite3r-0"
    plant(place.with_name(".scene.ply.lite3r-0.lite3r-0123456789ab"))


def of_another_user(place: Path) -> None:
    os.chown(plant(place), 2001, 2001)


@pytest.mark.parametrize("strange", [no_marker, open_to_others, marker_is_a_link, a_link, longer_name, of_another_user])
def test_what_is_not_a_stopped_run_of_ours_is_neither_believed_nor_removed(tmp_path, strange) -> None:
    if strange is of_another_user and os.geteuid():
        pytest.skip("only root can make another user's files")
    strange(tmp_path / HIDDEN)
    before = tree(tmp_path)
    produce(tmp_path / "scene.ply")
    assert before.items() <= tree(tmp_path).items() and not (tmp_path / "scene/depth/c.png").exists()


DAMAGED = ("[[3, [1, 2]]]", "7", "[" * 100_000, '{}, "decider": 3', '{}, "follower": {"root": "/", "name": 7}')


@pytest.mark.parametrize("files", ["{}", *DAMAGED, '{}, "follower": {"root": "\\u0000", "name": "a", "hidden": "b"}'])
def test_a_journal_that_is_damaged_is_told(tmp_path, files: str) -> None:
    (plant(tmp_path / HIDDEN) / "journal.json").write_text(f'{{"last": "scene/run.json", "files": {files}}}')
    if files in DAMAGED:
        with pytest.raises(OutputError, match="left by a stopped run and damaged"):
            produce(tmp_path / "scene.ply")
    assert (tmp_path / "scene/depth/b.png").exists()


def test_a_stopped_run_of_ours_is_undone_but_for_what_it_may_not_touch(tmp_path) -> None:
    plant(tmp_path / HIDDEN)
    (tmp_path / HIDDEN / "old/mine.txt").write_text("not of this output")
    (tmp_path / HIDDEN / "old/scene/evil.desktop").write_text("no file of a scene")
    (tmp_path / HIDDEN / "old/scene/link").symlink_to("/etc")
    (tmp_path / ".scene.ply.lite3r-000000000000").mkdir(mode=0o700)  # stopped before its marker
    produce(tmp_path / "scene.ply")
    left = set(tree(tmp_path))
    assert "scene/depth/c.png" in left and "scene/depth/b.png" not in left and "mine.txt" not in left
    assert "scene/evil.desktop" not in left
    assert not os.path.lexists(tmp_path / "scene/link") and not [
        name for name in os.listdir(tmp_path) if name[0] == "."
    ]


@pytest.mark.parametrize("name", ["scene", "scene/depth", "scene/depth/a.png", ".scene.ply.lock"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_no_link_within_an_output_is_followed(tmp_path, name: str, overwrite: bool) -> None:
    victim, output = tmp_path / "victim", tmp_path / "out"
    produce(victim / "scene.ply")  # complete and listed: a link to it looks like an old output
    link = output / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / name)
    (output / "scene.ply").write_bytes(b"one")
    if name != "scene":
        (output / "scene.ply").unlink()
    before = tree(victim)
    with pytest.raises(OutputError, match=name):
        produce(output / "scene.ply", b"two", overwrite=overwrite)
    assert tree(victim) == before and link.is_symlink()


def test_a_pipe_in_place_of_the_lock_does_not_hang(tmp_path) -> None:
    os.mkfifo(tmp_path / ".scene.ply.lock")
    with pytest.raises(OutputError, match="is in the way"):
        produce(tmp_path / "scene.ply")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_bytes(b"mine")


def edited(path: Path) -> None:
    path.write_bytes(b"edited by hand")


def linked(path: Path) -> None:
    path.rename(path.with_name("mine"))
    path.symlink_to("mine")


@pytest.mark.parametrize("change", [a_folder, edited, linked])
@pytest.mark.parametrize("name", ["scene/cameras.json", "scene/depth/a.png"])
def test_overwrite_takes_only_what_is_as_it_was_written(tmp_path, change, name: str) -> None:
    produce(tmp_path / "scene.ply")
    change(tmp_path / name)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=Path(name).name):
        produce(tmp_path / "scene.ply", b"two", overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("listed", ["thesis.txt", "other.safetensors", "m-00001-of-00002.txt"])
def test_an_index_cannot_name_what_is_removed(tmp_path, listed: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": listed, "b": ".."}}))
    (tmp_path / listed).write_bytes(b"mine")
    save_tensors(tmp_path / "m.safetensors", {"t": torch.zeros(2)}, {})
    assert tree(tmp_path)[listed] == b"mine" and "m.safetensors.index.json" not in tree(tmp_path)


def test_a_checkpoint_does_not_take_the_place_of_a_link(tmp_path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "m.safetensors").symlink_to("precious")
    with pytest.raises(OutputError, match="m.safetensors: is in the way"):
        save_tensors(tmp_path / "m.safetensors", {"t": torch.zeros(2)}, {})
    assert tree(tmp_path)["precious"] == b"mine" and (tmp_path / "m.safetensors").is_symlink()


def test_a_folder_that_is_moved_during_a_commit_is_told(tmp_path, monkeypatch) -> None:
    place, exchange = tmp_path / "a", Transaction._exchange

    def moved(files: Transaction, change) -> None:
        place.rename(tmp_path / "b")
        exchange(files, change)

    monkeypatch.setattr(Transaction, "_exchange", moved)
    with pytest.raises(OutputError, match="is gone; somebody has removed it, or its folder"):
        replace_file(place / "t.txt", b"new")
    assert (tmp_path / "b/t.txt").read_bytes() == b"new" and not place.exists()


def test_a_pipe_is_no_log(tmp_path) -> None:
    os.mkfifo(tmp_path / "log.jsonl")
    with pytest.raises(OutputError, match="log.jsonl: is in the way"):
        append_line(tmp_path / "log.jsonl", "{}\n")


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_log_is_not_written_through_a_link(tmp_path, make) -> None:
    (tmp_path / "precious").write_bytes(b"mine\n")
    make(tmp_path / "precious", tmp_path / "log.jsonl")
    with pytest.raises(OutputError, match="log.jsonl"):
        append_line(tmp_path / "log.jsonl", "{}\n")
    with pytest.raises(OutputError) if make is os.symlink else pytest.MonkeyPatch.context():
        replace_file(tmp_path / "log.jsonl", b"new")
    assert (tmp_path / "precious").read_bytes() == b"mine\n"


def the_victims_link(place: Path, home: Path) -> None:
    place.symlink_to(home)


def the_victims_folder(place: Path, home: Path) -> None:
    home.rename(place)


@pytest.mark.parametrize("exchange", [the_victims_link, the_victims_folder])
@pytest.mark.parametrize("kind", ["output", "chunks"])
def test_a_hidden_folder_that_somebody_has_exchanged_is_neither_committed_nor_removed(tmp_path, exchange, kind) -> None:
    """In a folder without the sticky bit others can rename the hidden folder, and put there what leads to the victim's
    own files: another folder of his in the same place, or a link.
    """
    home, place = tmp_path / "home", tmp_path / HIDDEN
    (home / "docs").mkdir(parents=True)
    (home / "docs/thesis.txt").write_text("years of work")
    (home / "new").mkdir()
    (home / "new/scene.ply").write_bytes(b"evil")
    before = tree(home)
    if kind == "output":
        with pytest.raises(OutputError, match="exchanged"), OutputSet(tmp_path / "scene.ply") as out:
            place = out.cloud.parents[1]
            place.rename(tmp_path / "taken")
            exchange(place, home)
            (place / "new/scene").mkdir()
            out.commit({})
        assert not (tmp_path / "scene.ply").exists()
    else:
        with WorkFolder(place, {}, resume=False, tell=print):
            place.rename(tmp_path / "taken")
            exchange(place, home)
    assert before.items() <= tree(home if exchange is the_victims_link else place).items()


def test_a_folder_that_is_removed_meanwhile_is_called_gone(tmp_path) -> None:
    with pytest.raises(OutputError, match="is gone; somebody has removed it"), OutputSet(tmp_path / "out/s.ply") as out:
        shutil.rmtree(tmp_path / "out")
        out.commit({})


MOMENTS = {
    "clearing": (beneath.shutil, "rmtree"),
    "unlocking": (transaction, "give_back"),
    "renaming": (Transaction, "_move"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_while_cleaning_up_waits_for_its_end(tmp_path, monkeypatch, moment: str) -> None:
    produce(tmp_path / "scene.ply")
    owner, name = MOMENTS[moment]
    genuine = getattr(owner, name)

    def hit(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return genuine(*arguments, **options)

    monkeypatch.setattr(owner, name, hit)
    with pytest.raises(KeyboardInterrupt):
        produce(tmp_path / "scene.ply", b"two", overwrite=True)
    files = tree(tmp_path)
    assert files["scene.ply"] == b"two" and not [path for path in files if path.startswith(".")]


def test_what_a_power_cut_meets_is_on_the_disk_in_order(tmp_path, monkeypatch) -> None:
    """Content, then journal, then renames, then their folders, then the file that says "complete", then its folder."""
    produce(tmp_path / "scene.ply")
    events: list[tuple[str, str]] = []
    fsync, move = os.fsync, Transaction._move

    def synced(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(tmp_path).as_posix()
        events.append(("sync", "/".join(part for part in path.split("/") if not part.startswith(".scene"))))
        fsync(descriptor)

    def moved(self, source: str, target: str) -> None:
        events.append(("move", target))
        move(self, source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Transaction, "_move", moved)
    produce(tmp_path / "scene.ply", b"two", overwrite=True)
    first = next(i for i, event in enumerate(events) if event[0] == "move")
    last = events.index(("move", "scene/run.json"))
    before, between, after = events[:first], events[first:last], events[last:]
    contents = {("sync", f"new/{name}") for name in ("scene.ply", "scene/run.json", "scene/depth/a.png")}
    assert contents <= set(before[: before.index(("sync", "journal.tmp"))])
    assert before[-2:] == [("sync", ""), ("sync", ".")]  # the hidden folder, and its own entry
    renamed = max(i for i, event in enumerate(between) if event[0] == "move")
    assert {("sync", name) for name in (".", "scene", "scene/depth")} <= set(between[renamed:])
    assert ("sync", "scene") in after and all(kind == "sync" for kind, _ in after[1:])


def test_no_name_leads_out_of_the_folder(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="leads out"), Transaction(tmp_path / "out", "a", lambda name: True) as files:
        (files.new / "a").write_bytes(b"")
        files._move(f"{files.staging.name}/new/a", "../a")
    assert os.listdir(tmp_path) == ["out"] and not os.listdir(tmp_path / "out")


@pytest.mark.parametrize(
    ("mode", "owner", "planted"),
    [(0o41777, 0, True), (0o41777, 7, False), (0o41775, 0, False), (0o40777, 0, False), (0o40700, 0, False)],
)
def test_whose_link_in_a_folder_like_tmp_is_not_followed(mode, owner, planted):
    folder = SimpleNamespace(st_mode=mode, st_uid=owner)
    assert beneath._is_planted(SimpleNamespace(st_uid=7), folder) == (planted and os.geteuid() != 7)
    assert not beneath._is_planted(SimpleNamespace(st_uid=os.geteuid()), folder)


def test_a_planted_link_is_no_way_to_an_output(tmp_path, monkeypatch):
    monkeypatch.setattr(beneath, "_is_planted", lambda link, folder: True)
    home = tmp_path / "home"
    (home / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    for place in (tmp_path / "link", tmp_path / "link/below", tmp_path / "link/new"):
        with pytest.raises(OutputError, match=r"it is a link"), run_folder(place):
            pass
        with pytest.raises(OutputError, match=r"it is a link"):
            replace_file(place / "plot.png", b"")
    assert [path.name for path in home.rglob("*")] == ["below"]
