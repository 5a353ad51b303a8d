"""Cameras of the frames between key frames, without the network: corners with known depth are tracked.

Corners of a key frame get 3D points from its depth. They are tracked through the following frames (Lucas and Kanade,
IJCAI 1981, with a backward check), and those of the next key frame through the frames before it. Each set of tracks
gives a camera by perspective-n-point with RANSAC. A frame gets the mean of both cameras, weighted by the distance in
frames to the key frames, so that the path has no step where key frames disagree. Frames that neither set reaches are
interpolated between their neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..io.video import GreyFrame
from ..scene import geometry
from ..scene.posed_view import View, known_depth

KEY, TRACKED, INTERPOLATED = "key frame", "tracked", "interpolated"
SIDE = 640  # pixels of the longer side for tracking
_CORNERS, _APART = 400, 7
_THERE_AND_BACK = 1.0  # largest error of the backward check, pixels
_OFF = 2.0  # largest reprojection error, in pixels of SIDE
_FEWEST, _SHARE = 12, 0.4  # corners that must agree on a camera: number, and share of the remaining ones
_BACKWARDS = 256  # maximum number of frames for backward tracking from a key frame
_STEP = 1.1  # ratio of depths within three pixels from which a corner may be on either surface
_LEAST_CONFIDENT = 20  # per cent of a view's pixels, the least confident ones, that give no 3D points

Pixels = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Anchor:
    """A key frame: its view with depth, and a function from points (N, 2) of the frame to the view's picture; NaN
    outside.
    """

    view: View
    to_view: Pixels = lambda points: points


@dataclass(frozen=True)
class FrameCamera:
    """The camera of one frame of a video."""

    frame: int
    time: float | None  # seconds from the clip's start
    K: np.ndarray  # (3, 3) of the picture at its full size
    cam_from_world: np.ndarray  # (3, 4)
    how: str  # KEY, TRACKED or INTERPOLATED
    corners: int = 0  # number of inliers
    turn: float | None = None  # degrees between the cameras from both key frames


@dataclass
class _Waiting:
    """A frame before its next key frame is known."""

    frame: GreyFrame  # its picture is removed when it is no longer needed
    before: _Fix | None


@dataclass(frozen=True)
class _Fix:
    pose: np.ndarray
    K: np.ndarray
    corners: int


def place_frames(frames: Iterable[GreyFrame], anchors: Mapping[int, Callable[[], Anchor]]) -> Iterator[FrameCamera]:
    """The cameras of `frames`, in order, if they can be computed; `anchors` loads the key frame with an index.

    Memory holds the pictures of at most `_BACKWARDS` frames.
    """
    start: tuple[int, float | None, Anchor] | None = None
    tracks: _Tracks | None = None
    waiting: list[_Waiting] = []
    recent: deque[_Waiting] = deque()
    for frame in frames:
        if frame.index not in anchors:
            waiting.append(_Waiting(frame, None if tracks is None else tracks.camera_of(frame.grey)))
            recent.append(waiting[-1])
            if len(recent) > _BACKWARDS:
                old = recent.popleft()
                old.frame = replace(old.frame, grey=np.zeros((0, 0), np.uint8))
            continue
        anchor = anchors[frame.index]()
        yield from _between(start, (frame.index, frame.time, anchor), waiting, _backwards(frame, anchor, recent))
        start = (frame.index, frame.time, anchor)
        yield FrameCamera(frame.index, frame.time, anchor.view.K, anchor.view.cam_from_world, KEY)
        tracks, waiting = _Tracks(frame.grey, anchor), []
        recent.clear()
    yield from _between(start, None, waiting, {})


def _backwards(frame: GreyFrame, anchor: Anchor, recent: Iterable[_Waiting]) -> dict[int, _Fix | None]:
    """Cameras of the frames before a key frame, from its corners."""
    tracks = _Tracks(frame.grey, anchor)
    return {each.frame.index: tracks.camera_of(each.frame.grey) for each in reversed(list(recent))}


def _between(start, end, waiting: list[_Waiting], after: Mapping[int, _Fix | None]) -> Iterator[FrameCamera]:
    """The frames between two key frames, one of which may be missing."""
    known: dict[int, FrameCamera] = {}
    for each in (start, end):
        if each is not None:
            index, time, anchor = each
            known[index] = FrameCamera(index, time, anchor.view.K, anchor.view.cam_from_world, KEY)
    for each in waiting:
        one, other = each.before, after.get(each.frame.index)
        fixes = [fix for fix in (one, other) if fix is not None]
        if not fixes:
            continue
        share, turn = 0.5, None
        if one is not None and other is not None:
            share = (each.frame.index - start[0]) / (end[0] - start[0])
            turn = float(np.degrees(geometry.rotation_angle(one.pose[:, :3] @ other.pose[:, :3].T)))
        pose = mean_pose(fixes[0].pose, fixes[-1].pose, share)
        K = (1 - share) * fixes[0].K + share * fixes[-1].K
        corners = max(fix.corners for fix in fixes)
        known[each.frame.index] = FrameCamera(each.frame.index, each.frame.time, K, pose, TRACKED, corners, turn)
    places = sorted(known)
    for each in waiting:
        found = known.get(each.frame.index) or _interpolated(each.frame, places, known)
        if found is not None:
            yield found


def _interpolated(frame: GreyFrame, places: list[int], known: Mapping[int, FrameCamera]) -> FrameCamera | None:
    before = [i for i in places if i < frame.index]
    after = [i for i in places if i > frame.index]
    if not before or not after:
        return None
    a, b = known[before[-1]], known[after[0]]
    share = (frame.index - a.frame) / (b.frame - a.frame)
    pose = mean_pose(a.cam_from_world, b.cam_from_world, share)
    return FrameCamera(frame.index, frame.time, (1 - share) * a.K + share * b.K, pose, INTERPOLATED)


def mean_pose(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """The pose (3, 4) at `share` of the way from a to b: rotation about one axis, centre on a straight line."""
    turn, _ = cv2.Rodrigues(b[:, :3] @ a[:, :3].T)
    rotation = cv2.Rodrigues(share * turn)[0] @ a[:, :3]
    centres = geometry.camera_centres(np.stack([a, b]))
    centre = (1 - share) * centres[0] + share * centres[1]
    return np.concatenate([rotation, (-rotation @ centre)[:, None]], axis=1)


# --- tracks -----------------------------------------------------------------------------------------------------------


class _Tracks:
    """The corners of a key frame, and their positions in the last frame."""

    def __init__(self, grey: np.ndarray, anchor: Anchor) -> None:
        self.anchor, self._grey = anchor, grey
        view = anchor.view
        found = cv2.goodFeaturesToTrack(grey, _CORNERS, 0.01, _APART)
        points = np.zeros((0, 2), np.float32) if found is None else found.reshape(-1, 2)
        self._scale = view.width / grey.shape[1], view.height / grey.shape[0]
        pixels = anchor.to_view(self._full(points))
        depth = _depth_at(view, pixels)
        kept = depth > 0
        self._points = points[kept]
        # in the key frame's camera: independent of its pose in the world
        self._places = geometry.unproject_pixels(pixels[kept], depth[kept], view.K)

    def _full(self, points: np.ndarray) -> np.ndarray:
        """Points of the small picture, whose pixel centres are integers, in the full one."""
        return (points.astype(np.float64) + 0.5) * self._scale

    def camera_of(self, grey: np.ndarray) -> _Fix | None:
        """Track the corners to the next frame. Returns its camera if enough of them agree."""
        if grey.shape != self._grey.shape or not len(self._points):
            return None
        there, found, _ = cv2.calcOpticalFlowPyrLK(self._grey, grey, self._points, None)  # type: ignore[call-overload]
        back, again, _ = cv2.calcOpticalFlowPyrLK(grey, self._grey, there, None)  # type: ignore[call-overload]
        kept = (found.ravel() == 1) & (again.ravel() == 1)
        kept &= np.linalg.norm(back - self._points, axis=1) < _THERE_AND_BACK
        self._points, self._places, self._grey = there[kept], self._places[kept], grey
        return self._solved()

    def _solved(self) -> _Fix | None:
        pixels = self.anchor.to_view(self._full(self._points))
        seen = np.isfinite(pixels).all(1)
        if seen.sum() < _FEWEST:
            return None
        places, pixels, K = self._places[seen], pixels[seen], self.anchor.view.K
        try:
            done, turn, shift, inside = cv2.solvePnPRansac(
                places, pixels - 0.5, _centred(K), None, iterationsCount=100,
                reprojectionError=_OFF * max(self._scale), flags=cv2.SOLVEPNP_SQPNP,
            )  # fmt: skip
        except cv2.error:  # a degenerate set of corners; OpenCV raises no other type for it
            return None
        if not done or inside is None or len(inside) < max(_FEWEST, _SHARE * len(places)):
            return None
        rows = inside.ravel()
        turn, shift = cv2.solvePnPRefineLM(places[rows], pixels[rows] - 0.5, _centred(K), None, turn, shift)
        own = np.concatenate([cv2.Rodrigues(turn)[0], shift.reshape(3, 1)], axis=1)
        return _Fix(geometry.compose(own, self.anchor.view.cam_from_world), K, len(rows))


def _centred(K: np.ndarray) -> np.ndarray:
    """K for integer pixel centres, as in OpenCV."""
    moved = K.copy()
    moved[:2, 2] -= 0.5
    return moved


def _depth_at(view: View, pixels: np.ndarray) -> np.ndarray:
    """The depth at points (N, 2) of a view's picture; 0 if it is unknown, of low confidence, or at a depth edge."""
    depth = known_depth(view)
    height, width = depth.shape
    with np.errstate(invalid="ignore"):
        columns, rows = np.floor(pixels * [width / view.width, height / view.height]).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    x, y = (np.where(inside, each, 0).astype(int) for each in (columns, rows))
    known = np.isfinite(depth) & (depth > 0)
    usable = known & (cv2.dilate(depth, np.ones((3, 3))) < _STEP * np.maximum(cv2.erode(depth, np.ones((3, 3))), 0))
    if view.confidence is not None and known.any():
        usable &= view.confidence >= np.percentile(view.confidence[known], _LEAST_CONFIDENT)
    return np.where(inside & usable[y, x], depth[y, x], 0).astype(np.float64)
