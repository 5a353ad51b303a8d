"""Known cameras: from EXIF, from `--focal` and `--intrinsics`, from `--cameras`.

The files are read once, when the network is loaded; `priors` then matches them with the pictures of a set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from ..config import PredictConfig
from ..errors import InputError
from ..io.exif import NOTHING, PhotoMetadata, read_metadata
from ..io.exported_pictures import without_blanks
from ..io.flight import is_trajectory
from ..io.foreign_cameras import read_known_cameras
from ..io.given_depth import GivenDepth
from ..io.images import ImageRecord
from ..io.intrinsics import Intrinsics, find_intrinsics, read_intrinsics
from ..io.tum import read_tum
from ..scene.posed_view import View
from ..scene.priors import CameraPriors, FocalPrior
from ..world.focal import FocalAnswer, StatedFocal, focal_from_metadata, require_one_size
from ..world.registration import tells_scale
from ..world.undistort import Undistortion, undistorted_view

_TIME_TOLERANCE = 0.02  # seconds between the time of a trajectory and that in the name of a picture
EXACT = 0.002  # relative error of a calibrated focal length


@dataclass(frozen=True)
class Beforehand:
    """The files and options that state cameras."""

    config: PredictConfig
    cameras: dict[str, View] = field(default_factory=dict)  # of --cameras, by name
    trajectory: list[tuple[str, np.ndarray]] = field(default_factory=list)  # of --cameras, by time, index or name
    intrinsics: list[Intrinsics] = field(default_factory=list)
    depth: GivenDepth | None = None

    @classmethod
    def read(cls, config: PredictConfig) -> Beforehand:
        """Raises UsageError or InputError for files that are missing or malformed."""
        path = None if config.cameras is None else Path(config.cameras)  # the Python library takes texts, too
        if config.focal not in ("auto", "network"):
            StatedFocal.parse(config.focal)
        file = config.intrinsics_file
        intrinsics = [] if file is None else read_intrinsics(file)
        depth = None if config.depth is None else GivenDepth(Path(config.depth), config.depth_scale)
        if path is not None and is_trajectory(path):
            return cls(config, trajectory=read_tum(path), intrinsics=intrinsics, depth=depth)
        cameras = {} if path is None else {view.name: _straight(path, view) for view in read_known_cameras(path)}
        return cls(config, cameras, intrinsics=intrinsics, depth=depth)

    def priors(self, records: Sequence[ImageRecord]) -> CameraPriors:
        """What is known of each picture. Raises InputError if `--cameras` does not fit the pictures, UsageError if
        `--focal` does not.
        """
        cameras = find_cameras(self.cameras, [record.name for record in records])
        poses = self._poses(records, cameras)
        if self.config.cameras is not None and all(pose is None for pose in poses):
            some = ", ".join([*self.cameras, *(key for key, _ in self.trajectory)][:3])
            raise InputError(
                f"{self.config.cameras}: has a camera for none of the images ({records[0].name}, …); it has {some}"
            )
        return CameraPriors(tuple(self._focal(records, cameras)), tuple(poses))

    def lenses(self, records: Sequence[ImageRecord]) -> dict[str, Undistortion]:
        """By name: lenses of the pictures whose known camera has distortion. Raises InputError for a picture of another
        size.
        """
        found: dict[str, Undistortion] = {}
        for record, view in zip(records, find_cameras(self.cameras, [record.name for record in records]), strict=True):
            if view is not None and view.lens is not None:
                self._require_size(view, record)
                found[record.name] = Undistortion(view.lens)
        return found

    def _poses(self, records: Sequence[ImageRecord], cameras: Sequence[View | None]) -> list[np.ndarray | None]:
        if self.trajectory:
            found = match_trajectory([key for key, _ in self.trajectory], [record.name for record in records])
            return [None if k is None else self.trajectory[k][1] for k in found]
        return [None if view is None else view.cam_from_world for view in cameras]

    def _focal(self, records: Sequence[ImageRecord], cameras: Sequence[View | None]) -> list[FocalPrior | None]:
        """The focal length from the first of `--cameras`, `--intrinsics`, `--focal` and EXIF that has it."""
        config, file = self.config, self.config.intrinsics_file
        stated = StatedFocal.parse(config.focal) if config.focal not in ("auto", "network") else None
        if stated is not None:
            require_one_size(stated, [(record.width, record.height) for record in records])
        result: list[FocalPrior | None] = []
        entries = [find_intrinsics(self.intrinsics, record.name) for record in records]
        if file is not None and not any(entries):
            some = ", ".join(item.pattern for item in self.intrinsics[:3])
            raise InputError(f"--intrinsics {file}: fits none of the images ({records[0].name}, …); it has {some}")
        for record, view, listed in zip(records, cameras, entries, strict=True):
            size = record.width, record.height
            if view is None and record.facing is not None:
                result.append(_exactly(record.facing.K, "360° image", fixed=True))
            elif view is not None:
                self._require_size(view, record)
                result.append(_exactly(view.K, "--cameras", fixed=True))
            elif listed is not None and file is not None:
                K = listed.at(record.name, *size, file)
                result.append(_exactly(K, "--intrinsics", fixed=config.fix_intrinsics))
            elif stated is not None:
                result.append(_fixed(stated.prior(metadata_of(record), record.name, size), config.fix_intrinsics))
            elif config.focal == "auto":
                result.append(_fixed(exif_focal(record).prior(), config.fix_intrinsics))
            else:
                result.append(None)
        return result

    def _require_size(self, view: View, record: ImageRecord) -> None:
        if (view.width, view.height) != (record.width, record.height):
            raise InputError(
                f"{self.config.cameras}: says that {record.name} has {view.width}x{view.height} pixels, "
                f"but it has {record.width}x{record.height}: correct width, height and K"
            )


def _straight(path: Path, view: View) -> View:
    """The pinhole camera of the undistorted picture for a camera with lens distortion. Raises InputError if there is
    none.
    """
    if view.lens is None:
        return view
    try:
        return undistorted_view(view, Undistortion(view.lens))
    except InputError as error:
        raise InputError(f"{path}: {view.name[:80]}: {error}") from error


def _exactly(K: np.ndarray, source: str, fixed: bool) -> FocalPrior:
    return FocalPrior(float(K[0, 0]), float(K[1, 1]), EXACT, source, fixed, (float(K[0, 2]), float(K[1, 2])))


def _fixed(prior: FocalPrior | None, fixed: bool) -> FocalPrior | None:
    if prior is None or not fixed:
        return prior
    return FocalPrior(prior.fx, prior.fy, prior.sigma, prior.source, True, prior.centre)


def metadata_of(record: ImageRecord) -> PhotoMetadata:
    """Metadata of the picture's file: none for a video frame; for a view of a 360° picture only place and time."""
    found = NOTHING if record.frame is not None else read_metadata(record.path)
    if record.facing is None:
        return found
    place = None if found.gps is None else replace(found.gps, direction=None)
    return replace(NOTHING, gps=place, relative_altitude=found.relative_altitude, taken=found.taken)


