"""The scenes of a batch: folders, folders of folders, videos, and text files that list them.

A folder with pictures is a scene, and its sub-folders are not searched. In a folder without pictures, each sub-folder
is a scene or contains scenes, and each video is a scene. A scene with its pictures in `NAME/images` is called NAME.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config.option import from_home
from ..errors import InputError, UsageError
from ..io.documents import is_there, read_text
from ..io.names import printable, unique_names
from ..io.natural import natural_key
from ..io.own_outputs import is_output, written_into
from ..io.picture_sources import IMAGE_SUFFIXES, NEVER_SEARCHED, VIDEO_SUFFIXES
from .claims import FOLDER

REPORT = "batch.json"  # in the output folder of the batch
PICTURES = "images"  # folder name that is not part of the scene's name


@dataclass(frozen=True)
class SceneInput:
    """One scene of a batch."""

    name: str  # unique in the batch; its output folder below that of the batch
    path: Path  # a folder of photographs, or a video


def find_scenes(given: Sequence[Path], output: Path) -> list[SceneInput]:
    """The scenes in the given paths, each once, in natural order within a folder. Paths in `output` are skipped.

    Raises UsageError for a path that does not exist or is a picture, InputError for a list that cannot be read or if no
    scene is left. A folder without pictures is a scene all the same, so that its failure is reported.
    """
    barred = os.path.realpath(output)
    found: dict[str, tuple[Path, Path]] = {}  # real path → path, and the folder at which its name begins
    for path in given:
        for scene, top in _expand(path, barred):
            found.setdefault(os.path.realpath(scene), (scene, top))
    if not found:
        raise InputError(f"{', '.join(printable(path) for path in given)}: holds no scene: no images, no sub-folders")
    names = unique_names([_beside_ours(name) for name in _named(list(found.values()))])
    return [SceneInput(name, scene) for name, (scene, _) in zip(names, found.values())]


def _expand(path: Path, barred: str) -> Iterator[tuple[Path, Path]]:
    """Scenes, each with the folder at which its name begins."""
    if os.path.isdir(path):
        yield from _below(path, barred)
        return
    suffix = path.suffix.lower()
    if not is_there(path) or not os.path.exists(path):
        raise UsageError(f"{printable(path)}: no such file or folder")
    if suffix in VIDEO_SUFFIXES:
        yield path, path.parent
    elif suffix in IMAGE_SUFFIXES:
        raise UsageError(f"{printable(path)}: an image is no scene; give folders, videos, or a text file of them")
    else:
        for line in dict.fromkeys(_lines(path)):
            if os.path.isdir(line):  # false, not an error, for a name that no folder can have
                yield from _below(line, barred)
            else:
                yield line, line.parent  # a video, or something whose failure will be reported


def _lines(path: Path) -> Iterator[Path]:
    """The different paths in a text file, one per line, relative to its folder; `#` begins a comment."""
    different = dict.fromkeys(line.strip() for line in read_text(path).splitlines())
    lines = [line for line in different if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{printable(path)}: lists no scene; write one folder or video a line")
    return (path.parent / from_home(line) for line in lines)


def _below(folder: Path, barred: str) -> Iterator[tuple[Path, Path]]:
    """The scenes in a folder: the folder itself, or those below it."""
    inside = list(_scenes_in(folder, barred, set()))
    if not inside and not any(_sub_folders(folder, barred)):
        inside = [folder]
    for scene in inside:
        yield scene, folder.parent if scene == folder else folder


def _scenes_in(folder: Path, barred: str, seen: set[str]) -> Iterator[Path]:
    """`seen` are the real paths that were searched, because links may form a loop."""
    top, real = not seen, os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as entries:
            files = [entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
    except OSError:
        yield folder  # its failure will give the reason
        return
    outputs = written_into(folder) if "run.json" in files else {}
    files = [name for name in files if not is_output(folder / name, outputs)]
    suffixes = [Path(name).suffix.lower() for name in files]
    videos = sorted((n for n, s in zip(files, suffixes) if s in VIDEO_SUFFIXES), key=natural_key)
    if any(suffix in IMAGE_SUFFIXES for suffix in suffixes) or len(videos) == 1:
        yield folder
        return
    yield from (folder / name for name in videos)
    if outputs:
        return  # the sub-folders have the pictures of an earlier export
    for sub in _sub_folders(folder, barred):
        known = os.path.realpath(sub) in seen
        scenes = list(_scenes_in(sub, barred, seen))
        yield from scenes
        if not scenes and top and not known and not written_into(sub):
            yield sub  # a scene without pictures: its failure is reported


def _sub_folders(folder: Path, barred: str) -> Iterable[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
    paths = [folder / name for name in sorted(names, key=natural_key) if name not in NEVER_SEARCHED]
    return [path for path in paths if os.path.realpath(path) != barred]


def _named(scenes: Sequence[tuple[Path, Path]]) -> list[str]:
    """A scene is named by its path below the given folder; if names collide, by its path below the folder that all of
    them share.
    """
    short = [_name(scene, top) for scene, top in scenes]
    count = Counter(short)
    if max(count.values()) == 1:
        return short
    common = Path(os.path.commonpath([os.path.abspath(scene.parent) for scene, _ in scenes]))
    return [name if count[name] == 1 else _name(scene, common) for name, (scene, _) in zip(short, scenes)]


def _beside_ours(name: str) -> str:
    """A name whose folder is not in the way of the batch's own files: the report, the records, temporary ones."""
    first = name.partition("/")[0].casefold()
    return f"scene-{name}" if first == REPORT or first.startswith(FOLDER) else name


def _name(scene: Path, top: Path) -> str:
    path = Path(os.path.abspath(scene))
    parts = Path(os.path.relpath(path, os.path.abspath(top))).parts or (path.name,)  # also for //name on /
    if path.suffix.lower() in VIDEO_SUFFIXES and not os.path.isdir(path):
        parts = (*parts[:-1], path.stem)
    elif parts[-1] == PICTURES:
        parts = parts[:-1] or (path.parent.name,)
    return "/".join(parts) or "scene"
