"""What is mounted in an output is told before the work, also another folder of the same disk and a single file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lite3r_cli.checkpoints.write import refuse_existing, save_tensors
from lite3r_cli.cli import main
from lite3r_cli.errors import OutputError
from lite3r_cli.io.atomic import OutputSet
from lite3r_cli.io.transaction import replace_file, require_writable


@pytest.fixture
def mount(tmp_path: Path) -> Callable[[str], Path]:
    """Mounts something at a path; a folder of the same disk, a file of it, or another file system."""
    done: list[Path] = []

    def at(place: str, *how: str) -> Path:
        target, source = tmp_path / place, tmp_path / f"source {len(done)}"
        target.mkdir(parents=True, exist_ok=True) if not target.is_file() else None
        source.touch() if target.is_file() else source.mkdir()
        words = ["mount", *(how or ("--bind", source)), target]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
        done.append(target)
        return target

    yield at
    for target in reversed(done):
        subprocess.run(["umount", target], check=True)


@pytest.mark.parametrize("how", [(), ("-t", "tmpfs", "none")], ids=["folder of the same disk", "file system"])
@pytest.mark.parametrize(
    "place, output", [("a b/s", "a b/s.ply"), ("s/sparse/0", "s.ply"), ("o/images", "o/"), ("s/memory", "s.ply")]
)
def test_a_folder_of_a_scene(tmp_path: Path, mount: Callable, how: tuple[str, ...], place: str, output: str) -> None:
    mount(place, *how)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=f"{place}: something is mounted here"):
        OutputSet(f"{tmp_path}/{output}").__enter__()
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_beside_does_not_matter(tmp_path: Path, mount: Callable) -> None:
    for place in ("o", "o/mine", "s2"):
        mount(place)
    for output in ("o/", "o/s.ply", "s.ply"):
        with OutputSet(f"{tmp_path}/{output}") as out:
            out.cloud.touch()
            out.path("depth/a.png").touch()
            out.commit({})


def test_a_file_that_would_be_replaced(tmp_path: Path, mount: Callable) -> None:
    page, weights, scene = tmp_path / "page.html", tmp_path / "m.safetensors", tmp_path / "s.ply"
    replace_file(page, b"old")
    save_tensors(weights, {"t": torch.zeros(1)}, {})
    with OutputSet(scene) as out:
        out.path("cameras.json").touch()
        out.cloud.touch()
        out.commit({})
    for name in ("page.html", "m.safetensors", "s/cameras.json"):
        mount(name)
    for refused in (
        lambda: require_writable(page, True),
        lambda: refuse_existing(weights, True),
        lambda: OutputSet(scene, overwrite=True).__enter__(),
    ):
        with pytest.raises(OutputError, match="something is mounted here"):
            refused()


def test_a_folder_of_synth(tmp_path: Path, mount: Callable, capsys) -> None:
    words = ["synth", "-o", str(tmp_path / "s"), "--scenes", "1", "--views", "2", "--width", "64",
             "--height", "64", "--samples", "1", "--device", "cpu", "-q"]  # fmt: skip
    assert main(words) == 0
    mount("s/scene-000/images")
    assert main([*words, "--overwrite"]) == 7
    assert "images" in capsys.readouterr().err
