"""First step of the refinement: cameras by bundle adjustment, and the decision for each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..io.temporary import temporary_folder
from ..scene.posed_view import View
from ..scene.priors import PositionPrior
from ..scene.sparse_points import SparseModel
from ..world.undistort import Undistortion, undistorted_view
from . import bundle, matching
from .bundle import Hypothesis
from .early import EarlyMatches
from .evidence import pair_support
from .fisheye import fit_better, start_fisheyes
from .keypoints import ReadImage, ReadMask
from .lens import Lens, known_lenses, start_lenses
from .mapping import Workshop
from .matching import Matches
from .merge import merge_poses
from .positions import tie_to_positions
from .refine_config import RefineConfig
from .search import Found, Search
from .verdicts import (
    GIVEN,
    KEPT,
    REFINED,
    ROTATION,
    Account,
    Verdict,
    account,
    by_rig,
    image_support,
    positioned,
    separate,
    undetermined,
    verified_images,
)

_FISHEYE_VIEWS = 3  # smallest number of views that can distinguish a fisheye from another lens
Step = Callable[[], None]


@dataclass(frozen=True)
class RefinedCameras:
    """Views with refined cameras, in the frame of the first one."""

    views: list[View]
    sparse: SparseModel | None
    verdicts: list[Verdict]
    account: Account | None = None

    @property
    def trusted(self) -> list[int]:
        """The views whose cameras were verified or given."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.cameras != KEPT]


def refine_cameras(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None,
    config: RefineConfig,
    step: Step = lambda: None,
    positions: Sequence[PositionPrior | None] = (),
    early: EarlyMatches | None = None,
) -> RefinedCameras:
    """Adjust the cameras of all views that can be verified; the others keep their pose relative to them.

    `positions`, the known position of each view or (), is used besides the matches. `step` is called after the features
    of each picture, which `early` has begun to find. Raises BackendError without pycolmap.
    """
    if len(views) < 2:
        return unchanged(views, "one image only")
    with temporary_folder("the matches of the images") as folder:
        matches = matching.match(views, read_rgb, read_mask, folder, config, step, early)
        if not matches.pairs:
            return unchanged(views, "no verified matches with another image")
        found = search(views, matches, config)
        if found is None:
            return unchanged(views, "its matches fit no camera with enough parallax")
        tied = None
        if any(positions):
            held, tied = tie_to_positions(found.hypothesis, found.matches, positions, config)
            support = pair_support(held.poses, found.matches, held.lenses, config.max_error)
            found = replace(found, hypothesis=held, support=support)
        answer = _verified(views, read_rgb, found.matches, found, config)
        if tied is None or answer.account is None:
            return answer
        told = replace(answer.account, positions=tied.as_dict([view.name for view in views]))
        return replace(answer, account=told)


def search(views: Sequence[View], matches: Matches, config: RefineConfig) -> Found | None:
    """The best cameras with lenses of `config.camera_model`. "auto" also tries a fisheye if the other lenses leave many
    matches unexplained and pairs of images fit it better, and uses it if it explains more of them.
    """
    lenses = start_lenses(views, matches.sizes, config)
    if config.camera_model == "opencv-fisheye":
        lenses, matches = start_fisheyes(matches, lenses, config)
    found = Search(views, matches, config, lenses).run() if matches.pairs else None
    well = found is not None and max(tried.explained for tried in found.tried) >= config.explained
    known = all(lens.fixed for lens in lenses.lenses)
    if well or known or config.camera_model != "auto" or len(views) < _FISHEYE_VIEWS:
        return found
    if found is not None and not fit_better(matches, lenses, config):
        return found
    matches = replace(matches, folder=matches.folder / "fisheye")
    matches.folder.mkdir()
    fisheye = search(views, matches, replace(config, camera_model="opencv-fisheye"))
    more = fisheye is not None and _explained(fisheye) > (1 + config.fisheye_gain) * _explained(found)
    return fisheye if more else found


def _explained(found: Found | None) -> float:
    """Number of verified matches that the cameras explain."""
    if found is None:
        return 0.0
    return sum(share * len(found.matches.pairs[pair]) for pair, share in found.support.items())


def triangulate(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None,
    config: RefineConfig,
    step: Step = lambda: None,
    early: EarlyMatches | None = None,
) -> RefinedCameras:
    """Sparse points for known cameras, which do not change. Raises BackendError without pycolmap."""
    verdicts = [Verdict(GIVEN, "known beforehand")] * len(views)
    if len(views) < 2:
        return RefinedCameras(list(views), None, verdicts)
    with temporary_folder("the matches of the images") as folder:
        matches = matching.match(views, read_rgb, read_mask, folder, config, step, early)
        rows = {pair: found.matches for pair, found in matches.pairs.items()}
        workshop = Workshop("given", matches, rows, known_lenses(views, matches.sizes), config)
        found = bundle.given(views, workshop, config) if matches.pairs else None
    if found is None:
        return RefinedCameras(list(views), None, verdicts)
    sparse = _sparse_model(views, read_rgb, matches, found, range(len(views)))
    seen = np.bincount(sparse.image, minlength=len(views)).tolist()
    verdicts = [replace(verdict, observations=count) for verdict, count in zip(verdicts, seen, strict=True)]
    return RefinedCameras(list(views), sparse, verdicts)


