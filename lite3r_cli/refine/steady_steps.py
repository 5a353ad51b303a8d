"""The steps of a walk: from each picture to the next one, where the matches of the two allow several directions.

At a corner two neighbours may have only a pavement in common. If it repeats every two metres, its matches say that the
camera went one metre ahead, or one metre back, and about as many of them say one as the other. But who walks does not
step back between two steps ahead: of the steps that the matches allow, those are chosen that turn back least.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .lens import Lenses
from .matching import Matches, Pair
from .refine_config import RefineConfig
from .relative_poses import ways_with

_FREE = 0.5  # cosine of the turn from one step to the next that costs nothing
_TURN = 0.25  # cost of a turn whose cosine is smaller by one, in natural logarithms of a ratio of votes


def steadiest_steps(
    rotations: np.ndarray, pairs: Iterable[Pair], matches: Matches, lenses: Lenses, config: RefineConfig
) -> dict[Pair, np.ndarray]:
    """For each pair of neighbours among `pairs` one of the poses (3, 4) that its matches allow, so that the steps turn
    back least. `rotations` (S, 3, 3): cam_from_world of all pictures.
    """
    near = {(i, j): rotations[j] @ rotations[i].T for i, j in pairs if j == i + 1}
    choices = ways_with(near, matches, lenses, config)
    chain = sorted(choices)
    steps = [_directions(choices[i, j].poses, rotations[i]) for i, j in chain]
    costs = [np.log(choices[pair].votes[0] / choices[pair].votes) for pair in chain]
    best = [costs[0]] if chain else []
    came: list[np.ndarray] = []
    for k in range(1, len(chain)):
        turn = _TURN * np.maximum(_FREE - steps[k] @ steps[k - 1].T, 0)  # (now, before)
        if chain[k][0] != chain[k - 1][1]:
            turn = 0 * turn
        total = turn + best[-1]
        came.append(total.argmin(axis=1))
        best.append(costs[k] + total.min(axis=1))
    chosen: dict[Pair, np.ndarray] = {}
    at = int(best[-1].argmin()) if best else 0
    for k in reversed(range(len(chain))):
        chosen[chain[k]] = choices[chain[k]].poses[at]
        at = int(came[k - 1][at]) if k else 0
    return chosen


def _directions(poses: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Unit vectors (K, 3) in the world from the first camera, with cam_from_world `rotation`, to the second one."""
    towards = -np.einsum("kij,ki->kj", poses[:, :, :3], poses[:, :, 3])
    return towards @ rotation / np.linalg.norm(towards, axis=1, keepdims=True)
