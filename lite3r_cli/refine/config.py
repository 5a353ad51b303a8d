"""How cameras and depth maps are refined: what a user may want to change, checked when built.

Constants of one method stand beside it, in stereo.py, fill.py, depth.py, align.py and correlation.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config.prediction import INTRINSICS
from ..errors import UsageError


@dataclass(frozen=True)
class RefineConfig:
    """Steps of `--refine` and their thresholds; lengths in pixels refer to the image at `feature_size`."""

    depth: bool = True  # stereo with the refined cameras, the network's depth where that fails
    intrinsics: str = "auto"  # one focal length for all images, or one each; auto: see bundle.share_focal
    feature_size: int = 1600  # features are found at most at this longest side
    max_features: int = 8192  # an image
    exhaustive_views: int = 20  # up to so many images every pair is matched, beyond only those that should overlap
    pair_neighbours: int = 12  # images that each one is matched with, beyond
    max_error: float = 4.0  # reprojection error of a point that counts
    min_angle_deg: float = 1.5  # triangulation angle of a point that counts
    min_observations: int = 15  # points that an image has to see to count as verified
    firm_observations: int = 150  # points from which a camera needs no support by the prediction
    contradiction_deg: float = 25.0  # from the prediction, beyond which a camera on fewer points is not believed
    explained: float = 0.6  # share of the verified matches below which the start was too far off
    shared_rise: float = 0.05  # of the mean reprojection error, up to which one focal length is taken for all images
    neighbours: int = 7  # views that a depth map is compared with
    seed: int = 0
    fixed_focal: tuple[int, ...] = ()  # views whose focal lengths are known and stay

    def __post_init__(self) -> None:
        checks = {
            f"the intrinsics must be one of {', '.join(INTRINSICS)}, not {self.intrinsics!r}": (
                self.intrinsics in INTRINSICS
            ),
            f"the feature size must be at least 64 pixels, not {self.feature_size}": self.feature_size >= 64,
            f"the number of features must be at least 64, not {self.max_features}": self.max_features >= 64,
            f"the reprojection error must be positive, not {self.max_error}": self.max_error > 0,
            f"the triangulation angle must lie in 0..90 degrees, not {self.min_angle_deg}": (
                0 < self.min_angle_deg < 90
            ),
            f"the explained share must lie between 0 and 1, not {self.explained}": 0 < self.explained < 1,
            f"the number of neighbours must be at least 1, not {self.neighbours}": self.neighbours >= 1,
        }
        for message, ok in checks.items():
            if not ok:
                raise UsageError(message)
