"""From one pass of the network over a new photo and photographs of a scene to the photo's camera in that scene.

The photographs stand in both: in the pass, and in the scene. Their depth maps and cameras give the similarity between
both, robustly (long/sim3_fit.py). Then every photograph proposes where the new camera is: beside it as in the pass, at
the similarity's scale. A network's errors grow with the distance between two cameras, so near ones count more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..long.loop_search import halves_agree, is_loop
from ..long.sim3_fit import BAD, Tie, tie
from ..scene import geometry
from ..scene.consistency import correspondences
from ..scene.metrics import resample_depth
from ..scene.posed_view import View, known_depth
from ..scene.surfaces import Surfaces, VoterMap
from ..world.registration import mean_rotation

_FEWEST = 100  # pixels that a scale is fitted to


@dataclass(frozen=True)
class Placement:
    """A new photo in the scene's frame and scale."""

    view: View  # with depth and confidence
    tie: Tie  # the pass to the scene
    seen: float  # largest share of a picture's pixels that the photo and one photograph both see
    agree: float  # of what both see, the share whose depth is the same within a tenth
    turn: float  # degrees, median angle of the proposals to the camera
    shift: float  # median distance of the proposals to the camera, as a share of the scene's depth there

    @property
    def stands(self) -> bool:
        """Whether the geometry of the pass is that of the scene."""
        return self.tie.verdict != BAD and is_loop(self.seen, self.agree)


def place_in_scene(new: View, predicted: Sequence[View], captured: Sequence[View]) -> Placement | None:
    """Place `new`, predicted together with `predicted`, which are the views `captured` of the scene, all with depth.
    None where the pass and the scene have no depth in common.
    """
    found = _tied(predicted, captured)
    if found is None:
        return None
    scale = found.similarity.scale
    proposals = np.stack([_beside(view, new, own, scale) for view, own in zip(predicted, captured)])
    near = np.array([float(np.linalg.norm(_relative(view, new)[:, 3])) for view in predicted])
    pose = mean_pose(proposals, 1 / (near + 0.1 * near.max() + 1e-12))
    placed = replace(
        new, cam_from_world=pose, K=_calibrated(new, predicted, captured), depth=known_depth(new) * np.float32(scale)
    )
    turns = geometry.rotation_angle(proposals[:, :, :3] @ pose[:, :3].T)
    shifts = np.linalg.norm(geometry.camera_centres(proposals) - geometry.camera_centres(pose), axis=1)
    depth = known_depth(placed)
    depth_there = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    turn, shift = float(np.degrees(np.median(turns))), float(np.median(shifts)) / max(depth_there, 1e-9)
    return Placement(placed, found, *_overlap(placed, captured), turn, shift)


def place_as_known(camera: View, new: View, predicted: Sequence[View], captured: Sequence[View]) -> Placement | None:
    """The same for a photo whose `camera` in the scene's frame is known: its depth alone comes from the pass."""
    found = _tied(predicted, captured)
    if found is None:
        return None
    depth = known_depth(new) * np.float32(found.similarity.scale)
    placed = fitted_depth(replace(new, cam_from_world=camera.cam_from_world, K=camera.K, depth=depth), captured)
    return Placement(placed, found, *_overlap(placed, captured), 0.0, 0.0)


def fitted_depth(view: View, captured: Sequence[View]) -> View:
    """The view with its depth at the scale of the depth maps that see the same: times the median of the ratios."""
    surfaces = Surfaces([VoterMap(each, known_depth(each) > 0) for each in (view, *captured)])
    ratios = [correspondences(surfaces, 0, j)[2] for j in range(1, len(captured) + 1)]
    close = np.concatenate([ratio[(ratio > 0.5) & (ratio < 2)] for ratio in ratios])
    if len(close) < _FEWEST:
        return view
    return replace(view, depth=known_depth(view) / np.float32(np.median(close)))


def _tied(predicted: Sequence[View], captured: Sequence[View]) -> Tie | None:
    """The similarity of the pass into the scene; None where they have no depth in common."""
    sized = [
        replace(view, depth=resample_depth(known_depth(view), known_depth(own).shape), confidence=None)
        for view, own in zip(predicted, captured, strict=True)
    ]
    return tie(captured, sized)


def _overlap(placed: View, captured: Sequence[View]) -> tuple[float, float]:
    everything = [placed, *captured]
    return halves_agree(everything, [0], range(1, len(everything)))


def _relative(view: View, new: View) -> np.ndarray:
    return geometry.relative_pose(view.cam_from_world, new.cam_from_world)


def _beside(view: View, new: View, own: View, scale: float) -> np.ndarray:
    """The pose (3, 4) that stands to the scene's camera as the new one stands to it in the pass."""
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


def _calibrated(new: View, predicted: Sequence[View], captured: Sequence[View]) -> np.ndarray:
    """K of the new photo, its focal length as the scene's cameras correct those of the pass."""
    factor = float(np.median([own.K[0, 0] / view.K[0, 0] for view, own in zip(predicted, captured)]))
    K = new.K.copy()
    K[0, 0], K[1, 1] = K[0, 0] * factor, K[1, 1] * factor
    return K
