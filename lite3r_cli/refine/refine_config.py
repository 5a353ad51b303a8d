"""Thresholds of the refinement of cameras and depth maps, checked when built."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.prediction import CAMERA_MODELS, INTRINSICS
from ..errors import UsageError


@dataclass(frozen=True)
class RefineConfig:
    """Steps of `--refine` and their thresholds; lengths in pixels refer to the image at `feature_size`."""

    depth: bool = True  # stereo with the refined cameras, and the network's depth where stereo fails
    camera_model: str = "auto"  # one of CAMERA_MODELS; auto: pinhole, unless held-out matches need more
    intrinsics: str = "auto"  # one focal length per camera, or per image; auto: see lens_choice
    feature_size: int = 1600  # longest side of the images for features
    max_features: int = 8192  # per image
    exhaustive_views: int = 60  # up to this number of images every promising pair is matched
    pair_neighbours: int = 12  # beyond that: images that each image is matched with, by depth and by descriptors
    min_matches: int = 15  # smallest number of verified matches of a valid pair
    cycle_deg: float = 20.0  # rotation error from the average beyond which a pair contradicts the others
    max_error: float = 4.0  # largest reprojection error of a valid point
    min_angle_deg: float = 1.5  # smallest triangulation angle of a valid point
    explained: float = 0.85  # share of explained held-out observations from which one hypothesis is enough
    pair_support: float = 0.5  # smallest share of explained matches of a valid pair
    lens_gain: float = 0.02  # decrease of the held-out loss from which a richer lens model is used
    centre_gain: float = 0.025  # the same for free principal points, which few sets determine
    fisheye_gain: float = 0.1  # increase of explained matches from which a fisheye is used
    min_observations: int = 15  # smallest number of points of a verified image
    min_support: float = 0.4  # smallest share of explained matches of a verified image
    firm_observations: int = 150  # points from which a camera needs no support by the prediction
    contradiction_deg: float = 12.0  # distance from the prediction beyond which a camera with fewer points is not valid
    firm_tie: int = 40  # shared points below which a part is named in a warning
    rival_share: float = 0.5  # contradicting matches per shared point from which a part may have another pose
    neighbours: int = 7  # views that a depth map is compared with
    ambiguous: float = 0.4  # share of textured pixels with a rival depth from which the scene is repetitive
    least_sure: float = 0.02  # share of sure pixels below which the network's depth is kept
    firm_sure: float = 0.15  # share of sure pixels from which the depth of a view needs no support by the others
    off_level: float = 0.25  # log depth: largest difference of a view's scale from that of the others
    seed: int = 0
    fixed_focal: tuple[int, ...] = ()  # views with known, fixed focal lengths
    lens_keys: tuple[str, ...] = ()  # per view, the camera and lens in its file; () = unknown

    def __post_init__(self) -> None:
        shares = ("explained", "pair_support", "lens_gain", "centre_gain", "fisheye_gain", "min_support")
        checks = {
            f"the intrinsics must be one of {', '.join(INTRINSICS)}, not {self.intrinsics!r}": (
                self.intrinsics in INTRINSICS
            ),
            f"the camera model must be one of {', '.join(CAMERA_MODELS)}, not {self.camera_model!r}": (
                self.camera_model in CAMERA_MODELS
            ),
            f"the feature size must be at least 64 pixels, not {self.feature_size}": self.feature_size >= 64,
            f"the number of features must be at least 64, not {self.max_features}": self.max_features >= 64,
            f"the reprojection error must be positive, not {self.max_error}": self.max_error > 0,
            f"the triangulation angle must lie in 0..90 degrees, not {self.min_angle_deg}": (
                0 < self.min_angle_deg < 90
            ),
            f"the number of neighbours must be at least 1, not {self.neighbours}": self.neighbours >= 1,
            **{
                f"{name} must lie between 0 and 1, not {getattr(self, name)}": 0 < getattr(self, name) < 1
                for name in shares
            },
        }
        for message, ok in checks.items():
            if not ok:
                raise UsageError(message)
