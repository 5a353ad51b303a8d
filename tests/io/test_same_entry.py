"""What is read is found among what would be replaced, whatever the path to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from lite3r_cli.checkpoints.write import refuse_existing, save_tensors
from lite3r_cli.cli import main
from lite3r_cli.errors import OutputError, UsageError
from lite3r_cli.io.kept_inputs import require_no_data, require_not_read
from lite3r_cli.io.same_entry import is_same_entry


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a/images").mkdir(parents=True)
    (tmp_path / "a/images/0.jpg").write_bytes(b"photo")
    return tmp_path


def test_links_lead_to_an_entry_and_hard_links_are_others(place: Path) -> None:
    photo, linked, copy = place / "a/images/0.jpg", place / "linked", place / "1.jpg"
    linked.symlink_to("a")
    os.link(photo, copy)
    assert is_same_entry(linked / "images/0.jpg", photo) and is_same_entry(linked, place / "a")
    assert not is_same_entry(photo, copy) and not is_same_entry(place / "no", place / "other")
    assert is_same_entry(place / "no", place / "a/../no") and not is_same_entry(Path("a\0b"), place)
    require_not_read([copy], {photo: "a photo"})
    for read in (photo, linked / "images", place / "a"):
        with pytest.raises(UsageError, match="is a photo"):
            require_not_read([linked / "images/0.jpg"], {read: "a photo"})


@pytest.fixture
def bound(place: Path) -> Path:
    """Another way to the folder a/images, as containers have it."""
    (place / "bound").mkdir()
    done = subprocess.run(["mount", "--bind", place / "a", place / "bound"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount")
    yield place / "bound"
    subprocess.run(["umount", place / "bound"], check=True)


def test_a_bind_mount_leads_to_the_same_entries(place: Path, bound: Path, photographs, plane_backbone, capsys) -> None:
    for read in (bound / "images/0.jpg", bound / "images", bound):
        with pytest.raises(UsageError, match="is a photo"):
            require_not_read([place / "a/images/0.jpg"], {read: "a photo"})
    with pytest.raises(UsageError, match="it is data"):
        require_no_data(bound, [place / "a"])
    save_tensors(place / "a/m.safetensors", {"t": torch.zeros(1)}, {})
    with pytest.raises(OutputError, match="the checkpoint that is read"):
        refuse_existing(bound / "m.safetensors", True, [place / "a/m.safetensors"])
    scene, small = place / "a/s.ply", ["-r", "112", "--device", "cpu", "-q"]
    assert main(["reconstruct", str(photographs(3)), "-o", str(scene), "-f", "colmap", *small]) == 0
    assert main(["reconstruct", str(photographs(3)), "-o", str(scene), "-f", "colmap", "--overwrite", *small]) == 0
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    again = ["--overwrite", *small]
    for words in (
        ["reconstruct", bound / "s/images", "-o", scene, *again],
        ["reconstruct", photographs(3), "-o", scene, "--cameras", bound / "s/cameras.json", *again],
        ["merge", scene, scene, "-o", bound / "s.ply", "--overwrite", "--device", "cpu", "-q"],
        ["render", scene, "-o", bound / "s/images/a0.mp4", "--path", bound / "s/cameras.json", "--frames", bound / "s"],
    ):
        assert main([str(word) for word in words]) in (2, 7), words
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
