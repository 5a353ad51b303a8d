"""Reads a scene that `reconstruct` wrote: paths, cameras, cloud, facts and photographs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..console import Tell
from ..errors import InputError, Lite3RError
from ..io.cameras_json import read_cameras_json
from ..io.decode import decode_rgb
from ..io.documents import is_there, read_json
from ..io.frame_spool import bytes_of
from ..io.kept_inputs import require_not_read
from ..io.names import printable
from ..io.output_layout import OutputLayout, output_layout
from ..io.picture_sources import is_video
from ..io.ply import read_ply
from ..io.regular import BadImage, read_regular
from ..io.video import Clip
from ..io.view_memory import Source, ViewMemory, read_memory
from ..scene.frame import FIRST_CAMERA, WorldFrame
from ..scene.posed_view import PointCloud, View, known_depth
from ..world.undistort import undistorted
from .scene_memory import memory_file

AGAIN = "reconstruct the scene again"
NEAREST, FARTHEST = 1e-30, 1e15  # of a coordinate in any unit, unless it is 0; others overflow when they are squared


@dataclass(frozen=True)
class WrittenScene:
    """A written scene. Each part is read on demand; the readers raise InputError."""

    layout: OutputLayout

    @classmethod
    def at(cls, path: Path) -> WrittenScene:
        """The scene whose .ply or folder is `path`. Raises InputError if there is none."""
        return cls(_layout(path))

    @property
    def folder(self) -> Path:
        """The folder of all files except the cloud."""
        return self.layout.root / self.layout.folder

    def views(self, load_depth: bool = False) -> list[View]:
        with _made_again():
            return read_cameras_json(self.folder / "cameras.json", load_depth=load_depth)

    @cached_property
    def stems(self) -> Mapping[str, str]:
        """Name of a view → stem of its files. Raises InputError."""
        images = read_json(self.folder / "cameras.json").get("images", {})
        return {
            name: Path(entry["depth"]).stem for name, entry in images.items() if isinstance(entry.get("depth"), str)
        }

    def memory(self, view: View) -> ViewMemory | None:
        """The memory of a view with depth; None without one. Raises InputError for a damaged file."""
        path = self.folder / memory_file(self.stems.get(view.name, ""))
        return read_memory(path, known_depth(view).shape) if os.path.lexists(path) else None

    def cloud(self, warn: Tell) -> PointCloud:
        """The points with possible values; `warn` is told of others. Raises InputError if these are the majority."""
        path = self.layout.root / self.layout.cloud
        with _made_again():
            cloud = read_ply(path)
            good = _usable(cloud)
            if good.all():
                return cloud
            lost = f"{len(good) - int(good.sum())} of {len(good)} points"
            if 2 * int(good.sum()) < len(good):
                raise InputError(f"{path}: damaged: {lost} have impossible values")
        warn(f"{path}: {lost} have impossible values and are left out; {AGAIN}")
        return PointCloud(cloud.points[good], cloud.colors[good], cloud.confidence[good])

    @cached_property
    def _record(self) -> tuple[Mapping[str, Any], str | None]:
        return _record(self.layout)

    @property
    def facts(self) -> Mapping[str, Any]:
        """run.json; empty if it is not readable, because a page needs little of it."""
        return self._record[0]

    @property
    def fault(self) -> str | None:
        """What is wrong with run.json and what to do; None for a sound one."""
        return self._record[1]

    def tell_fault(self, warn: Tell) -> None:
        """Warn of a run.json that is missing or damaged; for commands that can do without."""
        if self.fault is not None:
            warn(f"{self.fault} (without it the photos, the up direction and the units are not known)")

    def require_record(self) -> None:
        """Raise InputError for a run.json that is missing or damaged, or has NaN or Infinity: such facts cannot be
        written again.
        """
        if self.fault is not None:
            raise InputError(self.fault)
        try:
            json.dumps(self.facts, allow_nan=False)
        except ValueError as error:
            raise InputError(f"{self.folder / 'run.json'}: holds NaN or Infinity: damaged; {AGAIN}") from error

    @property
    def frame(self) -> WorldFrame:
        return _frame(self.facts)

    @property
    def up(self) -> np.ndarray | None:
        """(3,) up direction, if the run found it."""
        return _up(self.facts)

    def photographs(self) -> Photographs:
        return Photographs(self.folder, self.facts, self.fault)

    def require_not_in(self, *targets: Path) -> None:
        """Raises UsageError where one of these is a file of the scene, or a photograph that it was made from: neither
        is replaced by what is made of them, whatever is asked for.
        """
        listed = self.facts.get("files")
        always = [self.layout.cloud, self.layout.run_json, self.layout.inside("cameras.json")]
        names = [*always, *(listed if isinstance(listed, dict) else ())]
        own = {self.layout.root / name: "a file of the scene itself" for name in names}
        require_not_read(targets, {**dict.fromkeys(self.photographs().places.values(), "a photo of the scene"), **own})


def _usable(cloud: PointCloud) -> np.ndarray:
    """(N,) whether a point has values that a scene can have; those in the wrong byte order have hardly any."""
    sizes = np.abs(cloud.points)
    possible = (sizes == 0) | ((sizes > NEAREST) & (sizes < FARTHEST))  # false for NaN, too
    return possible.all(axis=1) & np.isfinite(cloud.confidence)


def _layout(scene: Path) -> OutputLayout:
    """The paths of a scene from its .ply, its folder, or the folder next to the .ply."""
    if not is_there(scene):
        raise InputError(f"{scene}: does not exist; name the .ply file or the folder that reconstruct wrote")
    if not scene.is_dir() and scene.suffix.lower() != ".ply":
        raise InputError(f"{scene}: is no scene; name the .ply file or the folder that reconstruct wrote")
    layout = output_layout(scene)
    if scene.is_dir() and not os.path.lexists(scene / layout.cloud):
        beside = scene.absolute().parent / f"{scene.absolute().name}.ply"
        if os.path.lexists(beside):
            layout = output_layout(beside)
    if scene.is_dir() and not layout.folder and not os.path.lexists(scene / "cameras.json"):
        layout = output_layout(scene / layout.cloud)  # of -o scene/scene.ply
    for path in (layout.root / layout.cloud, layout.root / layout.folder / "cameras.json"):
        if not path.is_file():
            raise InputError(
                f"{scene}: is no scene that reconstruct wrote: {path} is missing; keep the cloud and the "
                f"folder of its name together, or {AGAIN}"
            )
    return layout


@contextmanager
def _made_again() -> Iterator[None]:
    """Errors of a scene's own files say what to do about them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; {AGAIN}") from error


