"""Loop closure of a long set: candidates from pictures, prediction, and verification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress
from ..cores import count_cores
from ..errors import InputError
from ..io.images import ImageSet
from ..io.view_memory import Features
from ..long.chunk_plan import ChunkPlan, Pass, owners
from ..long.loop_search import (
    AGREE,
    SEEN,
    Candidate,
    find_candidates,
    halves_agree,
    in_vain,
    is_loop,
    joint_pass,
    look_at,
    places_of,
)
from ..long.work_folder import WorkFolder
from ..scene.posed_view import View
from .long_predict import Predicted, predict_passes

if TYPE_CHECKING:
    import torch

    from .predict import Predictions, Predictor

_LOOK, _STEP = 4, 4  # views of each half that are compared; of their rows and columns, every fourth
_MOST_THREADS = 4  # beside those that write chunks


@dataclass(frozen=True)
class Loops:
    """The passes of the candidates that were predicted, and which of them are loops."""

    passes: list[Pass]
    accepted: list[bool]
    account: list[dict[str, Any]]  # for run.json


class Places:
    """Looks at evenly spread pictures while the network predicts the next chunks. Use as a context manager."""

    def __init__(self, images: ImageSet, plan: ChunkPlan, work: WorkFolder) -> None:
        self._images, self._store = images, work.store
        owner = owners(plan.chunks, plan.views)
        self._of: dict[int, list[int]] = {}
        for i in places_of(plan):
            self._of.setdefault(owner[i], []).append(i)
        self._pool = ThreadPoolExecutor(min(_MOST_THREADS, count_cores()), thread_name_prefix="features of places")
        self._found: dict[int, Future[Features]] = {}

    def __enter__(self) -> Places:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, k: int) -> bool:
        """Look at the pictures of chunk k, which is on disk; always True: the next chunk is wanted."""
        self._found |= {i: self._pool.submit(self._look, k, i) for i in self._of.get(k, [])}
        return True

    def features(self, i: int) -> Features:
        """Those of view i, of a chunk that was begun."""
        return self._found[i].result()

    def _look(self, k: int, i: int) -> Features:
        if i not in self._store.views(k):
            return look_at(np.zeros((64, 64, 3), np.uint8))  # it could not be read, which has been reported
        small = self._store.colors(k, i)
        return look_at(self._images.read(i) if small is None else small)


def close_loops(
    config: ReconstructConfig,
    images: ImageSet,
    predictor: Predictor,
    plan: ChunkPlan,
    places: Places,
    work: WorkFolder,
    progress: Progress,
    check: Callable[[], None],
    into: Predicted,
) -> Loops:
    """Predict the loop candidates as passes after the plan's chunks, and verify them."""
    with progress.stage("Look for loops"):
        candidates = find_candidates(plan, places.features)
    check()
    passes, first = [joint_pass(each, plan) for each in candidates], len(plan.chunks)
    accepted: list[bool] = []

    def examine(k: int, found: Predictions) -> dict[str, Any]:
        seen, agree = judge(found, candidates[k], predictor.runtime.torch_device)
        return {SEEN: seen, AGREE: agree}

    def after(k: int) -> bool:
        accepted.append(is_loop(*_judgement(work.store.facts(first + k))))
        return not in_vain(accepted)

    if passes:
        predict_passes(
            config, images, predictor, passes, first, work, progress, check, into, "Predict loops", examine, after
        )
    account = []
    for k, (candidate, is_one) in enumerate(zip(candidates, accepted)):
        seen, agree = _judgement(work.store.facts(first + k))
        verdict = "loop" if is_one else "refused"
        account.append({**candidate.as_dict(), "seen": round(seen, 3), "agree": round(agree, 3), "verdict": verdict})
    return Loops(passes[: len(accepted)], accepted, account)


def _judgement(facts: dict[str, Any]) -> tuple[float, float]:
    """The result of `judge`, from disk. Raises InputError."""
    try:
        return float(facts[SEEN]), float(facts[AGREE])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a finished chunk is damaged ({error}); run again without --resume") from error


def judge(found: Predictions, candidate: Candidate, device: torch.device) -> tuple[float, float]:
    """The result of `halves_agree`, on `device`, for evenly spread views around both ends of a pass."""
    middle, placed = (candidate.first + candidate.second) / 2, list(zip(found.indices, found.views))
    halves = [_spread([view for i, view in placed if (i < middle) == first]) for first in (True, False)]
    count = len(halves[0])
    ends = range(count), range(count, count + len(halves[1]))
    return halves_agree([*halves[0], *halves[1]], *ends, _STEP, found.held, device)


def _spread(views: Sequence[View]) -> list[View]:
    return list(views[:: max(1, len(views) // _LOOK)])
