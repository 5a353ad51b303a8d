"""Pictures for pycolmap: single ones, or those of one 360° picture as a rig with known, fixed rotations.

Camera k of the lenses has the number k + 1 in pycolmap, picture i the number i + 1; a rig has the number of its first
camera, the frame of a rig that of its first picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..scene.facing import rigs_of
from .backend import require_pycolmap
from .lens import Lenses


def frames_of(lenses: Lenses, pictures: Sequence[int]) -> list[list[int]]:
    """Groups of pictures that share one pose, each in order."""
    chosen = set(pictures)
    rigs = [[i for i in members if i in chosen] for members in rigs_of(lenses.facings).values()]
    tied = {i for members in rigs for i in members}
    return sorted([[i] for i in pictures if i not in tied] + [members for members in rigs if members])


def rigs(lenses: Lenses) -> dict[int, Any]:
    """For each lens the rig (pycolmap.Rig) that its camera is a sensor of; sensors of one rig are of one size."""
    pycolmap = require_pycolmap()
    sensors: dict[tuple, dict[int, int]] = {}  # size, or lens of no rig -> number of the view -> lens
    for i, k in enumerate(lenses.of_view):
        facing = lenses.facings[i] if lenses.facings else None
        key = (k,) if facing is None else (facing.side, facing.views, lenses.lenses[k].params)
        sensors.setdefault(key, {})[0 if facing is None else facing.number] = k
    turns = {f.number: f.turn for f in lenses.facings if f is not None}
    found: dict[int, Any] = {}
    for group in sensors.values():
        (first, reference), *others = sorted(group.items())
        rig = pycolmap.Rig(rig_id=reference + 1)
        rig.add_ref_sensor(lenses.lenses[reference].camera(reference + 1).sensor_id)
        for number, k in others:
            turn = np.column_stack([turns[number] @ turns[first].T, np.zeros(3)])
            rig.add_sensor(lenses.lenses[k].camera(k + 1).sensor_id, pycolmap.Rigid3d(turn))
        found |= dict.fromkeys(group.values(), rig)
    return found


def frame(rig: Any, images: Sequence) -> Any:
    """The frame (pycolmap.Frame) of the images of one rig."""
    pycolmap = require_pycolmap()
    found = pycolmap.Frame(frame_id=images[0].image_id, rig_id=rig.rig_id)
    for image in images:
        found.add_data_id(image.data_id)
    return found


def add_posed(model, lenses: Lenses, poses: Mapping[int, np.ndarray], keypoints: Sequence[np.ndarray]) -> None:
    """Add the pictures with a pose to an empty model (pycolmap.Reconstruction). A rig has the pose of its first
    picture.
    """
    pycolmap = require_pycolmap()
    rig_of = rigs(lenses)
    for k in sorted(set(lenses.of_view)):
        model.add_camera(lenses.lenses[k].camera(k + 1))
    for rig in {rig.rig_id: rig for rig in rig_of.values()}.values():
        model.add_rig(rig)
    for members in frames_of(lenses, sorted(poses)):
        images = [
            pycolmap.Image(
                name=f"{i:06d}", keypoints=keypoints[i], camera_id=lenses.of_view[i] + 1, image_id=i + 1
            )
            for i in members
        ]  # fmt: skip
        rig, number = rig_of[lenses.of_view[members[0]]], lenses.of_view[members[0]] + 1
        sensor = lenses.lenses[number - 1].camera(number).sensor_id
        pose = pycolmap.Rigid3d(np.asarray(poses[members[0]], np.float64))
        both = frame(rig, images)
        both.rig_from_world = pose if rig.is_ref_sensor(sensor) else rig.sensor_from_rig(sensor).inverse() * pose
        model.add_frame(both)
        for image in images:
            image.frame_id = both.frame_id
            model.add_image(image)


def write_database(database, lenses: Lenses, keypoints: Sequence[np.ndarray]) -> None:
    """Cameras, rigs, frames and pictures with their keypoints into an empty pycolmap database."""
    pycolmap = require_pycolmap()
    rig_of = rigs(lenses)
    for k in sorted(set(lenses.of_view)):
        database.write_camera(lenses.lenses[k].camera(k + 1), use_camera_id=True)
    for rig in {rig.rig_id: rig for rig in rig_of.values()}.values():
        database.write_rig(rig, use_rig_id=True)
    images = [pycolmap.Image(name=f"{i:06d}", camera_id=k + 1, image_id=i + 1) for i, k in enumerate(lenses.of_view)]
    for image in images:
        database.write_image(image, use_image_id=True)
    for members in frames_of(lenses, range(len(images))):
        both = frame(rig_of[lenses.of_view[members[0]]], [images[i] for i in members])
        database.write_frame(both, use_frame_id=True)
    for i, points in enumerate(keypoints):
        database.write_keypoints(i + 1, np.ascontiguousarray(points, np.float32))