def _record(layout: OutputLayout) -> tuple[Mapping[str, Any], str | None]:
    """What run.json tells, and what is wrong with it. A part of a run is described in the run.json of the whole."""
    own, above = layout.root / layout.run_json, layout.root.absolute().parent / "run.json"
    path = own if layout.folder or os.path.lexists(own) or not os.path.lexists(above) else above
    try:
        document = read_json(path)
    except InputError as error:
        return {}, f"{error}; {AGAIN}"
    known = document if isinstance(document, dict) else {}
    fault = f"{printable(path)}: damaged, or not written by lite3r; {AGAIN}"
    if not (isinstance(known.get("images"), list) and isinstance(known.get("files"), dict)):
        return known if path == own else {}, fault
    if path == own:
        return known, None
    parts = known.get("parts")
    mine = [
        part
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, dict) and part.get("folder") == layout.root.absolute().name
    ]
    return ({**mine[0], "images": known["images"]}, None) if mine else ({}, fault)


def _frame(facts: Mapping[str, Any]) -> WorldFrame:
    stated = facts.get("world")
    if not isinstance(stated, dict):
        return FIRST_CAMERA
    names = ("name", "description", "units")
    known = {name: stated[name] for name in names if isinstance(stated.get(name), str)}
    return replace(FIRST_CAMERA, **known, metric=stated.get("metric") is True)


