"""Loop closure of a long set: candidates from pictures, prediction, and verification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress
from ..io.images import ImageSet
from ..long.chunk_plan import ChunkPlan, Pass, owners
from ..long.loop_search import Candidate, find_candidates, halves_agree, is_loop, joint_pass
from ..long.pass_store import PassStore
from ..long.work_folder import WorkFolder
from .long_predict import Predicted, bare_view, predict_passes

if TYPE_CHECKING:
    from .predict import Predictor

_LOOK = 4  # views of each half that are compared


@dataclass(frozen=True)
class Loops:
    """The passes of the candidates, and which of them are loops."""

    passes: list[Pass]
    accepted: list[bool]
    account: list[dict[str, Any]]  # for run.json


def close_loops(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    plan: ChunkPlan,
    work: WorkFolder,
    progress: Progress,
    check: Callable[[], None],
    into: Predicted,
) -> Loops:
    """Predict the loop candidates as passes after the plan's chunks, and verify them."""
    owner = owners(plan.chunks, plan.views)

    def picture(i: int) -> np.ndarray:
        small = work.store.colors(owner[i], i)
        return images.read(i) if small is None else small

    with progress.stage("Look for loops"):
        candidates = find_candidates(plan, picture, check)
    passes = [joint_pass(each, plan) for each in candidates]
    if passes:
        predict_passes(
            config, images, predictor, passes, len(plan.chunks), work, progress, check, into, "Predict loops"
        )
    accepted, account = [], []
    for k, candidate in enumerate(candidates):
        most, agree, yes = judge(images, work.store, len(plan.chunks) + k, candidate)
        accepted.append(yes)
        verdict = "loop" if accepted[-1] else "refused"
        account.append({**candidate.as_dict(), "seen": round(most, 3), "agree": round(agree, 3), "verdict": verdict})
    return Loops(passes, accepted, account)


def judge(images: ImageSet, store: PassStore, number: int, candidate: Candidate) -> tuple[float, float, bool]:
    """The result of `halves_agree` for evenly spread views around both ends of a pass, and whether it is a loop."""
    middle = (candidate.first + candidate.second) / 2
    views = store.views(number)
    halves = [_spread([v for v in views if (v < middle) == first]) for first in (True, False)]
    read = [store.read(number, v, bare_view(images, v)) for half in halves for v in half]
    most, agree = halves_agree(read, range(len(halves[0])), range(len(halves[0]), len(read)))
    return most, agree, is_loop(most, agree)


def _spread(views: Sequence[int]) -> list[int]:
    return list(views[:: max(1, len(views) // _LOOK)])
