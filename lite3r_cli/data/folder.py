"""Training data without a dataset's layout: folders of photographs, and scenes with a cameras.json beside `images/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lite3r_cli.data.views import Shot, Split, ViewSet, read_rgb
from lite3r_cli.errors import InputError
from lite3r_cli.io.cameras import read_cameras_json
from lite3r_cli.io.images import discover

FEWEST_TO_SPLIT = 2  # scenes from which on the last tenth, at least one, is held out


def is_scene(folder: Path) -> bool:
    return (folder / "cameras.json").is_file()


def is_folder_of_scenes(folder: Path) -> bool:
    return any(folder.glob("*/cameras.json"))


def load_scenes(folders: list[Path]) -> Split:
    """Folders with cameras.json, or folders of such folders; a scene's depth is used where all of it is there."""
    return split([scene for folder in folders for scene in _scenes(folder)], "scenes")


def load_photographs(folders: list[Path]) -> Split:
    """Folders of photographs (or videos) without cameras: each is one scene."""
    return split([_photographs(folder) for folder in folders], "folders of photographs")


def split(scenes: list[ViewSet], kind: str) -> Split:
    """The last tenth of the scenes in the order given, at least one, is held out. A single one is used for both."""
    if len(scenes) < FEWEST_TO_SPLIT:
        return Split(tuple(scenes), tuple(scenes), f"one of the {kind} only: what is measured was trained on, too")
    count = max(1, len(scenes) // 10)
    held_out = ", ".join(scene.name for scene in scenes[-count:][:5])
    note = f"{len(scenes) - count} {kind} to train on, {count} held out: {held_out}"
    return Split(tuple(scenes[:-count]), tuple(scenes[-count:]), note)


def _scenes(folder: Path) -> list[ViewSet]:
    if is_scene(folder):
        return [_scene(folder)]
    found = [_scene(path.parent) for path in sorted(folder.glob("*/cameras.json"))]
    if not found:
        raise InputError(f"{folder}: no cameras.json in it or below it; a scene is a folder with one, and images/")
    return found


def _scene(folder: Path) -> ViewSet:
    views = read_cameras_json(folder, load_depth=True)
    shots = []
    for view in views:
        picture = folder / "images" / view.name
        if not picture.is_file():
            raise InputError(f"{picture}: missing, but cameras.json lists it: restore it or remove its entry")
        depth = None if view.depth is None else partial(_as_is, view.depth)
        shots.append(Shot(partial(read_rgb, picture), view.K, view.cam_from_world, depth))
    return ViewSet(folder.name, tuple(shots))


def _as_is(value):
    return value


def _photographs(folder: Path) -> ViewSet:
    images = discover([folder])
    full = folder.resolve()
    name = full.parent.name if full.name == "images" else full.name
    return ViewSet(name, tuple(Shot(partial(images.read, i)) for i in range(len(images))))
