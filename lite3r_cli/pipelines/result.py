"""A reconstructed scene: posed depth maps and the cloud made of them, in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints.fingerprint import Fingerprint
from ..config import ReconstructConfig
from ..config.option import from_home
from ..io.atomic import OutputSet, Place
from ..io.cameras_json import write_cameras_json
from ..io.files import write_json
from ..io.formats import require_known
from ..io.images import ImageSet
from ..io.output_layout import files_of_run
from ..io.ply import write_ply
from ..io.preview import render_preview
from ..scene.frame import WorldFrame
from ..scene.lazy_views import cameras_of
from ..scene.posed_view import PointCloud, View
from ..world.level import Level
from .all_frames import FILE, AllFrames
from .depth_request import DepthFiles
from .scene_formats import write_formats
from .scene_memory import Memories, writing
from .view_files import ViewFiles

if TYPE_CHECKING:
    from .predict import Predictions


@dataclass(frozen=True)
class Scene:
    """The scene of a set of photographs.

    Axes are OpenCV's (+x right, +y down, +z forward). `frame` describes the world frame and the unit of length; by
    default the frame of the first camera and an arbitrary scale. Pixel centres are at +0.5.
    """

    config: ReconstructConfig  # the options
    cloud: PointCloud
    facts: dict[str, Any]  # `info` without the checkpoint's hash
    fingerprint: Fingerprint  # SHA-256 of the checkpoint, computed in the background
    images: ImageSet
    predictions: Predictions
    level: Level | None = None  # up direction and levelled frame
    parts: tuple[Scene, ...] = ()  # further scenes of photographs without a connection to this one
    frames: AllFrames | None = None  # with `all_frames`: the cameras of all frames of a video

    @property
    def views(self) -> list[View]:
        """One view per usable image: name, size, K, cam_from_world, depth (h, w), confidence (h, w)."""
        return self.predictions.views

    @property
    def points(self) -> np.ndarray:
        """(N, 3) float32 points in the world frame (float64 where the frame's origin is far away)."""
        return self.cloud.points

    @property
    def colors(self) -> np.ndarray:
        """(N, 3) uint8 RGB of the points."""
        return self.cloud.colors

    @property
    def confidence(self) -> np.ndarray:
        """(N,) float32 confidence of the points: larger is better, the scale is the network's."""
        return self.cloud.confidence

    @property
    def frame(self) -> WorldFrame:
        """The world frame and the unit of length of points, poses and depth."""
        return self.predictions.frame

    @property
    def info(self) -> dict[str, Any]:
        """The contents of run.json without its list of files: versions, options, choices with reasons, status of each
        image, times in seconds, memory in bytes.
        """
        model = self.facts["model"] | {"sha256": self.fingerprint.result()}
        return {**self.facts, "arguments": plain(self.config), "model": model}

    @property
    def warnings(self) -> list[str]:
        """Warnings, one sentence each: skipped images, little parallax, an empty cloud."""
        return list(self.facts["warnings"])

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The unusable images: `name` and `reason`."""
        everything = (*self.images.skipped, *self.predictions.skipped)
        return [{"name": skipped.name, "reason": skipped.reason} for skipped in everything]

    def __repr__(self) -> str:
        return f"<Scene: {len(self.views)} views, {len(self.cloud):,} points, {self.frame.description}>"

    def save(
        self,
        output: str | Path,
        *,
        formats: str | Sequence[str] = (),
        preview: bool = False,
        save_npy: bool = False,
        previews: bool = True,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write the scene like `lite3r reconstruct -o OUTPUT` and return the files, run.json last.

        `output` is a .ply file, whose other files go to a folder of the same name, or a folder. `formats` are those of
        `--format`, e.g. ["colmap", "glb"]. All files appear together or none does. Raises OutputError if the output
        exists (`overwrite` replaces that of an earlier run) or cannot be written, UsageError for an unknown format.
        """
        formats = (formats,) if isinstance(formats, str) else formats
        require_known(formats)
        config = replace(
            self.config,
            output=str(from_home(output)),
            formats=tuple(formats),
            preview=preview,
            save_npy=save_npy,
            previews=previews,
            overwrite=overwrite,
        )
        with (
            OutputSet(output, overwrite=overwrite) as out,
            ViewFiles(out, previews, save_npy, DepthFiles.of(config)) as files,
        ):
            scene = replace(self, config=config)
            write_scene(out, scene, files)
            out.commit(scene.info)
        written = sorted(files_of_run(out.layout) or ())
        return [out.layout.root / name for name in (*written, out.layout.run_json)]


def write_scene(out: OutputSet, scene: Scene, files: ViewFiles) -> None:
    """Write every file except run.json into the temporary folder, further scenes into `part-2`, `part-3`, …; `files`
    may already be writing those of the main scene's views.
    """
    _write_part(out.part(1), scene, files)
    for number, part in enumerate(scene.parts, 2):
        place = out.part(number)
        with ViewFiles(place, scene.config.previews, scene.config.save_npy, DepthFiles.of(scene.config)) as others:
            _write_part(place, replace(part, config=scene.config), others)


def _write_part(out: Place, scene: Scene, files: ViewFiles) -> None:
    config, views, cameras = scene.config, scene.views, cameras_of(scene.views)
    records = [scene.images.records[i] for i in scene.predictions.indices]
    if not files.started:
        files.start(views, [record.stem for record in records])
    memories = Memories(config, scene.images, scene.predictions, files.kept)
    with nullcontext() if files.remembered else writing(memories, out):
        write_ply(out.cloud, scene.cloud, scene.frame.comments())
        out.note(out.cloud)
        scales = files.scales()
        sizes = [_sized(view) for view in cameras] if files.depth.picture_size else cameras
        depth = [f"depth/{record.stem}.png" for record in records]
        write_cameras_json(out.path("cameras.json"), sizes, depth, scales, scene.frame)
    if scene.frames is not None:
        scene.frames.write(out.path(FILE))
    anchor = scene.predictions.anchor
    if anchor is not None and "origin" in anchor:
        write_json(out.path("geo.json"), anchor)
    up = scene.level.up.direction if scene.level is not None and scene.level.up.found else None
    depths = {view.name: (f"depth/{r.stem}.png", scale) for view, r, scale in zip(cameras, records, scales)}
    write_formats(out.directory, scene, depths)
    if config.preview:
        render_preview(out.path("preview.png"), scene.cloud, cameras, up=up)


def _sized(view: View) -> View:
    """With a depth map of the picture's size, whose values are not used."""
    return replace(view, depth=np.broadcast_to(np.float32(0), (view.height, view.width)))


def plain(value: Any) -> Any:
    """The value as JSON data: configurations and tuples become dictionaries and lists, paths become text."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
