"""`--all-frames`: cameras for every frame of a video, not only for key frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..console import Progress, Tell
from ..errors import InputError
from ..io.files import write_json
from ..io.images import ImageRecord
from ..io.names import printable
from ..io.regular import BadImage
from ..io.video import grey_frames
from ..long.frame_tracking import KEY, SIDE, Anchor, FrameCamera, Pixels, place_frames
from ..scene.posed_view import View
from ..world.undistort import UndistortedImages, Undistortion

if TYPE_CHECKING:
    from .result import Scene

FILE = "frames.json"
_TOLD = 20  # failed frames that run.json names


@dataclass(frozen=True)
class NamedFrame:
    """A frame of a video with its camera; `view` has no depth."""

    view: View
    camera: FrameCamera


@dataclass(frozen=True)
class AllFrames:
    """The frames of all videos of a scene, in order."""

    frames: list[NamedFrame]
    account: dict[str, Any]  # for run.json

    def write(self, path: Path) -> None:
        """Write the keys of cameras.json for each frame, and `frame`, `time`, `how`. Raises OutputError."""
        images = {}
        for each in self.frames:
            camera = each.camera
            facts: dict[str, Any] = {"frame": camera.frame, "time": camera.time, "how": camera.how}
            if camera.how != KEY:
                facts |= {"corners": camera.corners}
            if camera.turn is not None:
                facts["turn_between_key_frames"] = round(camera.turn, 4)
            images[each.view.name] = {
                "K": camera.K.tolist(), "cam_from_world": camera.cam_from_world.tolist(),
                "width": each.view.width, "height": each.view.height, **facts,
            }  # fmt: skip
        write_json(path, {"convention": "as cameras.json; `how` the camera was found", "images": images})

    def times(self) -> dict[str, float]:
        """Timestamps of the frames in seconds; empty if some are unknown, or if several videos share them."""
        times = [each.camera.time for each in self.frames]
        if None in times or len(set(times)) < len(times):
            return {}
        return {each.view.name: float(each.camera.time or 0) for each in self.frames}


def with_all_frames(scene: Scene, progress: Progress, tell: Tell) -> Scene:
    """The scene with the cameras of all frames of its videos, including further parts; unchanged if this was not
    requested.

    Raises InputError if a video is no longer readable.
    """
    if not scene.config.all_frames or scene.frames is not None:
        return scene
    parts = tuple(with_all_frames(part, progress, tell) for part in scene.parts)
    by_video: dict[Path, list[int]] = {}
    for k, i in enumerate(scene.predictions.indices):
        record = scene.images.records[i]
        if record.frame is not None and record.facing is None:
            by_video.setdefault(record.path, []).append(k)
    if not by_video:
        text = "--all-frames: there is no video among the images (360° videos apart): nothing to do"
        tell(text)
        return replace(scene, parts=parts, facts=_warned(scene, text))
    several = len({record.path for record in scene.images.records if record.frame is not None}) > 1
    frames: list[NamedFrame] = []
    lost: list[str] = []
    with progress.stage("Place frames") as step:
        for path, which in by_video.items():
            found, missing = _of_video(scene, path, which, f"{path.stem}_" if several else "", step)
            frames += found
            lost += missing
    counts: dict[str, Any] = {
        how: sum(each.camera.how == how for each in frames) for how in sorted({f.camera.how for f in frames})
    }
    account: dict[str, Any] = {"placed": len(frames), **counts, "not_placed": len(lost)}
    facts = scene.facts
    if lost:
        account["not_placed_frames"] = lost[:_TOLD]
        text = f"--all-frames: {len(lost)} frames have no camera, too little of them could be followed: {lost[0]}, …"
        tell(text)
        facts = _warned(scene, text)
    return replace(scene, parts=parts, frames=AllFrames(frames, account), facts={**facts, "all_frames": account})


def _warned(scene: Scene, text: str) -> dict[str, Any]:
    return {**scene.facts, "warnings": [*scene.facts["warnings"], text]}


def _of_video(
    scene: Scene, path: Path, which: list[int], prefix: str, step: Callable[..., None]
) -> tuple[list[NamedFrame], list[str]]:
    """The frames of one video, and the names of those without a camera."""
    records = {k: scene.images.records[scene.predictions.indices[k]] for k in which}
    by_frame = {record.frame: k for k, record in records.items()}
    size = next(iter(records.values()))
    seen: list[int] = []

    def streamed():
        for frame in grey_frames(path, SIDE):
            seen.append(frame.index)
            step()
            yield frame

    anchors = {frame: _loader(scene, k, records[k]) for frame, k in by_frame.items() if frame is not None}
    frames = []
    try:
        for camera in place_frames(streamed(), anchors):
            known = records.get(by_frame.get(camera.frame, -1))
            name = f"{prefix}frame_{camera.frame:06d}.png" if known is None else known.name
            view = View(name, size.width, size.height, camera.K, camera.cam_from_world)
            frames.append(NamedFrame(view, camera))
    except BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error
    placed = {each.camera.frame for each in frames}
    return frames, [f"{prefix}frame_{index:06d}.png" for index in seen if index not in placed]


def _loader(scene: Scene, k: int, record: ImageRecord) -> Callable[[], Anchor]:
    def load() -> Anchor:
        view = scene.views[k]
        return Anchor(view, _to_view(scene, view, record))

    return load


def _to_view(scene: Scene, view: View, record: ImageRecord) -> Pixels:
    """From pixels of the video's frames to those of the view, whose picture may be undistorted."""
    lens = None if view.lens is None else Undistortion(view.lens)
    if isinstance(scene.images, UndistortedImages):
        lens = scene.images.lenses.get(record.name, lens)
    return np.asarray if lens is None else lens.points
