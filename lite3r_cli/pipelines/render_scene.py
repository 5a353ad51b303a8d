"""`lite3r render`: makes a video of a flight through a written scene."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .. import __version__
from ..config.rendering import PATHS, RenderConfig
from ..console import Progress, Tell
from ..errors import InputError, OutputError
from ..io.cameras_json import write_cameras_json
from ..io.depth_files import write_depth_png
from ..io.documents import require_file
from ..io.files import write_bytes, write_json
from ..io.flight import read_flight
from ..io.kept_inputs import require_not_read
from ..io.movie import write_movie
from ..io.names import printable
from ..io.own_record import require_as_written, sizes_of
from ..io.transaction import Transaction, commit_together, require_free
from ..runtime import choose
from ..scene.camera_path import along, orbit, resized, through
from ..scene.point_rendering import Frame, PointRenderer, point_spacing, visible_shares
from ..scene.posed_view import View
from .result import plain
from .written_scene import WrittenScene

CAMERAS = "cameras.json"
RECORD = "render.json"  # of a folder of frames: written last, so that all of its files exist when it does


@dataclass(frozen=True)
class Rendered:
    """The outcome."""

    film: Path | None
    frames: Path | None
    count: int
    size: tuple[int, int]  # width, height
    unseen: float  # mean share of the frames that no photograph saw

    def document(self) -> dict[str, Any]:
        return {
            "film": None if self.film is None else str(self.film),
            "frames": None if self.frames is None else str(self.frames),
            "count": self.count, "width": self.size[0], "height": self.size[1], "unseen_share": round(self.unseen, 4),
        }  # fmt: skip


def render_scene(config: RenderConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Rendered:
    """Render the flight and write the video, the frames, or both.

    Raises InputError without a scene or a path, OutputError if the output exists or cannot be written.
    """
    progress = progress or Progress()
    if config.path not in PATHS:
        require_file(Path(config.path), f"--path takes {', '.join(PATHS)} or a file with cameras", "--path")
    scene = WrittenScene.at(config.scene)
    scene.tell_fault(warn)
    film = config.output
    if film is None and config.frames is None:
        film = scene.layout.root / f"{Path(scene.layout.cloud).stem}.mp4"
    if film is not None:
        _require_not_read([film], scene, config)
    with ExitStack() as stack:
        places = _Places.take(stack, film, config)
        _require_not_read([config.frames / name for name in places.old] if config.frames else [], scene, config)
        with progress.stage("Read"):
            views, cloud = scene.views(load_depth=True), scene.cloud(warn)
            if not views or not len(cloud):
                raise InputError(f"{printable(config.scene)}: has no {'cameras' if not views else 'points'} to show")
            cameras = _path(config, scene, views, cloud)
            device = choose(config.device)
            renderer = PointRenderer(cloud, point_spacing(cloud, views), device.torch_device)
        writer = None if places.folder is None else _FrameFiles(places.folder.new, config.condition, views)
        unseen: list[float] = []
        with progress.stage("Render", len(cameras)) as step:

            def frames() -> Iterator[np.ndarray]:
                for camera in cameras:
                    frame = renderer.render(camera)
                    unseen.append(1 - float(frame.seen.float().mean()))
                    if writer is not None:
                        writer.add(camera, frame)
                    step()
                    yield frame.rgb.cpu().numpy()

            if places.film is not None:
                write_movie(places.film.new / places.film.name, frames(), config.fps)
            else:
                for _ in frames():
                    pass
        with progress.stage("Write", minor=True):
            if writer is not None:
                writer.finish(scene, warn)
            places.commit({"lite3r": __version__, "arguments": plain(config), "device": asdict(device.device)})
    return Rendered(film, config.frames, len(cameras), (cameras[0].width, cameras[0].height), float(np.mean(unseen)))


@dataclass(frozen=True)
class _Places:
    """Output places of the video and the frames. They are reserved before the first frame, so that obstacles, such as
    another run, are reported at once.
    """

    film: Transaction | None
    folder: Transaction | None
    old: list[str]  # frames that will be replaced

    @classmethod
    def take(cls, stack: ExitStack, film: Path | None, config: RenderConfig) -> _Places:
        """Raises OutputError."""
        files = folder = None
        old: list[str] = []
        if film is not None:
            files = stack.enter_context(Transaction(film.parent, film.name, lambda name: name == film.name))
            require_free(film, config.overwrite)
        if config.frames is not None:
            folder = stack.enter_context(Transaction(config.frames, RECORD, _is_of_frames))
            inside = film is not None and film.absolute().parent == config.frames.absolute()
            own = [
                *folder.entries,
                *(() if files is None or film is None or not inside else (*files.entries, film.name)),
            ]
            old = _old_frames(config.frames, own, config.overwrite)
        return cls(files, folder, old)

    def commit(self, told: dict[str, Any]) -> None:
        """Move the video and the frames into place together, these with a record of them and of how they were made."""
        if self.folder is not None:
            new = self.folder.new
            names = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if not path.is_dir())
            write_json(new / RECORD, {**told, "files": sizes_of(new, names)})
        if self.folder is not None and self.film is not None:
            commit_together(self.folder, self.old, RECORD, self.film, [self.film.name])
        elif self.folder is not None:
            self.folder.commit(self.old, RECORD)
        elif self.film is not None:
            self.film.commit([self.film.name], self.film.name)


def _require_not_read(targets: Sequence[Path], scene: WrittenScene, config: RenderConfig) -> None:
    """Raise UsageError for a target that the flight is made from."""
    scene.require_not_in(*targets)
    if config.path not in PATHS:
        require_not_read(targets, {Path(config.path): "the flight that --path names"})


def _path(config: RenderConfig, scene: WrittenScene, views: Sequence[View], cloud: Any) -> list[View]:
    if config.path == "cameras":
        return through(views, config.count, config.size)
    if config.path == "orbit":
        return orbit(views, cloud, scene.up, config.count, config.size)
    given = read_flight(Path(config.path), views)
    if config.exact:
        return [replace(resized(view, config.size), name=f"frame_{i:05d}.png") for i, view in enumerate(given)]
    return along(given, config.count, config.size)


class _FrameFiles:
    """Writes the files of the frames as they are rendered."""

    def __init__(self, folder: Path, most: int | None, views: Sequence[View]) -> None:
        self.folder, self.most, self.views = folder, most, views
        self.cameras: list[View] = []
        self.scales: list[float] = []
        self.ranked: dict[str, list[dict[str, Any]]] = {}
        for name in ("rgb", "depth", "seen"):
            (folder / name).mkdir()

    def add(self, camera: View, frame: Frame) -> None:
        rgb, seen = frame.rgb.cpu().numpy(), frame.seen.cpu().numpy()
        _write_png(self.folder / "rgb" / camera.name, rgb[..., ::-1])
        _write_png(self.folder / "seen" / camera.name, seen.astype(np.uint8) * 255)
        self.scales.append(write_depth_png(self.folder / "depth" / camera.name, frame.depth.cpu().numpy()))
        self.cameras.append(camera)
        if self.most is not None:
            shares = visible_shares(frame, camera, self.views)
            best = sorted(range(len(shares)), key=lambda i: (-shares[i], i))[: self.most]
            self.ranked[camera.name] = [
                {"image": self.views[i].name, "visible_share": round(shares[i], 4)} for i in best if shares[i] > 0
            ]

    def finish(self, scene: WrittenScene, warn: Tell) -> None:
        """Write the cameras of the frames, and the photographs of the conditions."""
        depth = [f"depth/{camera.name}" for camera in self.cameras]
        write_cameras_json(self.folder / CAMERAS, self.cameras, depth, self.scales, scene.frame)
        if self.most is None:
            return
        wanted = {entry["image"] for entries in self.ranked.values() for entry in entries}
        files = self._photographs(scene, [view for view in self.views if view.name in wanted], warn)
        for entries in self.ranked.values():
            for entry in entries:
                entry["file"] = files.get(entry["image"])
        known = {view.name: view for view in self.views if view.name in wanted}
        captured = {
            name: {"K": view.K.tolist(), "cam_from_world": view.cam_from_world.tolist(), "file": files.get(name),
                   "width": view.width, "height": view.height}
            for name, view in known.items()
        }  # fmt: skip
        write_json(self.folder / "condition.json", {"frames": self.ranked, "captured": captured})

    def _photographs(self, scene: WrittenScene, views: Sequence[View], warn: Tell) -> dict[str, str]:
        pictures, files = scene.photographs(), {}
        for i, view in enumerate(views):
            rgb = pictures.read(view)
            if rgb is None:
                why = pictures.why_missing([view.name])
                warn(f"{printable(view.name)}: without its photo, condition.json has its camera: {why}")
                continue
            files[view.name] = f"photographs/{i:05d}.jpg"
            done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 95])
            if not done:
                raise OutputError(f"{files[view.name]}: could not be encoded")
            (self.folder / "photographs").mkdir(exist_ok=True)
            write_bytes(self.folder / files[view.name], data.tobytes())
        return files


def _write_png(path: Path, picture: np.ndarray) -> None:
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise OutputError(f"{path}: could not be encoded")
    write_bytes(path, data.tobytes())


def _is_of_frames(name: str) -> bool:
    """Whether a path in a folder of frames is one that this command writes."""
    folder, _, file = name.rpartition("/")
    if not folder:
        return file in (RECORD, CAMERAS, "condition.json")
    stem, _, suffix = file.rpartition(".")
    if folder == "photographs":
        return suffix == "jpg" and stem.isdigit()
    return folder in ("rgb", "depth", "seen") and suffix == "png" and stem.startswith("frame_") and stem[6:].isdigit()


def _old_frames(folder: Path, own: Sequence[str], overwrite: bool) -> list[str]:
    """The files of an earlier flight in `folder`, apart from this run's `own`. Raises OutputError if the folder has
    other or changed files, and if it has a flight and `overwrite` is off.
    """
    if not set(os.listdir(folder)) - set(own):
        return []
    found = require_as_written(folder, RECORD, "lite3r render --frames", _is_of_frames, own)
    if not overwrite:
        raise OutputError(f"{printable(folder)}: holds a flight already; --overwrite replaces it")
    return found