def exif_focal(record: ImageRecord) -> FocalAnswer:
    """The focal length in EXIF, in pixels of the upright picture."""
    return focal_from_metadata(metadata_of(record))


def find_cameras(cameras: dict[str, View], names: Sequence[str]) -> list[View | None]:
    """The camera of each picture by its name, with or without its folder. What is left is matched without suffix, and
    `_` for blanks, where one picture and one camera have such a name: exports hold frames and HEIC as JPEG.
    """
    found = [cameras.get(name) or cameras.get(PurePosixPath(name).name) for name in names]
    for folders in (True, False):
        taken = {view.name for view in found if view is not None}
        spare = [v for v in cameras.values() if v.name not in taken and (folders or "/" not in v.name)]
        left = [name for name, view in zip(names, found, strict=True) if view is None]
        pictures = Counter(_without_suffix(name, folders) for name in left)
        keys = Counter(_without_suffix(view.name, folders) for view in spare)
        by_key = {key: view for view in spare if keys[key := _without_suffix(view.name, folders)] == 1}
        for i, name in enumerate(names):
            if found[i] is None and pictures[key := _without_suffix(name, folders)] == 1:
                found[i] = by_key.get(key)
    return found


def _without_suffix(name: str, folders: bool) -> str:
    path = PurePosixPath(without_blanks(name))
    return f"{path.parent}/{path.stem}" if folders else path.stem


def match_trajectory(keys: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """For each picture the line of the trajectory that belongs to it: by name, by the time in its name, or by its
    index.

    Indices are used only if all keys are whole numbers 0 … N − 1, one for each picture.
    """
    times = np.array([_number(key) for key in keys])
    by_text = {key: k for k, key in reversed(list(enumerate(keys)))}
    for k in np.flatnonzero(~np.isfinite(times)).tolist():  # in a timestamp, the part behind the point is no suffix
        by_text.setdefault(Path(keys[k]).name, k)
        by_text.setdefault(Path(keys[k]).stem, k)
    found = [by_text.get(name, by_text.get(Path(name).stem)) for name in names]
    if any(k is not None for k in found):
        return found
    if np.array_equal(times, np.arange(len(keys))) and len(keys) >= len(names):
        return list(range(len(names)))
    known = np.flatnonzero(np.isfinite(times))
    if not len(known):
        return [None] * len(names)
    order = known[np.argsort(times[known], kind="stable")]
    return [_nearest(times, order, _number(Path(name).stem)) for name in names]


def _nearest(times: np.ndarray, order: np.ndarray, time: float) -> int | None:
    """The index of the entry of `times` that is closest to `time` (finite, increasing in `order`); None beyond the
    tolerance.
    """
    at = int(np.searchsorted(times[order], time))
    near = order[max(0, at - 1) : at + 1]
    best = int(near[np.argmin(np.abs(times[near] - time))])
    return best if abs(times[best] - time) <= _TIME_TOLERANCE else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def focal_notes(priors: CameraPriors, records: Sequence[ImageRecord]) -> list[str]:
    """One line on the sources of the focal lengths, for `--verbose`."""
    sources = [prior.source for prior in priors.focal if prior is not None]
    if not sources:
        return []
    kinds = ", ".join(f"{sources.count(kind)} from {kind}" for kind in dict.fromkeys(sources))
    return [f"focal lengths known for {len(sources)} of {len(records)} images: {kinds}"]


def known_warnings(priors: CameraPriors, records: Sequence[ImageRecord]) -> list[str]:
    """Warnings if only some of the cameras are known, or no scale."""
    known, warnings = len(priors.known_poses), []
    if 0 < known < len(records):
        missing = [record.name for record, pose in zip(records, priors.poses, strict=True) if pose is None]
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        warnings.append(f"--cameras has no camera for {', '.join(missing[:3])}{more}: estimated beside the known ones")
    if known and len(records) > 1 and not tells_scale(priors):
        what = "one known camera tells" if known == 1 else f"the {known} known cameras are at one place and tell"
        warnings.append(f"--cameras: {what} no scale: the unit is that of the network")
    return warnings
