"""What a picture has that is no scene: bars that were cut off, frames that were painted over."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from ..networks.pictures import NetworkInput
from ..scene.view import View


def _unseen(shown: NetworkInput) -> np.ndarray | None:
    """(h, w) bool of the whole picture: bars, and a frame that was painted over; None without either."""
    if shown.border is None and shown.rgb.shape[:2] == shown.full:
        return None
    seen = np.ones(shown.rgb.shape[:2], np.uint8) if shown.border is None else (~shown.border).astype(np.uint8)
    return shown.uncrop(seen) == 0


def scene_only(mask: np.ndarray | None, shown: NetworkInput, view: View) -> np.ndarray | None:
    """A picture's mask (H, W), True = use, without what is no scene."""
    unseen = _unseen(shown)
    if unseen is None:
        return mask
    size = (view.width, view.height)
    scene = cv2.resize(unseen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) == 0
    return scene if mask is None else mask & scene


def without_frame(view: View, shown: NetworkInput) -> View:
    """What refinement found on a frame or a bar, which stands still while the scene moves, is no depth."""
    unseen = _unseen(shown)
    if unseen is None or view.depth is None or view.confidence is None:
        return view
    size = view.depth.shape[::-1]
    no_scene = cv2.resize(unseen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    depth, confidence = (
        np.where(no_scene, np.float32(0), view.depth),
        np.where(no_scene, np.float32(0), view.confidence),
    )
    return replace(view, depth=depth, confidence=confidence)
