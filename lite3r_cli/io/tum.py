"""Camera paths in the TUM RGB-D format, for evo and the TUM tools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..scene.geometry import invert_pose, matrix_from_quaternion, quaternion_from_matrix
from .camera_fields import LARGEST
from .documents import read_text
from .files import write_bytes
from .names import printable
from .scene_export import SceneExport

_MAX_LINES = 1_000_000
_LATEST = 1e20  # nanoseconds since 1970 are 2e18


def write_tum(scene: SceneExport) -> list[Path]:
    """Write trajectory.txt: per view its time, or its index, centre and camera-to-world quaternion, w last.

    Lines are sorted by time, as the format requires. Comments name the images. Raises OutputError.
    """
    path = scene.directory / "trajectory.txt"
    names = [f"# {scene.time(i)} {printable(scene.views[i].name)}" for i in _in_time(scene)]
    what = "time in seconds" if scene.times else "index"
    columns = f"# {what}, tx ty tz qx qy qz qw (world from camera, OpenCV axes, {_units(scene)})"
    _write(path, [columns, *names, *_poses(scene)])
    return [path]


def write_tum_rgbd(scene: SceneExport) -> list[Path]:
    """Write rgb.txt, depth.txt and groundtruth.txt in the format of TUM's RGB-D benchmark (Sturm et al. 2012).

    The listed files are in images/ and depth/. The format calls poses "ground truth"; these are estimates. Raises
    OutputError.
    """
    timed = [(scene.time(i), scene.views[i]) for i in _in_time(scene)]
    pictures = [f"{time} {scene.picture(view)}" for time, view in timed]
    known = [(time, *scene.depths[view.name]) for time, view in timed if view.name in scene.depths]
    scale = f", value / {known[0][2]:.9g} = depth ({_units(scene)}), 0 = unknown" if known else ""
    files = {
        "rgb.txt": ["# colour images", "# timestamp filename", *pictures],
        "depth.txt": [f"# depth maps{scale}", "# timestamp filename", *(f"{time} {file}" for time, file, _ in known)],
        "groundtruth.txt": [f"# estimated poses ({_units(scene)})", "# timestamp tx ty tz qx qy qz qw", *_poses(scene)],
    }
    for name, lines in files.items():
        _write(scene.directory / name, lines)
    return [scene.directory / name for name in files]


def _units(scene: SceneExport) -> str:
    return f"units: {printable(scene.frame.units)}"


def _in_time(scene: SceneExport) -> list[int]:
    """The views sorted by time."""
    return sorted(range(len(scene.views)), key=lambda i: float(scene.time(i)))


def _poses(scene: SceneExport) -> list[str]:
    lines = []
    for index in _in_time(scene):
        pose = invert_pose(scene.views[index].cam_from_world)
        values = (*pose[:, 3], *quaternion_from_matrix(pose[:, :3]))
        lines.append(" ".join([scene.time(index), *(f"{value:.9f}" for value in values)]))
    return lines


def _write(path: Path, lines: Sequence[str]) -> None:
    write_bytes(path, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


def read_tum(path: Path) -> list[tuple[str, np.ndarray]]:
    """The (first column, cam_from_world (3, 4)) of every line of a trajectory.

    The first column is a time, an index or an image name, the same in all lines; the name if a comment of ours has it.
    Raises InputError for a file that is not a trajectory, for times that are not finite or not increasing, and for
    repeated names.
    """
    lines = read_text(path).splitlines()
    if len(lines) > _MAX_LINES:
        raise InputError(f"{printable(path)}: more than {_MAX_LINES} lines: take those near the images' times")
    rows = [(number, line.replace(",", " ").split(None, 9)) for number, line in enumerate(lines, 1)]
    rows = [(number, row) for number, row in rows if row and not row[0].startswith("#")]
    if not rows:
        raise InputError(f"{printable(path)}: holds no pose; a line of a TUM trajectory is: time tx ty tz qx qy qz qw")
    _require_columns(path, rows)
    _require_keys(path, [(number, row[0]) for number, row in rows])
    named = [line[1:].split(maxsplit=1) for line in lines[: len(rows) + 1] if line.startswith("# ")]
    names = dict(pair for pair in named if len(pair) == 2)
    return [(names.get(row[0], row[0]), pose) for (_, row), pose in zip(rows, _poses_of(path, rows), strict=True)]


def _require_columns(path: Path, rows: Sequence[tuple[int, list[str]]]) -> None:
    """Raises InputError that names the first line without eight columns."""
    for number, row in rows:
        count = len(row) - 1 + len(row[-1].split())
        if count != 8:
            kitti = " (12 are a pose of KITTI, which has no time: write it as TUM's)" if count == 12 else ""
            raise InputError(
                f"{printable(path)}: line {number}: has {count} columns{kitti}; a line has to be: time tx ty tz qx qy"
                " qz qw, with a unit quaternion"
            )


def _require_keys(path: Path, keys: Sequence[tuple[int, str]]) -> None:
    """Raises InputError unless the first column, (line number, word), has increasing times or different names."""
    times = [_time(word) for _, word in keys]
    if all(time is None for time in times):
        seen: set[str] = set()
        for number, word in keys:
            if word in seen:
                raise InputError(f"{printable(path)}: line {number}: {printable(word)[:80]} has a pose already")
            seen.add(word)
        return
    last = -math.inf
    for (number, word), time in zip(keys, times, strict=True):
        if time is None:
            raise InputError(f"{printable(path)}: line {number}: {printable(word)[:40]} is no time, unlike other lines")
        if not last < time <= _LATEST:
            again = "comes twice" if time == last else "is before that of the line above: sort the lines by time"
            fault = again if abs(time) <= _LATEST else "is no time: it has to be a finite number"
            raise InputError(f"{printable(path)}: line {number}: the time {printable(word)[:40]} {fault}")
        last = time


def _time(word: str) -> float | None:
    """A number, also if it is no valid time; None for a name."""
    try:
        return float(word) if "_" not in word else None
    except ValueError:
        return None


def _poses_of(path: Path, rows: Sequence[tuple[int, list[str]]]) -> np.ndarray:
    """cam_from_world (N, 3, 4) of (line number, words). Raises InputError that names the line."""
    values = np.full((len(rows), 7), np.nan)
    for i, (_, words) in enumerate(rows):
        try:
            values[i] = [float(word) for word in words[1:]]
        except ValueError:  # not a number, or a wrong count of them
            break
    quaternions = values[:, 3:]
    sound = (np.abs(values) <= LARGEST).all(axis=1)
    sound[sound] = np.abs(np.linalg.norm(quaternions[sound], axis=1) - 1) < 0.1
    if not sound.all():
        line = rows[int(np.argmin(sound))][0]
        raise InputError(
            f"{printable(path)}: line {line}: has to be: time tx ty tz qx qy qz qw, with a unit quaternion"
        )
    return invert_pose(np.concatenate([matrix_from_quaternion(quaternions), values[:, :3, None]], axis=2))
