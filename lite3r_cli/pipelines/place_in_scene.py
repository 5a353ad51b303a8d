"""Computes the camera of a new photo in a scene from one prediction of the photo together with photographs of the
scene.

The photographs have depth maps and cameras in the prediction and in the scene. They give the similarity transform
between both, robustly (long/sim3_fit.py). Then every photograph proposes a camera by its relative pose to the photo in
the prediction, at the scale of the transform. Errors of a network grow with the distance between two cameras, so near
photographs have a larger weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..long.loop_search import halves_agree
from ..long.sim3_fit import BAD, Tie, refocused, tie
from ..refine.resection import Link, resected
from ..scene import geometry
from ..scene.consistency import correspondences
from ..scene.metrics import resample_depth
from ..scene.posed_view import View, known_depth
from ..scene.surfaces import Surfaces, VoterMap
from ..world.registration import mean_rotation

_FEWEST = 100  # smallest number of pixels for a scale
_PIXELS = 20_000  # of a depth map, about, that an overlap is measured on
# Smallest overlap, and share of it whose depth agrees. Loops between chunks need a larger share: many pairs are tried.
_SEEN, _AGREE = 0.1, 0.5


def fits(seen: float, agree: float) -> bool:
    """Whether an overlap that `halves_agree` has measured is large enough, and its depth agrees."""
    return seen >= _SEEN and agree >= _AGREE


@dataclass(frozen=True)
class Placement:
    """A new photo in the frame and scale of the scene."""

    view: View  # with depth and confidence
    tie: Tie  # from the prediction to the scene
    seen: float  # largest overlap of the photo with one photograph, as a share of a picture
    agree: float  # share of the overlap whose depth agrees within a tenth
    turn: float  # degrees, median angle between the proposals and the camera
    shift: float  # median distance between the proposals and the camera, as a share of the scene's depth there
    matches: int = 0  # feature matches that made the camera exact; 0: it is the network's

    @property
    def stands(self) -> bool:
        """Whether the geometry of the prediction agrees with that of the scene."""
        return self.tie.verdict != BAD and fits(self.seen, self.agree)


def place_in_scene(new: View, predicted: Sequence[View], captured: Sequence[View]) -> Placement | None:
    """Place `new`, which was predicted together with `predicted`; these are the views `captured` of the scene. All have
    depth. None if prediction and scene have no depth in common.
    """
    *predicted, new = _with_the_focal_length_of_the_scene([*predicted, new], captured)
    found = _tied(predicted, captured)
    if found is None:
        return None
    scale = found.similarity.scale
    proposals = np.stack([_beside(view, new, own, scale) for view, own in zip(predicted, captured)])
    near = np.array([float(np.linalg.norm(_relative(view, new)[:, 3])) for view in predicted])
    pose = mean_pose(proposals, 1 / (near + 0.1 * near.max() + 1e-12))
    placed = replace(new, cam_from_world=pose, depth=known_depth(new) * np.float32(scale))
    turns = geometry.rotation_angle(proposals[:, :, :3] @ pose[:, :3].T)
    shifts = np.linalg.norm(geometry.camera_centres(proposals) - geometry.camera_centres(pose), axis=1)
    depth = known_depth(placed)
    depth_there = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    turn, shift = float(np.degrees(np.median(turns))), float(np.median(shifts)) / max(depth_there, 1e-9)
    return Placement(placed, found, *_overlap(placed, captured), turn, shift)


def by_matches(found: Placement, links: Sequence[Link], captured: Sequence[View]) -> Placement:
    """The placement with the camera that feature matches with photographs of the scene tell, if the geometry agrees
    with that of the scene there. It need not have agreed before: the network errs by up to a fifth in the focal length
    of a photo of another shape, while its depth is right.
    """
    if not links:
        return found
    exact = resected(found.view, links)
    seen, agree = _overlap(exact, captured)
    better = replace(found, view=exact, seen=seen, agree=agree, matches=sum(len(link.here) for link in links))
    return better if better.stands else found


def place_as_known(camera: View, new: View, predicted: Sequence[View], captured: Sequence[View]) -> Placement | None:
    """The same for a photo with a known `camera` in the frame of the scene: only its depth is predicted."""
    found = _tied(predicted, captured)
    if found is None:
        return None
    depth = known_depth(new) * np.float32(found.similarity.scale)
    placed = fitted_depth(replace(new, cam_from_world=camera.cam_from_world, K=camera.K, depth=depth), captured)
    return Placement(placed, found, *_overlap(placed, captured), 0.0, 0.0)


def fitted_depth(view: View, captured: Sequence[View]) -> View:
    """The view with its depth multiplied by the median ratio to overlapping depth maps."""
    surfaces = Surfaces([VoterMap(each, known_depth(each) > 0) for each in (view, *captured)])
    ratios = [correspondences(surfaces, 0, j)[2] for j in range(1, len(captured) + 1)]
    close = np.concatenate([ratio[(ratio > 0.5) & (ratio < 2)] for ratio in ratios])
    if len(close) < _FEWEST:
        return view
    return replace(view, depth=known_depth(view) / np.float32(np.median(close)))


def _tied(predicted: Sequence[View], captured: Sequence[View]) -> Tie | None:
    """The similarity from the prediction to the scene; None if they have no depth in common."""
    sized = [
        replace(view, depth=resample_depth(known_depth(view), known_depth(own).shape), confidence=None)
        for view, own in zip(predicted, captured, strict=True)
    ]
    return tie(captured, sized)


def _overlap(placed: View, captured: Sequence[View]) -> tuple[float, float]:
    everything = [placed, *captured]
    step = max(1, round((known_depth(placed).size / _PIXELS) ** 0.5))
    return halves_agree(everything, [0], range(1, len(everything)), step)


def _relative(view: View, new: View) -> np.ndarray:
    return geometry.relative_pose(view.cam_from_world, new.cam_from_world)


def _beside(view: View, new: View, own: View, scale: float) -> np.ndarray:
    """The pose (3, 4) that has the relative pose of the new camera in the prediction to the scene's camera."""
    relative = _relative(view, new)
    relative[:, 3] *= scale
    return geometry.compose(relative, own.cam_from_world)


def mean_pose(proposals: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The robust mean (3, 4) of poses (N, 3, 4) with weights (N,)."""
    centres = geometry.camera_centres(proposals)
    rotation = mean_rotation(proposals[:, :, :3], weight=weight)
    centre = np.average(centres, axis=0, weights=weight)
    for _ in range(10):
        distance = np.linalg.norm(centres - centre, axis=1)
        now = weight / (1 + (distance / max(2 * float(np.median(distance)), 1e-12)) ** 2)
        centre = np.average(centres, axis=0, weights=now)
    return np.concatenate([rotation, -rotation @ centre[:, None]], axis=1)


def _with_the_focal_length_of_the_scene(predicted: Sequence[View], captured: Sequence[View]) -> list[View]:
    """The predicted views with focal lengths and depth corrected by the ratio between the focal lengths of the scene's
    views `captured` and theirs, which are the first. Next to a photo of another shape a network errs differently.
    """
    factor = float(np.median([own.K[0, 0] / view.K[0, 0] for view, own in zip(predicted, captured)]))
    return [refocused(view, factor) for view in predicted]
