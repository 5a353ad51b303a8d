"""The camera of a photo from feature matches with photographs whose cameras and depth maps are known ("resection").

A network errs by about a degree, in the photographs' cameras as well as in the photo's; matches are ten times as
exact. A matched pixel of a photograph is a point in space by its depth, and the photo's camera projects it near the
other pixel of the match. Depth maps are less exact than matches: an error of depth moves the projection along the
epipolar line, so distances along the line count less than distances across it. Each photograph may turn about its own
centre and scale its depth, with a prior on both; otherwise its errors would move the photo, which is sensitive to them
where two cameras are close. The network also errs in the focal length, by nearly the same factor in all pictures of a
scene, and turns cameras to fit it. One factor for the photo and all photographs is estimated, too, and used if it is
larger than its own uncertainty. The camera and these corrections are the maximum a posteriori, found by Gauss-Newton
iterations with Cauchy's loss. The start is the network's camera, which is a weak prior as well.

The photographs stay as they are. So at the end the photo is turned by the mean of the corrections, and its focal length
is without the common factor, as theirs is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..scene import geometry
from ..scene.posed_view import View, known_depth
from ..world.registration import mean_rotation

_ROUNDS = 15
_PIXEL = 1 / 518  # standard deviation of a match, as a share of the longer side
_DEPTH = 0.1  # standard deviation of depth, relative to it
_NO_DEPTH = 0.5  # the same for pixels without depth, which get the median one
_SCALE = 0.03  # of the depth of a whole map
_TURN = np.radians(0.5)  # of a photograph, per axis
_FOCAL = 0.005  # of the photo's focal length, relative to that of the photographs
_SCENE_FOCAL = 0.05  # of the focal length of all pictures together: the usual error of a network
_CERTAIN = 0.05  # smallest factor of it that is used: errors of the depth maps alone give up to 0.04
_FIXED = 1e-6  # standard deviation of what is not estimated
_START_TURN, _START_SHIFT = np.radians(2.0), 0.1  # of the network's camera; the latter as a share of the depth
_WIDTH = 2.0  # of the loss, in standard deviations
_ENOUGH = 50  # matches with which a photograph has the full weight in the mean rotation
_NEAREST = 0.05  # smallest depth of a matched point, as a share of the median one
# columns: rotation, translation, log focal length of the photo and of all pictures, corrections
_FOCAL_AT, _SCENE_FOCAL_AT, _LINKS_AT = 6, 7, 8


@dataclass(frozen=True)
class Link:
    """Matches between a photo and a photograph with a known camera and depth map."""

    view: View  # of the photograph
    here: np.ndarray  # (M, 2) pixels of the photo
    there: np.ndarray  # (M, 2) pixels of the photograph


@dataclass(frozen=True)
class _Points:
    """The matches of all links."""

    pixels: np.ndarray  # (N, 2) of the photo
    ahead: np.ndarray  # (N, 3) along the photograph's optical axis from its centre to the surface, in the world
    aside: np.ndarray  # (N, 3) from there to the surface
    centres: np.ndarray  # (N, 3) of the photographs
    link: np.ndarray  # (N,) number of the link
    depth_error: np.ndarray  # (N,) relative standard deviation
    pixel_error: float


@dataclass(frozen=True)
class _State:
    """What is estimated."""

    rotation: np.ndarray  # (3, 3), camera from world
    translation: np.ndarray  # (3,)
    log_focal: float  # of the photo, relative to the start
    log_scene_focal: float  # of all pictures, relative to theirs
    log_scale: np.ndarray  # (J,) of each link's depth
    turn: np.ndarray  # (J, 3, 3) of each link about the photograph's centre

    @property
    def centre(self) -> np.ndarray:
        return -self.rotation.T @ self.translation

    def moved(self, step: np.ndarray) -> _State:
        turned, count = cv2.Rodrigues(step[:3])[0], len(self.log_scale)
        scales, turns = step[_LINKS_AT : _LINKS_AT + count], step[_LINKS_AT + count :].reshape(count, 3)
        return _State(
            turned @ self.rotation,
            turned @ self.translation + step[3:6],
            self.log_focal + float(step[_FOCAL_AT]),
            self.log_scene_focal + float(step[_SCENE_FOCAL_AT]),
            self.log_scale + scales,
            np.stack([cv2.Rodrigues(axis)[0] @ turn for axis, turn in zip(turns, self.turn)]),
        )


def resected(new: View, links: Sequence[Link]) -> View:
    """The photo `new` with the camera that the matches of `links` tell; its own camera is the start."""
    links = [link for link in links if len(link.here) > 0 and (known_depth(link.view) > 0).any()]
    if not links:
        return new
    points = _gathered(new, links)
    count = len(links)
    turns = np.tile(np.eye(3), (count, 1, 1))
    start = _State(new.cam_from_world[:, :3], new.cam_from_world[:, 3], 0.0, 0.0, np.zeros(count), turns)
    surface = points.ahead + points.aside + points.centres
    depth = float(np.median(surface @ start.rotation[2] + start.translation[2]))
    if depth <= 0:
        return new
    state, weight = _estimated(new.K, points, start, depth, _SCENE_FOCAL)
    if abs(state.log_scene_focal) < _CERTAIN:
        state, weight = _estimated(new.K, points, start, depth, _FIXED)
    centre, rotation = state.centre, _beside_the_links(state, start, np.bincount(points.link, weight, count))
    K = new.K.copy()
    K[0, 0], K[1, 1] = np.exp(state.log_focal) * K[0, 0], np.exp(state.log_focal) * K[1, 1]
    return replace(new, cam_from_world=np.column_stack([rotation, -rotation @ centre]), K=K)


def _estimated(
    K: np.ndarray, points: _Points, start: _State, depth: float, scene_focal: float
) -> tuple[_State, np.ndarray]:
    """The maximum a posteriori, and the weights (N,) of the matches; `scene_focal` is the standard deviation of the
    common factor of the focal lengths.
    """
    state, weight = start, np.ones(len(points.link))
    for _ in range(_ROUNDS):
        normal, right, weight = _equations(K, points, state, depth)
        _add_priors(normal, right, state, start, depth, scene_focal)
        step = -np.linalg.solve(normal, right)
        state = state.moved(step)
        if np.abs(step[:_LINKS_AT]).max() < 1e-6:
            break
    return state, weight


def _gathered(new: View, links: Sequence[Link]) -> _Points:
    ahead, aside, centres, errors = [], [], [], []
    for link in links:
        view, depth = link.view, known_depth(link.view)
        height, width = depth.shape
        column = np.clip(link.there[:, 0] * width / view.width, 0, width - 1).astype(int)
        row = np.clip(link.there[:, 1] * height / view.height, 0, height - 1).astype(int)
        z = depth[row, column].astype(np.float64)
        known = z > 0
        z = np.where(known, z, np.median(depth[depth > 0]))
        centre = geometry.camera_centres(view.cam_from_world)
        ahead.append(z[:, None] * view.cam_from_world[2, :3])
        aside.append(geometry.unproject_pixels(link.there, z, view.K, view.cam_from_world) - centre - ahead[-1])
        centres.append(np.tile(centre, (len(z), 1)))
        errors.append(np.where(known, _DEPTH, _NO_DEPTH))
    number = np.repeat(np.arange(len(links)), [len(link.here) for link in links])
    pixels = np.concatenate([link.here for link in links])
    pixel_error = _PIXEL * max(new.width, new.height)
    return _Points(
        pixels, np.concatenate(ahead), np.concatenate(aside), np.concatenate(centres), number, np.concatenate(errors),
        pixel_error,
    )  # fmt: skip


def _equations(
    K: np.ndarray, points: _Points, state: _State, depth: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The normal matrix (P, P), the right side (P,), and the weights (N,) of the matches."""
    scales, count, rows = np.exp(state.log_scale)[points.link], len(state.log_scale), np.arange(len(points.link))
    turns = scales[:, None, None] * state.turn[points.link]
    aside = np.einsum("nij,nj->ni", turns, points.aside) / np.exp(state.log_scene_focal)
    rays = np.einsum("nij,nj->ni", turns, points.ahead) + aside
    local = (rays + points.centres) @ state.rotation.T + state.translation
    z = np.maximum(local[:, 2], _NEAREST * depth)
    focal = np.exp(state.log_focal + state.log_scene_focal) * np.array([K[0, 0], K[1, 1]])
    plane = focal * local[:, :2] / z[:, None]
    project = np.zeros((len(z), 2, 3))  # derivative of the pixel by the local point
    project[:, 0, 0], project[:, 1, 1] = focal[0] / z, focal[1] / z
    project[:, :, 2] = -plane / z[:, None]
    deeper = np.einsum("nij,nj->ni", project, rays @ state.rotation.T)  # by the logarithm of the depth
    derivative = np.zeros((len(z), 2, _LINKS_AT + 4 * count))
    derivative[:, :, :3], derivative[:, :, 3:6] = _turning(project, local), project
    derivative[:, :, _FOCAL_AT] = plane
    derivative[:, :, _SCENE_FOCAL_AT] = plane - np.einsum("nij,nj->ni", project, aside @ state.rotation.T)
    derivative[rows, :, _LINKS_AT + points.link] = deeper
    by_turn = _turning(project @ state.rotation, rays)
    for axis in range(3):
        derivative[rows, :, _LINKS_AT + count + 3 * points.link + axis] = by_turn[:, :, axis]
    whiten = _whitening(deeper, points)
    off = np.einsum("nij,nj->ni", whiten, plane + K[:2, 2] - points.pixels)
    derivative = whiten @ derivative
    weight = (local[:, 2] > _NEAREST * depth) / (1 + (off**2).sum(axis=1) / _WIDTH**2)
    weighted = (weight[:, None, None] * derivative).reshape(-1, derivative.shape[2])
    flat = derivative.reshape(-1, derivative.shape[2])
    return flat.T @ weighted, weighted.T @ off.ravel(), weight


