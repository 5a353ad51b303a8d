"""A file of a scene is damaged or missing: what each command that reads it says, and that nothing is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import PlaneBackbone, photo

from lite3r_cli.cli import main
from lite3r_cli.io.ply import read_ply, write_ply
from lite3r_cli.networks.checkpoint import Checkpoint

OPTIONS = "--device cpu --resolution 112 --keep-unrelated"
MAKE = f"reconstruct photos -o out/a.ply {OPTIONS}"
COMMANDS = {
    "view": "view out/a.ply", "render": "render out/a.ply --seconds 0.2 --fps 5 --size 64x48 --device cpu",
    "splat": "splat out/a.ply --steps 1 --no-hold-out --device cpu", "locate": "locate out/a.ply new --device cpu",
    "add": "add out/a.ply new --device cpu", "merge": "merge out/a.ply second/b.ply -o c.ply --device cpu",
    "eval": "eval out/a --device cpu", "resume": f"{MAKE} --resume", "overwrite": f"{MAKE} --overwrite",
    "batch": f"batch sets -o out/batch {OPTIONS}",
}  # fmt: skip
CODES = {  # of each command in this order, None: not run; then those that differ where the file is missing
    "a/run.json": ((0, 0, 3, 3, 3, 3, None, 7, 7, None), {}),
    "a/cameras.json": ((3, 3, 3, 3, 7, 3, 3, 7, 7, None), {"add": 3, "overwrite": 0}),
    "a.ply": ((3, 3, 3, 0, 7, 0, None, 7, 7, None), {"locate": 3, "add": 3, "merge": 3, "overwrite": 0}),
    "a/memory/a1.safetensors": ((0, 0, None, 3, 7, 3, None, 7, 7, None), {"locate": 0, "add": 3, "overwrite": 0}),
    "a/depth/a1.png": ((0, 3, 3, 3, 7, 3, None, 7, 7, None), {"add": 3, "overwrite": 0}),
    "batch/one/run.json": ((None,) * 9 + (3,), {}),
    "batch/one/cameras.json": ((None,) * 9 + (3,), {}),
}
FIXES = (
    "reconstruct the scene again",
    "move",
    "--overwrite",
    "put it back",
    "name the .ply",
    "remove it",
    "is a folder",
)
DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "list": lambda data: b"[]",
    "foreign": lambda data: b'{"name": "left-pad", "version": "1.0.0"}',
    "picture": lambda data: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


def run(words: str) -> int:
    return main([*words.split(), "-q"])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "build", lambda self: PlaneBackbone())
        patch.setattr(Checkpoint, "load", lambda self, *options: PlaneBackbone())
        patch.chdir(folder)
        for k in range(3):
            photo(Path(f"photos/a{k}.png"), k)
        photo(Path("new/n.png"), 1, 0.8)
        shutil.copytree("photos", "sets/one")
        for words in (MAKE, MAKE.replace("out/a.ply", "second/b.ply"), COMMANDS["batch"]):
            assert run(words) == 0
    return folder


def content(folder: Path) -> dict[Path, bytes]:
    """All files but the records of a batch, in which the failure is noted."""
    files = [path for path in folder.rglob("*") if path.is_file() and "batch" not in f"{path.parent.name} {path.name}"]
    return {path: path.read_bytes() for path in files}


def cases() -> list[tuple[str, str]]:
    some = ("cut", "picture", "missing")
    return [(file, how) for file in CODES for how in (*DAMAGE, "missing") if file.startswith("a/") or how in some]


@pytest.mark.parametrize(("file", "how"), cases())
def test_the_message_names_the_file_and_what_to_do(made, plane_backbone, tmp_path, monkeypatch, capsys, file, how):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "out" / file
    damaged.unlink() if how == "missing" else damaged.write_bytes(DAMAGE[how](damaged.read_bytes()))
    codes, missing = CODES[file]
    shutil.copytree("out", "kept")
    for (name, words), usual in zip(COMMANDS.items(), codes):
        if usual is None:
            continue
        before = content(tmp_path)
        code, said = run(words), capsys.readouterr().err
        assert code == (missing.get(name, usual) if how == "missing" else usual), (name, said)
        assert "bug" not in said and "Traceback" not in said and "codec" not in said, said
        if code or (file == "a/run.json" and name in ("view", "render")):  # which do without
            assert damaged.name in said and (name == "eval" or any(fix in said for fix in FIXES)), (name, said)
            assert how == "missing" or "no longer where" not in said, said
        if code:
            assert content(tmp_path) == before, name
        shutil.rmtree("out")
        shutil.copytree("kept", "out")
        for path in (Path("c.ply"), Path("c")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("command", ["view", "render"])
def test_impossible_points_are_left_out_and_a_cloud_of_them_is_damaged(made, command, tmp_path, capsys, monkeypatch):
    shutil.copytree(made, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    path, words = Path("out/a.ply"), f"{COMMANDS[command]} -o made.{'html' if command == 'view' else 'mp4'} --overwrite"
    whole = path.read_bytes()
    cloud = read_ply(path)
    for count, value in ((3, np.inf), (2, np.nan), (1, 3e38)):
        cloud.points[:count, count - 1] = value
    write_ply(path, cloud)
    assert run(words) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "a.ply" in line]
    assert len(told) == 1 and f"3 of {len(cloud)} points have impossible values" in told[0]
    swapped = whole.replace(b"binary_little_endian", b"binary_big_endian", 1)
    cloud.points[:] = np.inf
    write_ply(path, cloud)
    for data in (swapped, path.read_bytes()):
        path.write_bytes(data)
        assert run(words) == 3
        assert "a.ply: damaged: " in (said := capsys.readouterr().err) and "again" in said and "Warning" not in said


ODD_NAMES = ("/", ".", "..", "\ud800.png", "a\0b.png", "x" * 5000)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name[:9]))
@pytest.mark.parametrize("file", ["run.json", "cameras.json"])
def test_names_that_no_file_can_have(made, plane_backbone, tmp_path, monkeypatch, capsys, file, name):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    path = Path("out/a") / file
    document = json.loads(path.read_text())
    if file == "run.json":
        document["files"][f"a/{name}"] = {"bytes": 1, "sha256": "0"}
        document["images"][0]["name"] = document["images"][0]["path"] = name
    else:
        document["images"] = {(name if key == "a0.png" else key): value for key, value in document["images"].items()}
    path.write_text(json.dumps(document))
    before = content(tmp_path)
    for words in COMMANDS.values():
        code, said = run(words), capsys.readouterr().err
        assert code in (0, 2, 3, 7) and "bug" not in said and "Traceback" not in said, (words, said)
        assert all(len(line) < 1600 for line in said.splitlines()), said
        now = content(tmp_path)
        assert code == 0 or all(now.get(kept) == data for kept, data in before.items()), words
        for made_now in now.keys() - before.keys():
            made_now.unlink()
