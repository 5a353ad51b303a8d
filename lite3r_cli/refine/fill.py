"""Depth where stereo fails: the network's depth, corrected so that it fits the pixels that other views confirm.

log depth = network's log depth + field. The field fits the confirmed pixels and is smooth elsewhere, but less smooth
across edges of the picture. Some confirmed pixels are held out for validation: if a field without the network's depth
predicts them better, the network's depth is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_SHRINK = 4
_BLOCKS = 12  # validation blocks along the longer side; half of the blocks are held out
_SMOOTH = 0.3  # weight of smoothness between two neighbouring cells; a confirmed cell has weight 1
_PRIOR, _TYPICAL = 0.01, 0.1  # weight of the network's depth, and the validation error at which it has this weight
_EDGE, _LEAST = 0.05, 0.02  # change of grey value that weakens smoothness, and the least weight that remains
_MIN_FIT = 100  # confirmed pixels that a fit needs
_JUMP = 0.1  # change of the network's log depth that weakens smoothness
_ITERATIONS = 150
_TOLERANCE = 1e-3
_MAX_LOG_ERROR = 0.3  # errors of log depth are cut at this value
_RIDGE = 0.3  # weight of the prior that the correction has no slope in the network's log depth


@dataclass(frozen=True)
class Filled:
    """A depth map without holes, and how it came about."""

    depth: np.ndarray  # (h, w) float32
    network: bool  # whether the network's depth was used
    error: float  # mean relative error at the held-out confirmed pixels, outliers cut


def fill(depth: np.ndarray, sure: np.ndarray, shape: np.ndarray, grey: np.ndarray) -> Filled:
    """`depth` (h, w) where `sure` (h, w) bool is True, and estimates elsewhere.

    `shape` (h, w) is the network's depth, 0 = unknown; `grey` (h, w) in 0..1 is the picture. At least one pixel has to
    be sure.
    """
    size = tuple(max(2, round(n / _SHRINK)) for n in depth.shape)
    known = np.log(np.where(sure, depth, 1))
    weight = _shrunk(sure, size)
    guess = _fitted(shape, depth, sure)
    picture, jumps = _shrunk(grey, size) / _EDGE, _shrunk(guess, size) / _JUMP
    edge_weights = [np.exp(-np.abs(np.diff(picture, axis=k)) - np.abs(np.diff(jumps, axis=k))) + _LEAST for k in (0, 1)]
    left = np.abs(known - guess)[sure]
    trust = _PRIOR * float(np.clip((_TYPICAL / max(float(np.median(left)), 1e-3)) ** 2, 0.1, 10))
    # a field over the network's depth has a prior at zero, a field without it a prior at the network's depth
    shapes, priors = [np.zeros_like(guess), guess], [_shrunk(guess, size), np.zeros(size, np.float32)]
    offsets = [_means(known - s, sure, weight) for s in shapes]
    held_out = _blocks(size)
    errors = [
        _prediction_error(offset, weight, prior, trust, edge_weights, held_out)
        for offset, prior in zip(offsets, priors)
    ]
    network = int(errors[1] <= errors[0])
    field = _field(offsets[network], weight, priors[network], trust, edge_weights)
    smooth = shapes[network] + cv2.resize(field, depth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    smooth = np.clip(smooth, known[sure].min() - 0.7, known[sure].max() + 0.7)  # limits extrapolation
    return Filled(np.where(sure, depth, np.exp(smooth)).astype(np.float32), bool(network), float(min(errors)))


def _shrunk(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)


def _means(values: np.ndarray, sure: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Means of the sure values in each cell, of whose pixels `weight` is the sure share; 0 where there are none."""
    total = _shrunk(np.where(sure, values, 0), weight.shape)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _fitted(shape: np.ndarray, depth: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """The network's log depth with level and slope fitted to the sure pixels; their median where it is unknown or
    useless.
    """
    both = sure & (shape > 0)
    level = float(np.median(np.log(depth[sure])))
    if both.sum() < _MIN_FIT:
        return np.full(depth.shape, level, np.float32)
    every = max(1, int(both.sum()) // 4000)
    x, y = np.log(shape[both][::every]), np.log(depth[both][::every])
    centre, level = float(np.median(x)), float(np.median(y))
    x, y, slope, weight = x - centre, y - level, 1.0, np.ones_like(x)
    for _ in range(8):
        shift = float((weight * (y - slope * x)).sum() / weight.sum())
        slope = float(np.clip((weight * x * (y - shift)).sum() / ((weight * x * x).sum() + _RIDGE), 0, 2))
        left = y - shift - slope * x
        weight = 1 / (1 + (left / max(1.5 * float(np.median(np.abs(left))), 1e-4)) ** 2)
    log = np.log(np.where(shape > 0, shape, np.exp(centre)))
    return (level + shift + slope * (log - centre)).astype(np.float32)


def _blocks(size: tuple[int, int]) -> np.ndarray:
    """Half of the blocks of a checkerboard (h, w) bool."""
    side = max(2, max(size) // _BLOCKS)
    row, column = np.indices(size) // side
    return (row + column) % 2 == 0


def _prediction_error(offset, weight, prior, trust, edge_weights, held_out: np.ndarray) -> float:
    """Mean error of log depth, at most `_MAX_LOG_ERROR`, where each half of the cells is predicted from the other."""
    total = 0.0
    for part in (held_out, ~held_out):
        field = _field(offset, np.where(part, 0, weight), prior, trust, edge_weights)
        total += float((weight * np.minimum(np.abs(field - offset), _MAX_LOG_ERROR))[part].sum())
    return total / float(weight.sum())


def _field(
    offset: np.ndarray, weight: np.ndarray, prior: np.ndarray, trust: float, edge_weights: list[np.ndarray]
) -> np.ndarray:
    """Least squares of weight · (field − offset)² + trust · (field − prior)² + smoothness, by conjugate gradients."""
    right = weight * offset + trust * prior
    weight = weight + np.float32(trust)
    field = right / weight
    down, across = (_SMOOTH * edge for edge in edge_weights)

    def apply(x: np.ndarray) -> np.ndarray:
        y = weight * x
        step = down * np.diff(x, axis=0)
        y[:-1] -= step
        y[1:] += step
        step = across * np.diff(x, axis=1)
        y[:, :-1] -= step
        y[:, 1:] += step
        return y

    diagonal = weight.copy()
    diagonal[:-1] += down
    diagonal[1:] += down
    diagonal[:, :-1] += across
    diagonal[:, 1:] += across
    residual = right - apply(field)
    scaled = residual / diagonal
    direction, power = scaled.copy(), float((residual * scaled).sum())
    first = power
    for _ in range(_ITERATIONS):
        if power <= _TOLERANCE**2 * first or power == 0:
            break
        image = apply(direction)
        rate = power / float((direction * image).sum())
        field += rate * direction
        residual -= rate * image
        scaled = residual / diagonal
        before, power = power, float((residual * scaled).sum())
        direction = scaled + power / before * direction
    return field