def unchanged(views: Sequence[View], reason: str) -> RefinedCameras:
    """The predicted cameras as they are."""
    return RefinedCameras(list(views), None, [Verdict(KEPT, reason)] * len(views))


def _verified(
    views: Sequence[View], read_rgb: ReadImage, matches: Matches, found: Found, config: RefineConfig
) -> RefinedCameras:
    """The views with the cameras that pass the tests, in one frame with the others."""
    hypothesis = found.hypothesis
    matches_of = {pair: len(two) for pair, two in matches.pairs.items()}
    seen = np.array(
        [hypothesis.model.image(i + 1).num_points3D if i in hypothesis.poses else 0 for i in range(len(views))]
    )
    support = image_support(found, matches_of, len(views))
    seen, support = by_rig(hypothesis.lenses.facings, seen, support)
    chosen, reasons = verified_images(views, found, seen, support, config)
    reasons |= separate(views, chosen, *_observed(hypothesis.model, chosen), config)
    chosen = [i for i in chosen if i not in reasons]
    if len(chosen) < 2:
        return unchanged(views, next(iter(reasons.values())))
    sparse = _sparse_model(views, read_rgb, matches, hypothesis, chosen)
    lenses = hypothesis.lenses.of_view
    poses, to_first = merge_poses(views, {i: hypothesis.poses[i] for i in chosen}, sparse)
    if (reason := undetermined(views, poses, found.trials)) is not None:
        return unchanged(views, reason)
    seen = np.bincount(sparse.image, minlength=len(views))
    parallax = bundle.usual_angle(hypothesis)
    state = REFINED if positioned(*parallax) else ROTATION
    merged, verdicts = [], []
    for i, (view, pose) in enumerate(zip(views, poses, strict=True)):
        share = None if np.isnan(support[i]) else round(float(support[i]), 3)
        if i in reasons:
            verdicts.append(Verdict(KEPT, reasons[i], int(seen[i]), share))
            merged.append(replace(view, cam_from_world=pose))
        else:
            verdicts.append(Verdict(state, hypothesis.path, int(seen[i]), share))
            merged.append(replace(with_lens(view, hypothesis.lenses.lenses[lenses[i]]), cam_from_world=pose))
    told = account(views, found, chosen, sparse.image, sparse.point, matches_of, parallax, config)
    return RefinedCameras(merged, sparse.moved(to_first), verdicts, told)


def with_lens(view: View, lens: Lens) -> View:
    """The view with the intrinsics of its lens, in pixels of the original image. If the lens has distortion, the view
    of the undistorted picture, including maps.
    """
    camera = lens.of_picture(view.width, view.height)
    if not camera.distorted:
        K = np.array([[camera.focal[0], 0, camera.centre[0]], [0, camera.focal[1], camera.centre[1]], [0, 0, 1.0]])
        return replace(view, K=K)
    return undistorted_view(view, Undistortion(camera))


def _observed(model, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The observations in the `chosen` views: image (O,) and point (O,)."""
    index, rows = set(chosen), []
    for k, number in enumerate(sorted(model.point3D_ids())):
        seen = {element.image_id - 1 for element in model.point3D(number).track.elements}
        rows += [(i, k) for i in sorted(seen & index)]
    image, point = np.array(rows, np.int64).reshape(-1, 2).T
    return image, point


def _sparse_model(
    views: Sequence[View], read_rgb: ReadImage, matches: Matches, found: Hypothesis, chosen: Sequence[int]
) -> SparseModel:
    """Points seen by at least two of the `chosen` views, with the colour of their first observation."""
    index = set(chosen)
    points: list[np.ndarray] = []
    errors: list[float] = []
    observations: list[tuple[int, int, int]] = []  # image, point, keypoint
    for number in sorted(found.model.point3D_ids()):
        item = found.model.point3D(number)
        track = {e.image_id - 1: e.point2D_idx for e in item.track.elements if e.image_id - 1 in index}
        if len(track) < 2:
            continue
        observations += [(i, len(points), k) for i, k in track.items()]
        points.append(item.xyz)
        # features may be from smaller images than the originals, in whose pixels the errors are
        errors.append(item.error * np.mean([views[i].width / matches.sizes[i][0] for i in sorted(track)]))
    image, point, keypoint = np.array(sorted(observations), np.int64).reshape(-1, 3).T
    seen, pixel, colors = np.ones(len(image), bool), np.zeros((len(image), 2)), np.zeros((len(points), 3), np.uint8)
    for i in sorted(index, reverse=True):
        mine = image == i
        ratio = np.array([views[i].width / matches.sizes[i][0], views[i].height / matches.sizes[i][1]])
        pixel[mine] = matches.keypoints[i][keypoint[mine]] * ratio
        rgb = read_rgb(i)
        column, row = np.clip(pixel[mine].astype(np.int64), 0, [rgb.shape[1] - 1, rgb.shape[0] - 1]).T
        colors[point[mine]] = rgb[row, column]
        camera = found.lenses.lenses[found.lenses.of_view[i]].of_picture(views[i].width, views[i].height)
        if camera.distorted:
            pixel[mine] = Undistortion(camera).points(pixel[mine])
            inside = (pixel[mine] >= 0) & (pixel[mine] <= [views[i].width, views[i].height])
            seen[mine] = inside.all(axis=1)  # areas outside the undistorted picture are not observed in it
    return SparseModel(np.array(points).reshape(-1, 3), colors, np.array(errors), image[seen], point[seen], pixel[seen])
