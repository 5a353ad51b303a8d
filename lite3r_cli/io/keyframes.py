"""Selects key frames of a video by image motion and sharpness.

Every frame is examined once as a small grey image. Corners are tracked from frame to frame (Lucas and Kanade, IJCAI
1981); the median displacement is the motion. Key frames are at equal steps of motion, not of time: a resting camera
gives one, a fast turn gives many. Around each position the sharpest frame is selected, by the variance of its
Laplacian.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

SIDE = 192  # pixels of the longer side of the examined frames
STEP = 0.08  # of the width: motion from one key frame to the next
FEWEST = 8  # minimum number of key frames, if there are so many frames
_CORNERS, _FOLLOWED = 150, 12  # number of tracked corners, and the smallest number that must be found again
_NEAR = 0.35  # of a step: search range of the sharpest frame
_STILL = 5e-4  # of the width: less is noise
_SAME = 0.6  # grey levels: frames with a smaller mean difference are identical
_BLURRED, _AROUND = 0.35, 15  # share of the usual sharpness, in a window of so many frames before and after


@dataclass(frozen=True)
class Looks:
    """Measurements of the N frames of a video."""

    motion: np.ndarray  # (N,) since the frame before, as a share of the width
    sharpness: np.ndarray  # (N,) variance of the Laplacian
    same: np.ndarray  # (N,) bool: identical to the previous frame

    @property
    def blurred(self) -> list[int]:
        """Frames that are far less sharp than their neighbours."""
        usual = [
            float(np.median(self.sharpness[max(0, i - _AROUND) : i + _AROUND + 1])) for i in range(len(self.sharpness))
        ]
        return np.flatnonzero(self.sharpness < _BLURRED * np.array(usual)).tolist()

    def key_frames(self, count: int | None = None, most: int | None = None) -> list[int]:
        """`count` frames at equal steps of motion; None: one per `STEP`, at most `most`."""
        frames = len(self.motion)
        way = np.cumsum(np.where(self.motion < _STILL, 0, self.motion))
        total = float(way[-1]) if frames else 0.0
        wanted = max(FEWEST, round(total / STEP) + 1) if count is None else count
        wanted = min(wanted, frames, frames if most is None else most)
        if wanted < 2 or total < STEP:
            return np.unique(np.linspace(0, max(frames - 1, 0), wanted).round().astype(int)).tolist()
        chosen: list[int] = []
        reach = _NEAR * total / (wanted - 1)
        for place in np.linspace(0, total, wanted):
            first = chosen[-1] + 1 if chosen else 0
            near = first + np.flatnonzero(np.abs(way[first:] - place) <= reach)
            if len(near):
                chosen.append(int(near[np.argmax(self.sharpness[near])]))
            elif first < frames:
                chosen.append(first + int(np.argmin(np.abs(way[first:] - place))))
        rest = [i for i in range(frames) if i not in set(chosen)]  # more frames were requested than there are steps
        more: list[int] = (
            np.linspace(0, len(rest) - 1, wanted - len(chosen)).round().astype(int).tolist() if rest else []
        )
        return sorted([*chosen, *(rest[k] for k in more)])

    def as_dict(self, chosen: list[int]) -> dict[str, Any]:
        """For run.json."""
        return {
            "frames": len(self.motion),
            "used": len(chosen),
            "blurred": self.blurred,
            "duplicates": np.flatnonzero(self.same).tolist(),
        }


def look_through(greys: Iterable[np.ndarray]) -> Looks:
    """Measure all frames (h, w) uint8 of at most `SIDE` pixels."""
    motion, sharpness, same = [], [], []
    before: np.ndarray | None = None
    for grey in greys:
        moved = 0.0 if before is None else _motion(before, grey)
        motion.append(moved)
        sharpness.append(float(cv2.Laplacian(grey, cv2.CV_32F).var()))
        same.append(before is not None and float(cv2.absdiff(before, grey).mean()) < _SAME and moved < _STILL)
        before = grey
    return Looks(np.array(motion), np.array(sharpness), np.array(same, bool))


def _motion(before: np.ndarray, grey: np.ndarray) -> float:
    """The median displacement of the corners as a share of the width; a whole step if tracking fails."""
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 5)
    if corners is None or len(corners) < _FOLLOWED:
        return 0.0 if float(cv2.absdiff(before, grey).mean()) < 4 * _SAME else STEP
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, grey, corners, None)  # type: ignore[call-overload]
    kept = found.ravel() == 1
    if kept.sum() < _FOLLOWED:
        return STEP
    ways = np.linalg.norm((there - corners).reshape(-1, 2)[kept], axis=1)
    return min(float(np.median(ways)) / grey.shape[1], STEP)