def _up(facts: Mapping[str, Any]) -> np.ndarray | None:
    """The up direction, if the run found it."""
    stated = facts.get("up")
    if not isinstance(stated, dict) or stated.get("found") is not True:
        return None
    try:
        up = np.array(stated.get("direction"), np.float64).reshape(3)
    except (TypeError, ValueError, OverflowError):
        return None
    size = float(np.linalg.norm(up))
    return up / size if np.isfinite(size) and size > 0 else None


class Photographs:
    """The photographs of a scene: those of an export, else those at the paths in run.json."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], fault: str | None = None) -> None:
        """`fault`: what is wrong with run.json."""
        self.folder, self.fault = folder, fault
        self.sources: dict[str, Source] = {}  # by name: pictures whose files must not have changed
        images = facts.get("images")
        entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
        self.places = {
            entry["name"]: Path(entry["path"])
            for entry in entries
            if isinstance(entry.get("name"), str) and isinstance(entry.get("path"), str)
        }
        self.exported = folder / "images"
        self.clips: dict[Path, Clip] = {}
        self.frames: dict[Path, list[int]] = {}
        for name, path in self.places.items():
            if (number := _frame_number(name, path)) is not None:
                self.frames.setdefault(path, []).append(number)

    def has(self, view: View) -> bool:
        return (self._exported(view) or self.taken(view)) is not None

    def why_missing(self, names: Sequence[str]) -> str:
        """Why these photographs are not found, and what to do."""
        if self.fault is not None:
            return self.fault
        if not all(name in self.places for name in names):
            return f"{printable(self.folder / 'run.json')} does not name them; {AGAIN}"
        return "no longer where they were, or changed since; put them back (run.json tells where), or " + AGAIN

    def read(self, view: View) -> np.ndarray | None:
        """(H, W, 3) RGB; None if it is missing or has changed."""
        exported = self._exported(view)
        find = exported or self.taken(view)
        if find is None or (exported is None and self.has_changed(view)):
            return None
        try:
            rgb, _ = decode_rgb(find())
            if rgb.shape[:2] != (view.height, view.width):
                return None
            return rgb if exported else undistorted(rgb, view)
        except (BadImage, Lite3RError):
            return None

    def has_changed(self, view: View) -> bool:
        """Whether the source file of the picture is known to have changed."""
        source = self.sources.get(view.name)
        return source is not None and not source.unchanged(self.places[view.name])

    def _exported(self, view: View) -> Callable[[], bytes] | None:
        """The picture of an export, which fits the view."""
        file = self.exported_file(view)
        return None if file is None else (lambda: read_regular(file))

    def exported_file(self, view: View) -> Path | None:
        """The path of a view's picture in an export."""
        for suffix in (Path(view.name).suffix, ".jpg", ".png"):
            exported = (self.exported / view.name).with_suffix(suffix)
            if ".." not in Path(view.name).parts and os.path.isfile(exported):
                return exported
        return None

    def taken(self, view: View) -> Callable[[], bytes] | None:
        """The original picture, including lens distortion."""
        path = self.places.get(view.name)
        if path is None or not os.path.isfile(path):  # false, not an error, for a name that no file can have
            return None
        number = _frame_number(view.name, path)
        return (lambda: read_regular(path)) if number is None else (lambda: self._frame(path, number))

    def _frame(self, path: Path, number: int) -> bytes:
        clip = self.clips.get(path)
        if clip is None:
            clip = Clip(path)
            clip.fetch(sorted(self.frames[path]))
            self.clips[path] = clip
        return bytes_of(clip.frames[clip.index_of(number)].encoded)


def _frame_number(name: str, path: Path) -> int | None:
    """The number of a view's frame in its video; None for a picture."""
    if not is_video(path):
        return None
    digits = Path(name).stem.rpartition("frame_")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else None
