"""The views of a written scene with everything that is needed to write them again: maps, pictures, and entries of
run.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..config import ReconstructConfig
from ..config.stored import from_stored
from ..console import Tell
from ..errors import InputError
from ..io.documents import read_json
from ..io.images import ImageRecord, discover
from ..io.names import printable
from ..io.picture_sources import is_video
from ..io.view_memory import Source, ViewMemory
from ..scene.posed_view import View, known_depth
from ..world.undistort import Undistortion
from .scene_memory import memory_file
from .view_files import Kept
from .written_scene import AGAIN, Photographs, WrittenScene


@dataclass(frozen=True)
class Member:
    """A view of the scene to write."""

    view: View  # with depth and confidence
    record: ImageRecord
    size: tuple[int, int]  # (h, w) inside the network
    lens: Undistortion | None = None  # undistorts the picture
    entry: Mapping[str, Any] | None = None  # its entry in run.json; None for a new view
    camera: Mapping[str, Any] | None = None  # its entry in cameras.json; None if that is made again
    kept: Kept | None = None  # files that do not change
    verdict: dict[str, object] | None = None  # of --refine
    source: Source | None = None  # the file that its picture was taken from, as memory/ has it


def stored_config(scene: WrittenScene) -> ReconstructConfig:
    """The configuration of the scene. Raises InputError if run.json lacks it, or cannot be written again."""
    scene.require_record()
    where = printable(scene.layout.root / scene.layout.run_json)
    if scene.facts.get("parts"):
        raise InputError(
            f"{where}: holds several scenes, which nothing ties together: reconstruct each by itself first"
        )
    try:
        return from_stored(ReconstructConfig, scene.facts.get("arguments"), f"{where}: arguments")
    except InputError as error:
        raise InputError(f"{error}: run.json is damaged; {AGAIN}") from error


def members_of(scene: WrittenScene, config: ReconstructConfig, tell: Tell) -> list[Member]:
    """The views in the order of run.json. Raises InputError if memory/ or photographs are missing."""
    views = {view.name: view for view in scene.views(load_depth=True) if view.depth is not None}
    cameras = read_json(scene.folder / "cameras.json")["images"]  # sound, since the views were read
    entries = _entries(scene)
    order = [name for name in entries if name in views] + [name for name in views if name not in entries]
    memories: dict[str, ViewMemory] = {}
    for name in order:
        kept = scene.memory(views[name])
        if kept is None:
            raise InputError(
                f"{printable(scene.folder / memory_file(scene.stems[name]))}: is missing; {AGAIN} with this version"
            )
        memories[name] = kept
    pictures = _Pictures(scene, config, views, memories, tell)
    if gone := [name for name in order if name not in pictures.records]:
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        raise InputError(
            f"{printable(scene.folder)}: photos are not found ({', '.join(map(printable, gone[:3]))}{more}): "
            f"{scene.photographs().why_missing(gone)}"
        )
    made = []
    for name in order:
        entry, scale = entries.get(name, {}), cameras[name].get("depth_scale")
        size = _size(entry, views[name])
        refinement = entry.get("refinement")
        made.append(
            Member(
                _with_maps(views[name], memories[name], size),
                pictures.records[name],
                size,
                pictures.lenses.get(name),
                entry or None,
                cameras[name],
                Kept(scene.folder, scene.stems[name], float(scale) if type(scale) in (int, float) else None),
                dict(refinement) if isinstance(refinement, dict) else None,
                memories[name].source,
            )
        )
    return made


def _entries(scene: WrittenScene) -> dict[str, Mapping[str, Any]]:
    images = scene.facts.get("images")
    found = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
    return {
        entry["name"]: entry for entry in found if entry.get("verdict") == "used" and isinstance(entry.get("name"), str)
    }


def _size(entry: Mapping[str, Any], view: View) -> tuple[int, int]:
    """Size inside the network, if known."""
    stated = entry.get("network")
    height, width = (stated.get("height"), stated.get("width")) if isinstance(stated, dict) else (None, None)
    if type(height) is type(width) is int and 0 < height <= 1 << 14 and 0 < width <= 1 << 14:  # `true` is no size
        return height, width
    height, width = known_depth(view).shape
    return height, width


def _with_maps(view: View, memory: ViewMemory, size: tuple[int, int]) -> View:
    """The view with its confidence, and without depth where that is masked. Both have the network's size, to which
    depth files of the picture's size are reduced.
    """
    depth, confidence = known_depth(view), memory.confidence
    if depth.shape == (view.height, view.width) and depth.size > size[0] * size[1]:
        depth, confidence = (
            cv2.resize(each, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) for each in (depth, confidence)
        )
    return replace(view, depth=np.where(confidence > 0, depth, 0).astype(np.float32), confidence=confidence)


class _Pictures:
    """The records of the original photographs, or those of an export, and their lenses."""

    def __init__(
        self,
        scene: WrittenScene,
        config: ReconstructConfig,
        views: Mapping[str, View],
        memories: Mapping[str, ViewMemory],
        tell: Tell,
    ) -> None:
        self.records: dict[str, ImageRecord] = {}
        self.lenses: dict[str, Undistortion] = {}
        photographs = scene.photographs()
        photographs.sources = {name: kept.source for name, kept in memories.items() if kept.source is not None}
        taken = self._taken(config, photographs, views, tell)
        for name, view in views.items():
            stem, original = scene.stems[name], taken.get(name)
            if original is not None and (original.width, original.height) == (view.width, view.height):
                self.records[name] = replace(original, name=name, stem=stem)
            elif (exported := photographs.exported_file(view)) is not None:
                self.records[name] = ImageRecord(name, exported, view.width, view.height, stem=stem)
            else:
                continue
            if view.lens is not None and (name in taken or config.keep_distortion):
                self.lenses[name] = Undistortion(view.lens)

    def _taken(
        self, config: ReconstructConfig, photographs: Photographs, views: Mapping[str, View], tell: Tell
    ) -> dict[str, ImageRecord]:
        """Unchanged photographs by name."""
        found: dict[str, ImageRecord] = {}
        files: dict[Path, str] = {}
        for name, view in views.items():
            read, path = photographs.taken(view), photographs.places.get(name)
            if read is None or path is None or photographs.has_changed(view):
                continue
            if is_video(path):
                source = photographs.sources.get(name)
                number, when = (None, None) if source is None else (source.frame, source.time)
                found[name] = ImageRecord(
                    name, path, view.width, view.height, frame=number or 0, encoded=read(), time=when
                )
            else:
                files[path] = name
        if files:
            for record in self._discovered(list(files), config, tell):
                found[files[record.path]] = record
        return found

    def _discovered(self, paths: list[Path], config: ReconstructConfig, tell: Tell) -> list[ImageRecord]:
        masks = config.input.masks
        try:
            return discover(paths, max_pixels=config.input.max_pixels, masks=masks).records
        except InputError as error:
            if masks is None:
                return []
            tell(f"the masks of the scene's photos cannot be read, the cloud stays masked all the same: {error}")
        try:
            return discover(paths, max_pixels=config.input.max_pixels).records
        except InputError:
            return []
