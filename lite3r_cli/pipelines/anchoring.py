"""Metric scale and location of a predicted scene: from a known length, GPS in the pictures, or control points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import WorldConfig
from ..errors import InputError
from ..io.control_points import ControlPoint, read_control_points
from ..io.exif import PhotoMetadata
from ..io.images import ImageSet
from ..scene import geometry
from ..scene.frame import WorldFrame, move_views
from ..scene.geometry import Similarity
from ..scene.lazy_views import cameras_of
from ..scene.priors import PositionPrior
from ..world.geodesy import LocalFrame
from ..world.georeference import Fit, NotEnough, fit_similarity
from ..world.lengths import camera_distance, camera_height, pixel_distance, point_at
from ..world.undistort import UndistortedImages, Undistortion
from .beforehand import metadata_of
from .standing import which_way_is_up

if TYPE_CHECKING:
    from .predict import Predictions

METRES = "metres"
_GPS = 3.0  # metres, horizontal standard deviation of a receiver that does not state its own
_HEIGHT = 2.0  # factor for the vertical standard deviation
_MARK = 0.05  # metres, of a surveyed point as pictures show it: cameras a tenth of a degree off leave that at 60 m


@dataclass(frozen=True)
class Known:
    """Known positions of points of the scene."""

    names: list[str]
    points: np.ndarray  # (N, 3) in the frame of the scene
    positions: np.ndarray  # (N, 3) metres; NaN if a coordinate is unknown
    sigma: np.ndarray  # (N, 3) metres
    origin: LocalFrame | None  # None: a local frame without a location on the Earth
    source: str


def anchor(config: WorldConfig, images: ImageSet, found: Predictions) -> Predictions:
    """The predictions in metres, and in the frame of a map, if `config` says how; else unchanged.

    Raises InputError if these pictures do not allow it.
    """
    if config.gcp is not None or config.world == "enu":
        return _georeferenced(config, images, found)
    names = [view.name for view in cameras_of(found.views)]
    way, metres, length = "", 0.0, None
    if config.scale_from is not None:
        first, second, metres = config.scale_from
        way = f"--scale-from {first} {second}"
        length = camera_distance(found.views, _find(way, names, first), _find(way, names, second))
    elif config.scale_points is not None:
        name, metres = config.scale_points[2:]
        way = f"--scale-points in {name}"
        length = pixel_distance(found.views[_find(way, names, name)], *config.pixels())
    elif config.camera_height is not None:
        way, metres = "--camera-height", config.camera_height
        length = camera_height(found.views, which_way_is_up(config, images, found).direction)
    else:
        return found
    if length is None or length < 1e-6:
        raise InputError(f"{way}: that length cannot be seen in these images; choose another one")
    scale = metres / length
    frame = replace(found.frame, units=METRES, metric=True)
    moved = _moved(found, Similarity(scale, np.eye(3), np.zeros(3)), frame)
    return replace(moved, anchor={"source": way, "metres": metres, "metres_per_unit": scale})


def _find(way: str, names: Sequence[str], name: str) -> int:
    """The view of a picture by its name, with or without its folder."""
    for k, each in enumerate(names):
        if name in (each, PurePosixPath(each).name):
            return k
    raise InputError(f"{way}: there is no image {name} in this scene; it has {', '.join(names[:3])}, …")


def _moved(found: Predictions, similarity: Similarity, frame: WorldFrame) -> Predictions:
    return replace(
        found,
        views=move_views(found.views, similarity),
        sparse=None if found.sparse is None else found.sparse.moved(similarity),
        frame=frame,
    )


def _georeferenced(config: WorldConfig, images: ImageSet, found: Predictions) -> Predictions:
    known = _of_photographs(images, found) if config.gcp is None else _of_marks(config, images, found)
    up = None if config.up == "none" else which_way_is_up(config, images, found)
    what = "--world enu" if config.gcp is None else f"--gcp {config.gcp}"
    try:
        fit = fit_similarity(known.points, known.positions, known.sigma, up.direction if up and up.found else None)
    except NotEnough as error:
        raise InputError(f"{what}: {error}") from error
    off = [known.names[i] for i in np.flatnonzero(~fit.used)]
    warnings = list(found.warnings)
    account = _account(known, fit)
    if off:
        far = np.linalg.norm(np.nan_to_num(fit.residuals[~fit.used]), axis=1)
        some = ", ".join(f"{name} by {distance:.0f} m" for name, distance in zip(off[:5], far))
        more = f" and {len(off) - 5} more" if len(off) > 5 else ""
        warnings.append(f"{what}: positions that disagree with the rest are not used: {some}{more}")
    moved = _moved(found, fit.similarity, _frame(known.origin))
    return replace(moved, anchor=account, warnings=warnings)


def _frame(origin: LocalFrame | None) -> WorldFrame:
    up = (0.0, 0.0, 1.0)
    if origin is None:
        return WorldFrame("local", "world = that of the control points, +z up", METRES, True, up)
    where = f"latitude {origin.latitude:.5f}, longitude {origin.longitude:.5f}, height {origin.height:.0f}"
    text = f"world = +x east, +y north, +z up, origin at {where} (WGS84)"
    return WorldFrame("enu", text, METRES, True, up)


def _account(known: Known, fit: Fit) -> dict[str, Any]:
    """The entry of run.json and geo.json."""
    matrix = np.eye(4)
    matrix[:3, :3] = fit.similarity.scale * fit.similarity.rotation
    matrix[:3, 3] = fit.similarity.translation
    inside = np.nan_to_num(fit.residuals[fit.used])
    spread = np.sqrt((inside**2).mean(axis=0))
    return {
        "source": known.source,
        "frame": "local" if known.origin is None else "enu",
        "origin": None if known.origin is None else known.origin.as_dict(),
        "crs": None if known.origin is None else "WGS84, heights as the source gives them",
        "world_from_scene": matrix.tolist(),
        "metres_per_unit": fit.similarity.scale,
        "accuracy": {
            "residual_horizontal": float(np.hypot(*spread[:2])),
            "residual_vertical": float(spread[2]),
            "used": int(fit.used.sum()),
            "of": len(fit.used),
        },
        "residuals": {
            name: {"metres": [None if np.isnan(x) else round(float(x), 3) for x in residual], "used": bool(used)}
            for name, residual, used in zip(known.names, fit.residuals, fit.used, strict=True)
        },
    }


# --- GPS --------------------------------------------------------------------------------------------------------------


def with_gps(config: WorldConfig, images: ImageSet, found: Predictions) -> Predictions:
    """The predictions with GPS positions, with which `--refine` keeps long strips straight. Unchanged if the scene does
    not get its location from GPS.
    """
    if config.gcp is not None or config.world != "enu" or found.priors is None or found.priors.known_poses:
        return found
    fixes = _fixes([metadata_of(images.records[i]) for i in found.indices])
    if fixes is None:
        return found  # `anchor` reports the reason
    positions: list[PositionPrior | None] = [None] * len(found.indices)
    for k, place, sigma in zip(fixes.views, fixes.positions, fixes.sigma, strict=True):
        positions[k] = PositionPrior(place, sigma)
    return replace(found, priors=replace(found.priors, positions=tuple(positions)))


@dataclass(frozen=True)
class Fixes:
    """GPS positions of some views."""

    views: list[int]
    positions: np.ndarray  # (N, 3) metres in `origin`; NaN if a coordinate is unknown
    sigma: np.ndarray  # (N, 3) metres, infinite for unknown coordinates
    origin: LocalFrame


def _fixes(facts: Sequence[PhotoMetadata]) -> Fixes | None:
    """The positions of views from their files; None if fewer than two have one."""
    having = [k for k, each in enumerate(facts) if each.gps is not None]
    if len(having) < 2:
        return None
    heights = _heights([facts[k] for k in having])
    places = np.array([[facts[k].gps.latitude, facts[k].gps.longitude] for k in having])  # type: ignore[union-attr]
    origin = LocalFrame.around(np.c_[places, np.nan_to_num(heights)])
    local = origin.local(np.c_[places, np.where(np.isfinite(heights), heights, origin.height)])
    sigma = np.array([facts[k].gps.horizontal_error or _GPS for k in having])  # type: ignore[union-attr]
    up = np.where(np.isfinite(heights), _HEIGHT * sigma, np.inf)
    local[:, 2] = np.where(np.isfinite(heights), local[:, 2], np.nan)
    return Fixes(having, local, np.stack([sigma, sigma, up], -1), origin)


def _of_photographs(images: ImageSet, found: Predictions) -> Known:
    """The camera centres and the GPS positions of their pictures. Raises InputError if fewer than two have one."""
    facts = [metadata_of(images.records[i]) for i in found.indices]
    fixes = _fixes(facts)
    if fixes is None:
        count = sum(each.gps is not None for each in facts)
        raise InputError(
            f"--world enu: {count} of {len(facts)} images say where they were taken (GPS in EXIF); it needs two"
        )
    centres = geometry.camera_centres(np.stack([cameras_of(found.views)[k].cam_from_world for k in fixes.views]))
    names = [cameras_of(found.views)[k].name for k in fixes.views]
    return Known(names, centres, fixes.positions, fixes.sigma, fixes.origin, "GPS in EXIF")


def _heights(facts: Sequence[PhotoMetadata]) -> np.ndarray:
    """(N,) metres, NaN if unknown. The height of a drone above its take-off point is far more accurate than GPS: it is
    used if all pictures have it, shifted to the median GPS height.
    """
    altitude = np.array([np.nan if f.gps is None or f.gps.altitude is None else f.gps.altitude for f in facts])
    relative = np.array([np.nan if f.relative_altitude is None else f.relative_altitude for f in facts])
    if not np.isfinite(relative).all():
        return altitude
    both = np.isfinite(altitude)
    return relative + (float(np.median((altitude - relative)[both])) if both.any() else 0.0)


# --- control points ---------------------------------------------------------------------------------------------------


def _of_marks(config: WorldConfig, images: ImageSet, found: Predictions) -> Known:
    """The control points that these pictures show, and where the cameras see them. Raises InputError."""
    assert config.gcp is not None
    control = read_control_points(Path(config.gcp))
    lenses = {view.name: Undistortion(view.lens) for view in cameras_of(found.views) if view.lens is not None}
    if isinstance(images, UndistortedImages):
        lenses = {**images.lenses, **lenses}
    seen = [(point, _triangulated(point, found, lenses)) for point in control.points]
    usable = [(point, place) for point, place in seen if place is not None]
    if len(usable) < 3:
        raise InputError(
            f"--gcp {config.gcp}: these images show {len(usable)} of {len(seen)} control points, but three are needed"
        )
    positions = np.array([point.position for point, _ in usable])
    origin = None if control.local else LocalFrame.around(positions)
    local = positions if origin is None else origin.local(positions)
    points = np.stack([place for _, place in usable])
    return Known([p.name for p, _ in usable], points, local, np.full_like(points, _MARK), origin, "control points")


def _triangulated(point: ControlPoint, found: Predictions, lenses: Mapping[str, Undistortion]) -> np.ndarray | None:
    """The intersection (3,) of the rays through the marks of a point; with one mark, the surface of the depth map.
    Marks are pixels of the original pictures.
    """
    names = {
        name: k for k, view in enumerate(cameras_of(found.views)) for name in (view.name, PurePosixPath(view.name).name)
    }
    marks = []
    for name, x, y in point.marks:
        if name in names:
            view = found.views[names[name]]
            lens = lenses.get(view.name)
            if lens is not None:
                x, y = lens.points(np.array([[x, y]]))[0].tolist()
            marks.append((view, (x, y)))
    if not marks:
        return None
    if len(marks) == 1:
        return point_at(*marks[0])
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for view, pixel in marks:
        ray = np.linalg.solve(view.K, [*pixel, 1.0]) @ view.cam_from_world[:, :3]
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)
        normal += across
        right += across @ geometry.camera_centres(view.cam_from_world[None])[0]
    return np.linalg.solve(normal, right) if np.linalg.cond(normal) < 1e6 else point_at(*marks[0])
