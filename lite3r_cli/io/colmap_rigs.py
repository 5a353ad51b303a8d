"""rigs and frames of a COLMAP 4 model, text and binary: the views of a 360° picture are one frame of a rig.

Every other view is a frame of a rig with only its camera, as in COLMAP's conversion of models without these files.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scene.facing import Facing, rigs_of
from ..scene.geometry import quaternion_from_matrix
from ..scene.posed_view import View

_CAMERA = 0  # COLMAP's number of this kind of sensor


@dataclass(frozen=True)
class Rig:
    """Cameras, by id, with fixed relative rotations: `turns` are from the rig, whose frame is that of
    the first camera.
    """

    cameras: tuple[int, ...]
    turns: tuple[np.ndarray, ...]  # (3, 3) each, the first one the identity


@dataclass(frozen=True)
class Frame:
    """The images of a rig at one time: view i was taken by camera `cameras[i]`; the pose is rig from world (3, 4)."""

    rig: int  # from 1
    pose: np.ndarray
    views: tuple[int, ...]


def rigs_and_frames(views: Sequence[View], camera_of: Sequence[int]) -> tuple[list[Rig], list[Frame]]:
    """`camera_of`: per view the id of its camera, which differs between the views of one 360° picture."""
    facings = [view.facing for view in views]
    groups = list(rigs_of(facings).values())
    tied = {i for members in groups for i in members}
    groups = sorted([*groups, *([i] for i in range(len(views)) if i not in tied)])
    sensors: dict[object, dict[int, Facing | None]] = {}  # kind of rig → its cameras
    for i, (camera, facing) in enumerate(zip(camera_of, facings)):
        sensors.setdefault(_kind(views[i], camera), {})[camera] = facing
    rigs = [Rig(tuple(cameras), _turns(list(cameras.values()))) for cameras in sensors.values()]
    numbers = {kind: number for number, kind in enumerate(sensors)}
    frames = []
    for members in groups:
        first = members[0]
        number = numbers[_kind(views[first], camera_of[first])]
        rig = rigs[number]
        turn = rig.turns[rig.cameras.index(camera_of[first])]
        frames.append(Frame(number + 1, turn.T @ views[first].cam_from_world, tuple(members)))
    return rigs, frames


def _kind(view: View, camera: int) -> object:
    """Views of 360° pictures of one size share a rig; every other camera has its own."""
    return camera if view.facing is None else (view.facing.side, view.facing.views)


def _turns(facings: Sequence[Facing | None]) -> tuple[np.ndarray, ...]:
    first = facings[0]
    return tuple(np.eye(3) if f is None or first is None else f.turn @ first.turn.T for f in facings)


def rigs_text(rigs: Sequence[Rig]) -> list[str]:
    """The lines of rigs.txt."""
    lines = ["# RIG_ID, NUM_SENSORS, REF_SENSOR_TYPE, REF_SENSOR_ID, SENSORS[] as"]
    lines += ["# (SENSOR_TYPE, SENSOR_ID, HAS_POSE, [QW, QX, QY, QZ, TX, TY, TZ])", f"# Number of rigs: {len(rigs)}"]
    for number, rig in enumerate(rigs, 1):
        words = [f"{number} {len(rig.cameras)} CAMERA {rig.cameras[0]}"]
        for camera, turn in zip(rig.cameras[1:], rig.turns[1:]):
            words.append(f"CAMERA {camera} 1 {' '.join(map(repr, _record(turn, np.zeros(3))))}")
        lines.append(" ".join(words))
    return lines


def rigs_binary(rigs: Sequence[Rig]) -> bytes:
    """rigs.bin."""
    parts = [struct.pack("<Q", len(rigs))]
    for number, rig in enumerate(rigs, 1):
        parts.append(struct.pack("<IIiI", number, len(rig.cameras), _CAMERA, rig.cameras[0]))
        for camera, turn in zip(rig.cameras[1:], rig.turns[1:]):
            parts.append(struct.pack("<iIB7d", _CAMERA, camera, 1, *_record(turn, np.zeros(3))))
    return b"".join(parts)


def frames_text(frames: Sequence[Frame], camera_of: Sequence[int]) -> list[str]:
    """The lines of frames.txt."""
    lines = ["# FRAME_ID, RIG_ID, RIG_FROM_WORLD[QW, QX, QY, QZ, TX, TY, TZ], NUM_DATA_IDS, DATA_IDS[] as"]
    lines += ["# (SENSOR_TYPE, SENSOR_ID, DATA_ID)", f"# Number of frames: {len(frames)}"]
    for number, frame in enumerate(frames, 1):
        pose = " ".join(map(repr, _record(frame.pose[:, :3], frame.pose[:, 3])))
        data = " ".join(f"CAMERA {camera_of[i]} {i + 1}" for i in frame.views)
        lines.append(f"{number} {frame.rig} {pose} {len(frame.views)} {data}")
    return lines


def frames_binary(frames: Sequence[Frame], camera_of: Sequence[int]) -> bytes:
    """frames.bin."""
    parts = [struct.pack("<Q", len(frames))]
    for number, frame in enumerate(frames, 1):
        pose = _record(frame.pose[:, :3], frame.pose[:, 3])
        parts.append(struct.pack("<II7dI", number, frame.rig, *pose, len(frame.views)))
        parts += [struct.pack("<iIQ", _CAMERA, camera_of[i], i + 1) for i in frame.views]
    return b"".join(parts)


def _record(rotation: np.ndarray, translation: np.ndarray) -> tuple[float, ...]:
    """qw qx qy qz tx ty tz."""
    x, y, z, w = quaternion_from_matrix(rotation).tolist()
    return w, x, y, z, *translation.tolist()
