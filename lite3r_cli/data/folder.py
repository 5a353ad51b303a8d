"""Training data in simple folders: folders of photographs, and scenes with a cameras.json next to `images/`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lite3r_cli.data.content import bytes_content, file_content, joined
from lite3r_cli.data.views import (
    Known,
    Shot,
    Split,
    ViewSet,
    is_of_one_shape,
    look_at,
    not_of_one_shape,
    read_rgb,
    usable,
)
from lite3r_cli.errors import InputError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.frame_spool import bytes_of
from lite3r_cli.io.images import discover
from lite3r_cli.io.names import leads_out, printable
from lite3r_cli.scene.posed_view import View

FEWEST_TO_SPLIT = 2  # scenes; with fewer, nothing is held out


def is_scene(folder: Path) -> bool:
    """Whether the folder is a scene."""
    return (folder / "cameras.json").is_file()


def is_folder_of_scenes(folder: Path) -> bool:
    """Whether the folder contains folders of scenes."""
    return any(folder.glob("*/cameras.json"))


def load_scenes(folders: list[Path]) -> Split:
    """Load folders with cameras.json, or folders of such folders. Depth of a scene is used if it is complete. Raises
    InputError.
    """
    damaged: list[str] = []
    places = list(dict.fromkeys(place.resolve() for folder in folders for place in _places(folder)))
    return split(usable(places, lambda place: _scene(place, damaged), damaged), "scenes", damaged)


def load_photographs(folders: list[Path]) -> Split:
    """Load folders of photographs (or videos) without cameras; each folder is one scene."""
    damaged: list[str] = []
    places = list(dict.fromkeys(folder.resolve() for folder in folders))
    return split(usable(places, lambda place: _photographs(place, damaged), damaged), "folders of photos", damaged)


def split(scenes: list[ViewSet], kind: str, damaged: list[str] | None = None) -> Split:
    """Hold out the last tenth of the scenes, at least one. A single scene is used for both. Duplicates (see `Known`)
    are removed.
    """
    scenes, again = _distinct(scenes)
    left_out = tuple(damaged or ())
    if len(scenes) < FEWEST_TO_SPLIT:
        only = f"one of the {kind} only: what is measured was trained on, too{again}"
        return Split(tuple(scenes), tuple(scenes), only if scenes else f"none of the {kind} can be used", left_out)
    count = max(1, len(scenes) // 10)
    held_out = ", ".join(scene.name for scene in scenes[-count:][:5])
    note = f"{len(scenes) - count} {kind} to train on, {count} held out: {held_out}{again}"
    return Split(tuple(scenes[:-count]), tuple(scenes[-count:]), note, left_out)


def _distinct(scenes: list[ViewSet]) -> tuple[list[ViewSet], str]:
    """The scenes without duplicates, and a text about the duplicates."""
    known = Known()
    kept, again = [], []
    for scene in scenes:
        other = known.find(scene)
        if other is None:
            kept.append(scene)
            known.add(scene)
        else:
            again.append(f"{scene.name} shows images of {other.name}")
    more = f" and {len(again) - 3} more" if len(again) > 3 else ""
    return kept, f"; the same scene again, left out: {', '.join(again[:3])}{more}" if again else ""


def _places(folder: Path) -> list[Path]:
    if is_scene(folder):
        return [folder]
    found = [path.parent for path in sorted(folder.glob("*/cameras.json"))]
    if not found:
        raise InputError(f"{folder}: no cameras.json in it or below it; a scene is a folder with one, and images/")
    return found


def _scene(folder: Path, damaged: list[str]) -> ViewSet:
    views = read_cameras_json(folder, load_depth=True, bad=lambda error: damaged.append(str(error)))
    shots = usable(views, lambda view: _shot(folder, view), damaged)
    if not shots:
        raise InputError(f"{folder}: none of its images can be used")
    depths = [bytes_content(view.depth.tobytes()) for view in views if view.depth is not None]
    content = joined([*(shot.content for shot in shots), file_content(folder / "cameras.json"), *depths])
    return ViewSet(folder.name, tuple(shots), content=content)


def _shot(folder: Path, view: View) -> Shot:
    if leads_out(view.name):
        raise InputError(f"{folder / 'cameras.json'}: {printable(view.name)} is an image outside of images/")
    picture = folder / "images" / view.name
    if not picture.is_file():
        raise InputError(f"{printable(picture)}: missing, but cameras.json lists it: restore it or remove its entry")
    size, content = look_at(picture)
    if size != (view.width, view.height):
        raise InputError(
            f"{printable(picture)}: has {size[0]}x{size[1]} pixels, but cameras.json says {view.width}x{view.height}"
        )
    if view.depth is not None and not is_of_one_shape(view.depth.shape, size):
        raise InputError(f"{printable(picture)}: {not_of_one_shape(view.depth.shape, size)}; remove its depth")
    depth = None if view.depth is None else partial(_as_is, view.depth)
    return Shot(partial(read_rgb, picture, content), view.K, view.cam_from_world, depth, content)


def _as_is(value):
    return value


def _photographs(folder: Path, damaged: list[str]) -> ViewSet:
    images = discover([folder])
    damaged += [f"{printable(folder / each.name)}: {each.reason}" for each in images.skipped]
    name = folder.parent.name if folder.name == "images" else folder.name
    shots = []
    for i, record in enumerate(images.records):
        content = file_content(record.path) if record.encoded is None else bytes_content(bytes_of(record.encoded))
        shots.append(Shot(partial(images.read, i), content=content))
    return ViewSet(name, tuple(shots), content=joined(shot.content for shot in shots))
