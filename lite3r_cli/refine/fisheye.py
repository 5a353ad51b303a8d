"""Initial focal length of a fisheye: the network treats every lens as a pinhole and cannot estimate it.

Several focal lengths are tried on the matches; with the right one most of the rays agree on an essential matrix.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .backend import require_pycolmap
from .lens import Lens, Lenses
from .matching import Matches, verified
from .refine_config import RefineConfig

_FIELDS = np.radians([80, 95, 110, 125, 140, 155, 170, 185, 200])  # along the longer side
_PAIRS = 10  # pairs with the most matches that are used
_ERROR = 2.0  # pixels


def start_fisheyes(matches: Matches, lenses: Lenses, config: RefineConfig) -> tuple[Lenses, Matches]:
    """The lenses, with the best of `_FIELDS` for unknown ones, and the matches verified with them."""
    _, best = _best_fisheyes(matches, lenses, config)
    return best, verified(matches, best.cameras(), config)


def fit_better(matches: Matches, lenses: Lenses, config: RefineConfig) -> bool:
    """Whether more matches of the strongest pairs agree if unknown ones of these `lenses` are fisheyes."""
    agreeing, _ = _best_fisheyes(matches, lenses, config)
    return agreeing > (1 + config.fisheye_gain) * _agreeing(matches, lenses, config)


def _best_fisheyes(matches: Matches, lenses: Lenses, config: RefineConfig) -> tuple[int, Lenses]:
    """The lenses with the best of `_FIELDS`, and the number of matches that agree with them."""
    fisheyes = tuple(lens if lens.fixed else lens.bending("OPENCV_FISHEYE") for lens in lenses.lenses)
    best: tuple[int, Lenses] = (-1, lenses)
    for field in _FIELDS:
        trial = replace(lenses, lenses=tuple(_with_field(lens, float(field)) for lens in fisheyes))
        agreeing = _agreeing(matches, trial, config)
        if agreeing > best[0]:
            best = agreeing, trial
    return best


def _with_field(lens: Lens, field: float) -> Lens:
    """An equidistant fisheye with the angle `field` along its longer side; a known lens does not change."""
    if lens.fixed:
        return lens
    focal = max(lens.size) / field
    return replace(lens, params=(focal, focal, lens.size[0] / 2, lens.size[1] / 2, 0.0, 0.0, 0.0, 0.0))


def _agreeing(matches: Matches, lenses: Lenses, config: RefineConfig) -> int:
    """Number of matches of the strongest pairs that agree on essential matrices."""
    pycolmap = require_pycolmap()
    cameras, count = lenses.cameras(), 0
    options = pycolmap.RANSACOptions(max_error=_ERROR, random_seed=config.seed, max_num_trials=1000)
    strongest = sorted(matches.raw, key=lambda pair: (-len(matches.raw[pair]), pair))[:_PAIRS]
    for i, j in strongest:
        rows = matches.raw[i, j]
        ahead = [lenses.lenses[lenses.of_view[k]].ahead(matches.keypoints[k][rows[:, n]]) for n, k in enumerate((i, j))]
        rows = rows[ahead[0] & ahead[1]]
        if len(rows) < config.min_matches:
            continue
        first, second = matches.keypoints[i][rows[:, 0]], matches.keypoints[j][rows[:, 1]]
        found = pycolmap.estimate_essential_matrix(first, second, cameras[i], cameras[j], options)
        count += 0 if found is None else int(found["num_inliers"])
    return count
