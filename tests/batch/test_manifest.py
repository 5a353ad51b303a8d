"""Which scenes a batch finds, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import photograph

from lite3r_cli.batch.manifest import find_scenes
from lite3r_cli.errors import InputError, UsageError


def tree(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            photograph(path)
        else:
            path.write_bytes(b"something")
    return root


def names(*given: Path, output: Path = Path("/nowhere")) -> list[str]:
    return [scene.name for scene in find_scenes(given, output)]


@pytest.mark.parametrize(
    "files, expected",
    [
        (["s10/a.jpg", "s9/a.jpg", "S1/a.JPG.txt", "S1/b.jpg"], ["S1", "s9", "s10"]),
        (["a.jpg", "inner/b.jpg"], ["root"]),  # a scene itself: what lies below it is its own business
        (["a/images/1.jpg", "b/images/1.jpg"], ["a", "b"]),
        (["images/1.jpg"], ["root"]),
        (["house/up/1.jpg", "house/down/1.jpg", "shed/1.jpg"], ["house/down", "house/up", "shed"]),
        (["clips/a.mp4", "clips/b.mp4", "one/c.mov"], ["clips/a", "clips/b", "one"]),
        (["a/1.jpg", "empty/notes.txt", ".hidden/1.jpg", "@eaDir/1.jpg"], ["a", "empty"]),
    ],
)
def test_folders(tmp_path, files, expected):
    assert names(tree(tmp_path / "root", *files)) == expected


def test_what_runs_wrote_is_no_scene(tmp_path, plane_backbone, photographs):
    from lite3r_cli.cli import main

    root = tree(tmp_path / "root", "a/1.jpg", "b/1.jpg")
    assert (
        main(["reconstruct", str(root / "a"), "-o", f"{root}/a/", "--preview", "-q", "-r", "112"]) == 0
    )  # among the pictures
    assert main(["reconstruct", str(root / "a"), "-o", f"{root}/made/it.ply", "-q", "-r", "112"]) == 0
    assert main(["batch", str(root), "-o", str(root / "out"), "-q", "-r", "112"]) == 0
    assert main(["batch", str(root), "-o", str(root / "again"), "-q", "-r", "112"]) == 0
    assert names(root, output=root / "out") == ["a", "b"]


def test_several_folders_lists_and_names_that_clash(tmp_path):
    tree(tmp_path, "one/left/1.jpg", "two/left/1.jpg", "two/right/1.jpg", "film.mp4")
    roots = [tmp_path / "one", tmp_path / "two"]
    assert names(*roots) == ["one/left", "two/left", "right"]
    assert names(*roots, tmp_path / "two" / "left") == ["one/left", "two/left", "right"]  # each once
    listed = tmp_path / "list.txt"
    listed.write_text(f"# scenes\none\n\n{tmp_path}/film.mp4\nmissing\n", encoding="utf-8")
    assert names(listed) == ["left", "film", "missing"]  # what is missing fails later, and is recorded


def test_no_scene_is_in_the_way_of_files_of_the_batch(tmp_path):
    """Nor of its temporary ones; the new names are free, too."""
    root = tree(tmp_path, "batch.json/a.jpg", "scene-batch.json/a.jpg", "Batch.JSON/x/a.jpg", "batch.json.d/a.jpg")
    listed = tmp_path / "hidden.txt"
    tree(tmp_path, ".batch/a.jpg", ".batch.json.lock/a.jpg")
    listed.write_text(".batch\n.batch.json.lock\n")
    assert sorted(names(root, listed)) == [
        "batch.json.d",
        "scene-.batch",
        "scene-.batch.json.lock",
        "scene-Batch.JSON/x",
        "scene-batch.json",
        "scene-batch_2.json",
    ]


def test_what_is_no_batch(tmp_path):
    tree(tmp_path, "a.jpg", "empty/.keep", "list.txt", "binary.txt")
    (tmp_path / "list.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\0\1\2")
    for path, error, text in (
        (tmp_path / "none", UsageError, "no such file or folder"),
        (tmp_path / "a.jpg", UsageError, "an image is no scene"),
        (tmp_path / "list.txt", InputError, "lists no scene"),
        (tmp_path / "binary.txt", InputError, "no text file"),
    ):
        with pytest.raises(error, match=text):
            find_scenes([path], tmp_path / "out")
    assert names(tmp_path / "empty") == ["empty"]  # fails, and is told


def test_a_link_back_ends(tmp_path):
    root = tree(tmp_path / "root", "a/1.jpg")
    for name in ("loop", "more"):
        (root / name).symlink_to(root)
    (root / "b").symlink_to(root / "a")
    assert names(root) == ["a"]