def _turning(project: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The derivative (N, 2, 3) of a pixel when its point (N, 3) is turned: project @ −[point]×."""
    x, y, z = point.T
    cross = np.zeros((len(point), 3, 3))
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = z, -y, x
    return project @ (cross - cross.transpose(0, 2, 1))


def _whitening(deeper: np.ndarray, points: _Points) -> np.ndarray:
    """(N, 2, 2) that turns a distance in pixels into standard deviations along and across the epipolar line."""
    length = np.linalg.norm(deeper, axis=1)
    along = deeper / np.maximum(length, 1e-12)[:, None]
    along[length < 1e-12] = (1, 0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    spread = np.hypot(points.pixel_error, points.depth_error * length)
    return np.stack([along / spread[:, None], across / points.pixel_error], axis=1)


def _add_priors(
    normal: np.ndarray, right: np.ndarray, state: _State, start: _State, depth: float, scene_focal: float
) -> None:
    count, at = len(state.log_scale), np.arange(len(right))
    turned = cv2.Rodrigues(state.rotation @ start.rotation.T)[0].ravel()
    turns = np.concatenate([cv2.Rodrigues(turn)[0].ravel() for turn in state.turn])
    off = np.concatenate([turned, np.zeros(3), [state.log_focal, state.log_scene_focal], state.log_scale, turns])
    sigma = np.repeat([_START_TURN, np.inf, _FOCAL, scene_focal, _SCALE, _TURN], [3, 3, 1, 1, count, 3 * count])
    normal[at, at] += 1 / sigma**2
    right += off / sigma**2
    # a translation by v moves the centre by −Rᵀv
    precision = 1 / (_START_SHIFT * depth) ** 2
    normal[3:6, 3:6] += precision * np.eye(3)
    right[3:6] -= precision * state.rotation @ (state.centre - start.centre)


def _beside_the_links(state: _State, start: _State, weight: np.ndarray) -> np.ndarray:
    """The mean rotation (3, 3) relative to the photographs as they are, with the start as one more of them."""
    proposals = np.concatenate([state.rotation @ state.turn, start.rotation[None]])
    return mean_rotation(proposals, weight=np.append(np.minimum(weight / _ENOUGH, 1), 1.0))
