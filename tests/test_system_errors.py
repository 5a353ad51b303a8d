"""Refusals by the operating system end in one line with the right exit code; only bugs are called bugs."""

from __future__ import annotations

import errno
import os
import pickle
import pwd
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import photograph

from lite3r_cli import cli
from lite3r_cli.checkpoints import hub
from lite3r_cli.cli import main
from lite3r_cli.data.procedural.textures import load_photos
from lite3r_cli.errors import InputError, WeightsError
from lite3r_cli.io.files import output_error

LONG = "a" * 300
NOBODY = 65534  # a user without rights


@pytest.mark.parametrize(
    "words, code",
    [
        (f"eval {LONG}", 3),
        (f"reconstruct PHOTO -m {LONG}.safetensors -o x.ply", 4),
        (f"convert {LONG} -o y.safetensors", 4),
        (f"convert mini -o {LONG}.safetensors", 7),
        (f"distill PHOTO -o {LONG}.safetensors", 7),
        (f"distill {LONG} -o y.safetensors", 3),
        (f"train -o {LONG} --max-steps 1", 7),
        ("train -o FILE/x --max-steps 1", 7),
        ("distill PHOTO -o FILE/x.safetensors", 7),
        (f"synth -o {LONG}", 7),
        (f"reconstruct {LONG} -o x.ply", 2),
    ],
)
def test_names_that_no_file_can_have(tmp_path, monkeypatch, capsys, words: str, code: int) -> None:
    monkeypatch.chdir(tmp_path)
    photograph(tmp_path / "photos/a.png")
    (tmp_path / "FILE").touch()
    before = sorted(os.listdir(tmp_path))
    assert main([*words.replace("PHOTO", "photos").split(), "-q"]) == code
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and "bug" not in said
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "error, code, label",
    [
        (PermissionError(errno.EACCES, "Permission denied", "/closed/a"), 3, "error: /closed/a"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/a"), 7, "error: /full/a"),
        (OSError(errno.EROFS, "Read-only file system", "/ro/a", None, "/ro/b"), 7, "error: /ro/a → /ro/b"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), 5, "ulimit"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "/a"), 6, "error: out of memory; "),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 6, "error: out of memory; "),
        (OSError(errno.EBADF, "Bad file descriptor", "/a"), 1, "bug: "),
        (RuntimeError("can't start new thread"), 5, "ulimit -u"),
        (RuntimeError("could not create a primitive"), 6, "error: out of memory; "),
        (ImportError("libx.so: failed to map segment from shared object"), 6, "error: out of memory; "),
        (KeyError("COMP_WORDS"), 1, "bug: "),
        (ImportError("cannot import name 'x'"), 1, "bug: "),
        (cv2.error("stoull"), 1, "bug: "),
        (EOFError("Ran out of input"), 1, "bug: EOFError"),
        (KeyboardInterrupt(), 130, "interrupted: "),
    ],
)
def test_errors_that_nobody_expected(monkeypatch, capsys, error: BaseException, code: int, label: str) -> None:
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("lite3r_cli.networks.registry.find_checkpoint", fails)
    assert main(["models"]) == code
    assert label in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["OPENCV_FOR_THREADS_NUM=x", "OPENCV_IO_MAX_IMAGE_PIXELS=all",
                                     "OPENCV_BUFFER_AREA_ALWAYS_SAFE=2"])  # fmt: skip
