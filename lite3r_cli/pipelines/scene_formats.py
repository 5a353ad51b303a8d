"""Data and warnings for the formats of `--format`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..config import ReconstructConfig
from ..io.exported_pictures import export_pictures
from ..io.formats import EXTRA_FORMATS
from ..io.output_layout import output_layout
from ..io.scene_export import SceneExport
from ..scene.frame import GIVEN, local_origin, move_cloud, move_views, translation
from ..scene.geometry import Similarity, camera_centres
from ..scene.lazy_tracks import tracks_in_pieces
from ..scene.lazy_views import LazyViews, cameras_of, without_maps
from ..scene.posed_view import View
from ..scene.surface_nets import Mesh, TexturedMesh
from ..scene.tracks import joined, tracks_from_depth
from ..world.geodesy import LocalFrame
from ..world.level import Level
from .beforehand import metadata_of

if TYPE_CHECKING:
    from .predict import Predictions
    from .result import Scene

START_POINTS = 150_000  # points of the cloud in exports for splat training: more do not improve it
AS_HELD = Similarity(1.0, np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.zeros(3))  # z up as in the camera
FEWEST = 2  # smallest number of verified pictures for a model


def write_formats(directory: Path, scene: Scene, depths: Mapping[str, tuple[str, float]]) -> None:
    """Write the requested formats into `directory`; `depths`: view → depth file and its scale.

    Raises OutputError.
    """
    formats = [EXTRA_FORMATS[name] for name in dict.fromkeys(scene.config.formats)]
    if not formats:
        return
    whole = _whole(directory, scene, depths)
    if any(each.pictures and not each.tracks for each in formats):
        whole = _with_pictures(whole, scene, list(range(len(scene.views))))
    trained = whole
    if any(each.tracks for each in formats):
        trained = _trained(whole, scene, pictures=any(each.pictures for each in formats))
    for each in formats:
        export = trained if each.tracks else whole
        if each is EXTRA_FORMATS["tum"] and scene.frames is not None:
            views = [frame.view for frame in scene.frames.frames]
            export = replace(export, views=views, times=scene.frames.times())
        if each.levelled and scene.level is not None and scene.level.up.found:
            export = _levelled(export, scene.level)
        with _quiet_database(export):
            each.write(export)


@contextmanager
def _quiet_database(export: SceneExport) -> Iterator[None]:
    """Silences pycolmap while it writes COLMAP's database of a refined scene, because it prints SQLite's messages."""
    if not export.adjusted:
        yield
        return
    from ..refine.backend import quiet_pycolmap  # imports pycolmap, an extra

    with quiet_pycolmap():
        yield


def format_warnings(config: ReconstructConfig, found: Predictions) -> list[str]:
    """Warnings about the use of a scene for measurement or training."""
    measured = [f"--format {name}" for name in config.formats if EXTRA_FORMATS[name].measures]
    warnings = []
    if measured and not found.frame.metric and found.frame.units != GIVEN.units:
        warnings.append(f"{', '.join(measured)}: the scene has no metric scale (--scale-from, --gcp, --world enu)")
    training = [name for name in config.formats if EXTRA_FORMATS[name].tracks]
    return warnings if not training or found.priors.known_poses else [*warnings, *_training_warnings(config, found)]


def _training_warnings(config: ReconstructConfig, found: Predictions) -> list[str]:
    training = [name for name in config.formats if EXTRA_FORMATS[name].tracks]
    names = ", ".join(f"--format {name}" for name in training)
    if found.verdicts is None:
        return [f"{names}: the cameras come from the network alone and are too inexact for sharp splats; add --refine"]
    trusted = trusted_views(found, config.keep_unverified)
    lost = [view.name for i, view in enumerate(cameras_of(found.views)) if i not in set(trusted)]
    if not lost:
        return []
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return [
        f"{names}: {len(lost)} of {len(found.views)} images are left out: --refine could not verify their cameras "
        f"({', '.join(lost[:3])}{more}); --keep-unverified keeps them"
    ]


def trusted_views(found: Predictions, keep_all: bool) -> list[int]:
    """The views of exported models: those with verified cameras; all if none was or could be verified."""
    from ..refine.verdicts import KEPT  # imports torch

    everything = list(range(len(found.views)))
    if keep_all or found.verdicts is None:
        return everything
    verified = [i for i, verdict in enumerate(found.verdicts) if verdict.get("cameras") != KEPT]
    return verified if len(verified) >= FEWEST else everything


def _whole(directory: Path, scene: Scene, depths: Mapping[str, tuple[str, float]]) -> SceneExport:
    upright = scene.level is not None and scene.level.up.found
    numbers = {view.name: index for view, index in zip(cameras_of(scene.views), scene.predictions.indices)}
    surface = cache(lambda: _surface(scene))
    return SceneExport(
        directory,
        scene.views if not isinstance(scene.views, LazyViews) else without_maps(scene.views),
        scene.cloud,
        scene.predictions.sparse,
        depths=depths,
        times=_times(scene) if {"tum", "tum-rgbd"} & set(scene.config.formats) else {},
        frame=scene.frame,
        up=scene.level.up.direction if scene.level is not None and upright else None,
        look=scene.level.look if scene.level is not None and upright else None,
        upright=_upright(scene),
        geographic=_geographic(scene),
        title=output_layout(scene.config.output).title,
        read_picture=lambda name: scene.images.read(numbers[name]),
        make_mesh=lambda: surface()[1],
        make_textured=lambda: _textured(scene, *surface()),
    )


def _upright(scene: Scene) -> Similarity | None:
    """From the frame of the scene to one with +z up; None if it has +z up, or if the user has given the frame."""
    if scene.frame.up is not None or scene.frame.name == GIVEN.name:
        return None
    return AS_HELD if scene.level is None else scene.level.map


def _geographic(scene: Scene) -> Callable[[np.ndarray], np.ndarray] | None:
    origin = (scene.predictions.anchor or {}).get("origin")
    return None if origin is None else LocalFrame(**origin).places


def mesh_of_scene(scene: Scene) -> Mesh:
    """The surface of the depth maps, with the filters of the cloud."""
    return _surface(scene)[1]


def _surface(scene: Scene) -> tuple[list[View], Mesh]:
    """The views with filtered depth maps, and their surface."""
    from ..scene.fusion import clean_views
    from ..scene.tsdf import mesh_of

    images, indices = scene.images, scene.predictions.indices
    device = _device(scene)
    origin = local_origin(camera_centres(np.stack([view.cam_from_world for view in cameras_of(scene.views)])))
    near = move_views(scene.views, translation(None if origin is None else -origin))
    clean = clean_views(near, lambda j: images.read_mask(indices[j]), scene.config.fusion, device)
    placed = move_views(clean, translation(origin))
    return placed, mesh_of(placed, scene.cloud, lambda j: images.read(indices[j]), device)


def _textured(scene: Scene, views: Sequence[View], mesh: Mesh) -> TexturedMesh:
    from ..scene.texture_atlas import textured

    return textured(views, mesh, lambda j: scene.images.read(scene.predictions.indices[j]))


def _device(scene: Scene) -> str:
    """The device of the prediction."""
    return str(scene.facts["runtime"]["device"]["chosen"])


def _trained(whole: SceneExport, scene: Scene, pictures: bool) -> SceneExport:
    """With pictures and points that have tracks: adjusted points first, then evenly spread points of the cloud."""
    found = scene.predictions
    trusted = trusted_views(found, scene.config.keep_unverified)
    if isinstance(found.views, LazyViews):
        export = replace(whole, sparse=tracks_in_pieces(found.views, scene.cloud, START_POINTS))
        return _with_pictures(export, scene, trusted) if pictures and not whole.pictures else export
    views, sparse = [found.views[i] for i in trusted], found.sparse
    dense = tracks_from_depth(views, scene.cloud, START_POINTS)
    exact = None if sparse is None else sparse.only(trusted)
    start = dense if exact is None else joined(exact, dense)
    export = replace(whole, views=views, sparse=start or None, adjusted=0 if exact is None else len(exact))
    return _with_pictures(export, scene, trusted) if pictures and not whole.pictures else export


def _with_pictures(export: SceneExport, scene: Scene, which: Sequence[int]) -> SceneExport:
    keep = scene.config.keep_distortion
    images = scene.images.stored() if keep else scene.images
    exported = export_pictures(export.directory, images, [scene.predictions.indices[i] for i in which])
    return replace(export, pictures=exported.pictures, masks=exported.masks, distorted=keep)


def _times(scene: Scene) -> dict[str, float]:
    """Timestamps of the views in seconds: since the start of the video, or since 1970 by EXIF; empty
    unless all differ.
    """
    records = [scene.images.records[i] for i in scene.predictions.indices]
    times = [record.time if record.frame is not None else _taken(metadata_of(record).taken) for record in records]
    known = [time for time in times if time is not None]
    if len(set(known)) < len(records):
        return {}
    return {view.name: time for view, time in zip(cameras_of(scene.views), known)}


def _taken(text: str | None) -> float | None:
    """The time in EXIF, read as UTC, because it has no time zone."""
    try:
        taken = datetime.strptime((text or "").strip(), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    return taken.replace(tzinfo=UTC).timestamp()


def _levelled(export: SceneExport, level: Level) -> SceneExport:
    """The export in the frame for viewers, with gravity along +y."""
    return replace(export, views=move_views(export.views, level.look), cloud=move_cloud(export.cloud, level.look))
