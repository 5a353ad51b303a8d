"""How cameras and depth maps are refined: the thresholds that decide, checked when built."""

from __future__ import annotations

from dataclasses import dataclass

from ..config.prediction import CAMERA_MODELS, INTRINSICS
from ..errors import UsageError


@dataclass(frozen=True)
class RefineConfig:
    """Steps of `--refine` and their thresholds; lengths in pixels refer to the image at `feature_size`."""

    depth: bool = True  # stereo with the refined cameras, the network's depth where that fails
    camera_model: str = "auto"  # of the lenses, one of CAMERA_MODELS; auto: a pinhole, or what held-out matches ask for
    intrinsics: str = "auto"  # one focal length for the images of one camera, or one each; auto: see lens_choice
    feature_size: int = 1600  # features are found at most at this longest side
    max_features: int = 8192  # an image
    exhaustive_views: int = 60  # up to so many images every pair is matched, beyond only those that may overlap
    pair_neighbours: int = 12  # images that each one is matched with, beyond, by depth and by descriptors
    min_matches: int = 15  # of two images that one geometry explains, to be believed at all
    cycle_deg: float = 20.0  # turn from the average of all rotations from which a pair contradicts the others
    max_error: float = 4.0  # reprojection error of a point that counts
    min_angle_deg: float = 1.5  # triangulation angle of a point that counts
    explained: float = 0.85  # share of the held-out observations from which one hypothesis is enough
    pair_support: float = 0.5  # share of a pair's matches that the cameras have to explain for the pair to count
    lens_gain: float = 0.02  # fall of the loss of held-out matches from which a richer model of the lens is taken
    centre_gain: float = 0.025  # the same for free principal points, which few sets of pictures tell
    fisheye_gain: float = 0.1  # more matches that a fisheye has to explain than what was tried before it
    min_observations: int = 15  # points that an image has to see to count as verified
    min_support: float = 0.4  # share of an image's matches that its camera has to explain to count as verified
    firm_observations: int = 150  # points from which a camera needs no support by the prediction
    contradiction_deg: float = 12.0  # from the prediction, beyond which a camera on fewer points may not be believed
    firm_tie: int = 40  # points that a part shares with the others, below which it is named
    rival_share: float = 0.5  # contradicting matches against shared points, from which a part may stand elsewhere
    neighbours: int = 7  # views that a depth map is compared with
    ambiguous: float = 0.4  # share of textured pixels with a rival depth from which the scene repeats itself
    least_sure: float = 0.02  # share of sure pixels below which the network's depth stays
    firm_sure: float = 0.15  # share of sure pixels from which a view's depth needs no support by the others
    off_level: float = 0.25  # of log depth, from the ratio to the network that the other views have: not believed
    seed: int = 0
    fixed_focal: tuple[int, ...] = ()  # views whose focal lengths are known and stay
    lens_keys: tuple[str, ...] = ()  # per view, what its file says of camera and lens; () = nothing of any

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