def test_a_setting_that_opencv_does_not_understand_is_named(tmp_path, setting: str) -> None:
    photograph(tmp_path / "photos/a.png")
    name, value = setting.split("=")
    environment = {**os.environ, name: value, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    words = [sys.executable, "-m", "lite3r_cli", "reconstruct", "photos", "-m", "mini", "-o", "a.ply", "-r", "56", "-q"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and name in done.stderr and "unset" in done.stderr and "bug" not in done.stderr
    assert os.listdir(tmp_path) == ["photos"]


def test_a_completion_that_no_shell_asks_for(monkeypatch, capsys) -> None:
    monkeypatch.setenv("_LITE3R_COMPLETE", "complete_bash")
    monkeypatch.delenv("COMP_WORDS", raising=False)
    assert main(["models"]) == 5 and "unset" in capsys.readouterr().err


def test_a_setting_that_torch_does_not_understand_is_named(tmp_path) -> None:
    photograph(tmp_path / "photos/a.png")
    environment = {**os.environ, "TORCH_LOGS": "nope", "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    words = [sys.executable, "-m", "lite3r_cli", "reconstruct", "photos", "-m", "mini", "-o", "a.ply", "-r", "56", "-q"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "TORCH_LOGS" in done.stderr and "unset" in done.stderr and "bug" not in done.stderr
    assert os.listdir(tmp_path) == ["photos"]


@pytest.mark.parametrize("number, advice", [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "end other programs"),
                                            (errno.ENOMEM, "end other programs"), (errno.EXDEV, "-o")])  # fmt: skip
def test_a_refusal_to_write_comes_with_a_way_out(number: int, advice: str) -> None:
    assert advice in str(output_error(Path("a.png"), OSError(number, os.strerror(number))))


CLOSED = {
    "reconstruct photos -o closed/s.ply -m mini": 7, "reconstruct photos -o closed/s/ -m mini": 7,
    "batch closed/list.txt -o b": 3, "batch closed/photos -o b": 3, "view closed/s.ply": 3,
    "render closed/s.ply -o f.mp4": 3, "reconstruct photos -o s.ply --intrinsics closed/K.json": 3,
    "reconstruct photos -o s.ply --depth closed/depth -m pi3x": 3,  # `mini` takes none
    "reconstruct photos -o s.ply --masks closed/masks": 3,
    "reconstruct photos -o s.ply --cameras closed/c.json": 3, "synth -o s --textures closed/t.npz": 3,
    "eval closed/scene": 3, "distill closed/photos -o d.safetensors": 3, "splat closed/s.ply --device cpu": 3,
}  # fmt: skip


@pytest.fixture
def closed_folder(monkeypatch) -> Iterator[None]:
    """The current folder has photos/, and closed/, which this user may not enter."""
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.chdir(place)
        photograph(Path("photos/a.png"))
        os.chmod(place, 0o777)
        os.mkdir("closed", 0o700 if os.geteuid() == 0 else 0)
        me = os.geteuid()
        if me == 0:
            os.seteuid(NOBODY)
        yield
        os.seteuid(me)


@pytest.mark.parametrize("words", CLOSED)
def test_what_lies_in_a_closed_folder_is_not_called_missing(closed_folder, capsys, words: str) -> None:
    assert main([*words.split(), "-q"]) == CLOSED[words]
    said = capsys.readouterr().err
    assert "ermission denied" in said and "no such" not in said and "does not exist" not in said, said
    assert sorted(os.listdir()) == ["closed", "photos"]


def test_a_user_without_a_home(monkeypatch, capsys) -> None:
    def unknown(uid: int):
        raise KeyError(uid)

    for name in ("HOME", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert main(["models"]) == 0 and "vggt-1b" in capsys.readouterr().out
    with pytest.raises(WeightsError, match="set HF_HOME"):
        hub.cache_folder()


def test_a_closed_cache_is_no_cache(tmp_path, monkeypatch, capsys) -> None:
    def closed(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "cache")

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "is_dir", closed)
    assert hub.find_cached("a/b", "main") is None
    monkeypatch.undo()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(hub.os, "access", lambda path, mode: False)
    with pytest.raises(WeightsError, match="this user may not use"):
        hub._require_cache()
    assert cli.LONGEST_PATH > 200


# -- archives ----------------------------------------------------------------------------------------------------------

JPEG = cv2.imencode(".jpg", np.full((256, 256, 3), 90, np.uint8))[1].ravel()


def archive(path: Path, **arrays) -> None:
    np.savez(path, **{"data": JPEG, "offsets": np.array([0, len(JPEG)]), **arrays})


def cut(path: Path) -> None:
    archive(path)
    path.write_bytes(path.read_bytes()[:-500])


def checksum(path: Path) -> None:
    archive(path)
    data = bytearray(path.read_bytes())
    data[600:700] = bytes(100)
    path.write_bytes(data)


def plain(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, JPEG)


def no_array(path: Path) -> None:
    archive(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", JPEG.tobytes())
        file.writestr("offsets", b"0 9")


ARCHIVES = {
    "members that are no arrays": no_array,
    "empty": Path.touch,
    "cut": cut,
    "checksum": checksum,
    "plain .npy": plain,
    "a pipe": os.mkfifo,
    "offsets backwards": lambda path: archive(path, offsets=np.array([9, 5])),
    "offsets negative": lambda path: archive(path, offsets=np.array([-9, -5])),
    "offsets beyond": lambda path: archive(path, offsets=np.array([0, 10**12])),
    "offsets of floats": lambda path: archive(path, offsets=np.array([0.0, 9.5])),
    "scalars": lambda path: archive(path, data=np.array(5), offsets=np.array(3)),
    "nothing between": lambda path: archive(path, offsets=np.array([4, 4, 4])),
    "objects": lambda path: archive(path, data=np.array([{}], dtype=object)),
    "text": lambda path: archive(path, data=np.array(["abc"])),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_are_refused_by_name(tmp_path, kind: str) -> None:
    ARCHIVES[kind](tmp_path / "t.npz")
    with pytest.raises(InputError, match="t.npz"):
        load_photos(tmp_path / "t.npz")


def test_an_archive_that_unpacks_to_more_than_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lite3r_cli.io.archives.MAX_BYTES", 1000)
    archive(tmp_path / "t.npz")
    with pytest.raises(InputError, match="GiB"):
        load_photos(tmp_path / "t.npz")


# -- workers that are not forked ---------------------------------------------------------------------------------------


def test_what_goes_to_worker_processes_can_be_pickled(tmp_path, small_atlas) -> None:
    import torch

    from lite3r_cli.data.steps import load_steps
    from lite3r_cli.distillation.distill_data import ProceduralSource, Sizes, _Draw, open_data
    from lite3r_cli.training.train_data import StepDraw

    for i in range(3):
        photograph(tmp_path / f"{i}.png", seed=i)
    sizes = Sizes(2, 1, 56, 14, 0)
    data = open_data([str(tmp_path)], sizes, torch.device("cpu"), 0, 0, None)
    draw = _Draw(data.train[0].scenes, sizes, 0, 0)
    again = pickle.loads(pickle.dumps(load_steps(draw).dataset)).draw
    assert torch.equal(again(3).images, draw(3).images)
    made = ProceduralSource(sizes, torch.device("cpu"), 0, 0, None).data
    drawn = StepDraw(made.shapes, made.scenes, made.photos, 0, 0)
    assert pickle.loads(pickle.dumps(drawn))(1).names == drawn(1).names
    assert pickle.loads(pickle.dumps(load_steps(drawn, workers=1).worker_init_fn)) is not None
