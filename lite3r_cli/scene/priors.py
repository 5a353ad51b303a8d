"""Known cameras, for the network, for `--refine` and for the world frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FocalPrior:
    """Focal lengths of one view with their source; `fixed` ones are not adjusted."""

    fx: float  # pixels of the original, upright image
    fy: float
    sigma: float  # relative standard deviation; 0 if the user states it as exact
    source: str  # "EXIF: …", "--focal", "--intrinsics", "--cameras"
    fixed: bool = False
    centre: tuple[float, float] | None = None  # principal point, pixels; None = the centre of the image

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """K (3, 3) of an image of `width` × `height` pixels."""
        cx, cy = self.centre or (width / 2, height / 2)
        return np.array([[self.fx, 0.0, cx], [0.0, self.fy, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class PositionPrior:
    """Position of a camera, from GPS or a file, in a metric frame with +x east, +y north, +z up."""

    position: np.ndarray  # (3,) metres
    sigma: np.ndarray  # (3,) metres, standard deviation along each axis


@dataclass(frozen=True)
class CameraPriors:
    """Prior knowledge per view, None if unknown; all lists have the length of the set."""

    focal: tuple[FocalPrior | None, ...]
    poses: tuple[np.ndarray | None, ...]  # cam_from_world (3, 4) in the frame of `--cameras`; exact
    positions: tuple[PositionPrior | None, ...] = ()  # () = none

    @classmethod
    def nothing(cls, views: int) -> CameraPriors:
        """No prior knowledge of `views` views."""
        return cls((None,) * views, (None,) * views)

    @property
    def fixed_focal(self) -> tuple[int, ...]:
        """The views whose focal length is exact."""
        return tuple(i for i, prior in enumerate(self.focal) if prior is not None and prior.fixed)

    @property
    def known_poses(self) -> list[int]:
        """The views whose pose is given."""
        return [i for i, pose in enumerate(self.poses) if pose is not None]

    def given_poses(self) -> np.ndarray:
        """The poses of `known_poses`, cam_from_world (N, 3, 4), in that order."""
        return np.stack([pose for pose in self.poses if pose is not None])
