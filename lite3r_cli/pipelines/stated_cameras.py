"""`lite3r add --cameras`: known cameras of new photos in the frame of the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..io.flight import is_trajectory, usual_lens
from ..io.foreign_cameras import read_known_cameras
from ..io.images import ImageRecord
from ..io.tum import read_tum
from ..scene.camera_path import resized
from ..scene.posed_view import View
from .beforehand import find_cameras, match_trajectory


def stated_cameras(path: Path | None, photos: Sequence[ImageRecord], views: Sequence[View]) -> dict[str, View]:
    """The camera of each photo that `path` has one for, by the name of the photo in the set. A trajectory (TUM) has no
    lens: its cameras get that of the scene's `views`.

    Raises InputError for a malformed file, cameras of none of the photos, or cameras of another size.
    """
    if path is None:
        return {}
    found = _of_trajectory(path, photos, views) if is_trajectory(path) else _by_name(path, photos)
    if not found:
        raise InputError(f"{path}: has a camera for none of the photos ({_file(photos[0])}, …)")
    return found


def _by_name(path: Path, photos: Sequence[ImageRecord]) -> dict[str, View]:
    known = {view.name: view for view in read_known_cameras(path)}
    found = {}
    by_name = find_cameras(known, [record.name for record in photos])
    by_file = find_cameras(known, [_file(record) for record in photos])
    for record, named, filed in zip(photos, by_name, by_file, strict=True):
        camera = named or filed
        if camera is not None:
            _require_fit(path, record, camera)
            found[record.name] = camera
    return found


def _of_trajectory(path: Path, photos: Sequence[ImageRecord], views: Sequence[View]) -> dict[str, View]:
    lines, lens = read_tum(path), usual_lens(views)
    which = match_trajectory([key for key, _ in lines], [_file(record) for record in photos])
    return {
        record.name: resized(replace(lens, cam_from_world=lines[k][1]), (record.width, record.height))
        for record, k in zip(photos, which, strict=True)
        if k is not None
    }


def _file(record: ImageRecord) -> str:
    """The name of the photo's file, which may differ from its name in the scene."""
    return record.name if record.frame is not None else record.path.name


def _require_fit(path: Path, record: ImageRecord, camera: View) -> None:
    if (camera.width, camera.height) != (record.width, record.height):
        raise InputError(
            f"{path}: the camera of {record.name} is of {camera.width}x{camera.height} pixels, the photo "
            f"has {record.width}x{record.height}"
        )
    if camera.lens is not None:
        raise InputError(f"{path}: the camera of {record.name} bends lines: give undistorted images")
