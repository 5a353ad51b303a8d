"""Local features of pictures: SIFT by OpenCV, with square-rooted descriptors (Arandjelović & Zisserman, CVPR 2012)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from .refine_config import RefineConfig

ReadImage = Callable[[int], np.ndarray]  # index -> (H, W, 3) uint8
ReadMask = Callable[[int], np.ndarray | None]  # index -> (H, W) bool, True = use

LENGTH = 128  # of a descriptor
_LEVELS = 512  # of a quantised descriptor: its length is 1, so nearly all entries fit in 8 bits
_READERS = 2  # pictures in memory at a time: OpenCV itself uses all cores


@dataclass(frozen=True)
class Features:
    """Keypoints of one picture, the strongest first."""

    size: tuple[int, int]  # (width, height) at which they were found
    points: np.ndarray  # (N, 2) float64 pixels, centres at +0.5
    scales: np.ndarray  # (N,) float32 pixels
    descriptors: np.ndarray  # (N, 128) uint8, of Euclidean length 512

    def __len__(self) -> int:
        return len(self.points)


def extract(rgb: np.ndarray, mask: np.ndarray | None, config: RefineConfig) -> Features:
    """Features of a picture (H, W, 3) uint8 at a size of at most `config.feature_size`; none where `mask` (H, W) is
    False.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    scale = min(1.0, config.feature_size / max(grey.shape))
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    if scale < 1:
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    if mask is not None:
        mask = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_NEAREST)
    if min(size) < 16:
        return Features(size, np.zeros((0, 2)), np.zeros(0, np.float32), np.zeros((0, LENGTH), np.uint8))
    # only enable_precise_upscale samples the doubled picture of the first octave at the right places
    sift = cv2.SIFT_create(  # type: ignore[attr-defined]
        config.max_features, 3, 0.013, 10, 1.6, descriptorType=cv2.CV_32F, enable_precise_upscale=True
    )
    found, descriptors = sift.detectAndCompute(grey, mask)
    points = np.array([point.pt for point in found], np.float64).reshape(-1, 2) + 0.5
    scales = np.array([point.size / 2 for point in found], np.float32)
    strength = np.array([point.response for point in found])
    order = np.lexsort((points[:, 1], points[:, 0], -strength))[: config.max_features]
    rooted = _rooted(descriptors) if descriptors is not None else np.zeros((0, LENGTH), np.uint8)
    return Features(size, points[order], scales[order], rooted[order])


def extract_all(
    count: int,
    read_rgb: ReadImage,
    read_mask: ReadMask | None,
    config: RefineConfig,
    step: Callable[[], None],
    known: Mapping[int, Features],
) -> list[Features]:
    """Features of `count` pictures, in order; those in `known` have been found before."""

    def one(i: int) -> Features:
        features = known[i] if i in known else extract(read_rgb(i), None if read_mask is None else read_mask(i), config)
        step()
        return features

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(one, range(count)))


def _rooted(descriptors: np.ndarray) -> np.ndarray:
    """The square roots of descriptors (N, 128) of sum 1, quantised to `_LEVELS`: integers, whose products sum exactly
    in any order.
    """
    total = descriptors.sum(axis=1, keepdims=True)
    roots = np.sqrt(descriptors / np.maximum(total, 1e-9))
    return np.minimum(np.round(roots * _LEVELS), 255).astype(np.uint8)
