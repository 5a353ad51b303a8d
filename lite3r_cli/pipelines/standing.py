"""Finds the up direction of a finished scene, and moves the scene into the levelled frame on request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..config import WorldConfig
from ..config.world import UPS, parse_up
from ..console import Progress
from ..errors import InputError
from ..io.images import ImageSet
from ..networks.pictures import NetworkInput
from ..scene.frame import WorldFrame, move_cloud, move_views
from ..scene.lazy_views import cameras_of
from ..world.gravity import Up, find_up, up_of_cameras
from ..world.level import level_scene
from ..world.undistort import undistorted
from .ahead import NO_EDGES, Edges
from .beforehand import metadata_of
from .later import Later
from .run_info import Part

if TYPE_CHECKING:
    from .predict import Predictions

LEVEL = WorldFrame(
    "level",
    "world = levelled, +x right, +y ahead (of the first camera), +z up, origin on the ground below the cameras",
    up=(0.0, 0.0, 1.0),
)


def stand_up(
    config: WorldConfig,
    images: ImageSet,
    part: Part,
    progress: Progress,
    known: Later[Up] | None = None,
) -> Part:
    """The part with its level; in the levelled frame with `--world level`. `known` is the up direction, if it is being
    searched.

    Raises InputError if that frame was requested and the up direction is unknown.
    """
    if config.up == "none":
        return part
    with progress.stage("Level", minor=True):
        up = which_way_is_up(config, images, part.predictions) if known is None else known.result()
        level = level_scene(cameras_of(part.predictions.views), part.cloud, up)
    if config.world != "level":
        return replace(part, level=level)
    if not up.found:
        raise InputError(
            "--world level: the images show no vertical edges that tell what is up; give --up camera or --up x,y,z"
        )
    found = part.predictions
    moved = replace(
        found,
        views=move_views(found.views, level.map),
        sparse=None if found.sparse is None else found.sparse.moved(level.map),
        frame=replace(LEVEL, units=found.frame.units, metric=found.frame.metric),
    )
    cloud = move_cloud(part.cloud, level.map)
    stands = replace(up, direction=np.array([0.0, 0.0, 1.0]))
    stood = replace(level_scene(cameras_of(moved.views), cloud, stands), applied=level.map)
    return replace(part, predictions=moved, cloud=cloud, level=stood)


def which_way_is_up(
    config: WorldConfig, images: ImageSet, found: Predictions, edges: Edges = NO_EDGES, device: str = "cpu"
) -> Up:
    """The up direction in the world of the predictions. A map frame defines it, regardless of `config`. `edges` are
    those of the pictures, if known.
    """
    if found.frame.up is not None:
        return Up(np.array(found.frame.up), "georeference", True)
    found = found.sample or found
    if config.up == "camera":
        return Up(up_of_cameras(found.views), "cameras", True)
    if config.up not in UPS:
        direction = np.array(parse_up(config.up))
        return Up(direction / np.linalg.norm(direction), "stated", True)
    attitudes = [metadata_of(images.records[i]).attitude for i in found.indices]
    pictures = [undistorted(whole_picture(item), view) for item, view in zip(found.inputs, found.views)]
    greys = [cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY) for rgb in pictures]
    known = [edges.of(item) if view.lens is None else None for item, view in zip(found.inputs, found.views)]
    return find_up(found.views, greys, attitudes, known, device)


def whole_picture(item: NetworkInput) -> np.ndarray:
    """The picture at the network's size, grey where it was cropped, so that its pixels fit K."""
    rgb = item.rgb
    if rgb.shape[:2] == tuple(item.full):
        return rgb
    whole = np.full((*item.full, 3), 127, np.uint8)
    top, left = item.corner
    whole[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    return whole
