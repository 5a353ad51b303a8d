"""Loop closure: finds places that a sequence returns to by features, and verifies them with the network.

Evenly spread pictures of the sequence get local features and one descriptor each: residuals of the features to a small
vocabulary of the set itself, summed by word (VLAD, Jégou et al., CVPR 2010), with signed square roots. Similar pictures
that are far apart in order are matched feature by feature (world/ties.py). Candidates are predicted together: views
around both places in one pass. It is a loop only if the depth of both halves agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..cores import count_cores
from ..io.view_memory import Features
from ..scene.consistency import ratios_in
from ..scene.device_maps import DeviceMaps
from ..scene.posed_view import View, known_depth
from ..scene.surfaces import Surfaces, VoterMap
from ..scene.usable_maps import NOTHING_HELD
from ..world.ties import Keypoints, evidence, find_features, keypoints_of
from .chunk_plan import LOOP, ChunkPlan, Pass

PLACES = 400  # maximum number of compared pictures
_SIDE, _FEATURES = 518, 500
_MOST_THREADS = 16
_HELD = 64  # pictures with features in memory as floats
_WORDS, _ROUNDS, _SAMPLE = 48, 8, 20_000
_SURE = -8.0  # evidence of a candidate: thousands of pairs are tested, while TIED is for one
_ASKED = 6  # pictures that each place is matched with
_LOOPS = 1.0  # maximum number of passes per chunk
_HALF = 20  # views around each end in a joint pass, at most half a chunk (as VGGT-Long)
_IN_VAIN = 6  # candidates refused one after the other, after which weaker ones are not predicted
# Least overlap, share of it that agrees, error. On walks of 1,000 and 3,000 frames, candidates whose views are more
# than 19 m apart reach 0.80, and most within 3 m have more than 0.9.
_SEEN, _AGREE, _SAME = 0.1, 0.8, 0.1
_FIRM = 0.05  # share that does not agree, beyond which a loop is doubted
SEEN, AGREE = "seen", "agree"  # names of the facts that are stored with the pass of a candidate


@dataclass(frozen=True)
class Candidate:
    """Two views far apart in order that show the same place, according to their features."""

    first: int
    second: int
    evidence: float  # decimal logarithm of the number of false alarms

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        return {"views": [self.first, self.second], "evidence": round(self.evidence, 1)}


def places_of(plan: ChunkPlan) -> list[int]:
    """The views that are compared: evenly spread."""
    return list(range(0, plan.views, max(1, plan.size // 6, -(-plan.views // PLACES))))


def look_at(picture: np.ndarray) -> Features:
    """The features of a picture (h, w, 3) RGB for `find_candidates`."""
    return find_features(picture, _SIDE, _FEATURES)


def find_candidates(plan: ChunkPlan, look: Callable[[int], Features]) -> list[Candidate]:
    """Pairs of views of one place, the strongest first, without duplicates; `look(i)` are the features of view i.

    Views closer than the length of a chunk are no candidates.
    """
    places = places_of(plan)
    with ThreadPoolExecutor(min(_MOST_THREADS, count_cores())) as pool:
        features = list(pool.map(look, places))
    likeness = likeness_of(features)
    ready = lru_cache(maxsize=_HELD)(lambda k: keypoints_of(features[k]))
    apart = np.abs(np.subtract.outer(places, places)) >= 2 * plan.size - plan.overlap
    likeness[~apart] = -np.inf
    asked = {
        (min(a, b), max(a, b))
        for a in range(len(places))
        for b in np.argsort(-likeness[a], kind="stable")[:_ASKED].tolist()
        if np.isfinite(likeness[a, b])
    }
    with ThreadPoolExecutor(min(_MOST_THREADS, count_cores())) as pool:
        found = list(
            pool.map(lambda ab: Candidate(places[ab[0]], places[ab[1]], evidence(*map(ready, ab))), sorted(asked))
        )
    return suppressed([each for each in found if each.evidence < _SURE], plan)


def suppressed(found: Sequence[Candidate], plan: ChunkPlan) -> list[Candidate]:
    """Non-maximum suppression: the strongest candidates, none with both ends within half a chunk of a
    stronger one's.
    """
    kept: list[Candidate] = []
    for each in sorted(found, key=lambda c: (c.evidence, c.first, c.second)):
        near = any(max(abs(each.first - k.first), abs(each.second - k.second)) < plan.size // 2 for k in kept)
        if not near and len(kept) < max(1, round(_LOOPS * len(plan.chunks))):
            kept.append(each)
    return kept


def joint_pass(candidate: Candidate, plan: ChunkPlan) -> Pass:
    """The views around both ends."""
    half = min(plan.size // 2, _HALF)
    views: set[int] = set()
    for end in (candidate.first, candidate.second):
        start = min(max(end - half // 2, 0), plan.views - half)
        views |= set(range(start, start + half))
    return Pass(LOOP, tuple(sorted(views)))


def halves_agree(
    views: Sequence[View],
    first: Sequence[int],
    second: Sequence[int],
    step: int = 1,
    held: DeviceMaps = NOTHING_HELD,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """For the views `first` and `second` of one pass: the largest overlap of a view with one of the other half, and the
    share of it whose depth agrees. Every `step`-th row and column is looked at, on `device`, which has the maps `held`.
    """
    depths = [held.of(known_depth(view), device) for view in views]
    surfaces = Surfaces([VoterMap(view, depth > 0, depth) for view, depth in zip(views, depths)])
    seen = agrees = most = 0.0
    for one, other in ((first, second), (second, first)):
        for i in one:
            height, width = surfaces.voter(i).shape
            looked = -(-height // step) * -(-width // step)
            for ratio in ratios_in(surfaces, i, other, step):
                hits = (ratio > 0).sum(1)
                most = max(most, float(hits.max()) / looked)
                seen += float(hits.sum())
                agrees += float(((ratio > 0) & ((ratio - 1).abs() < _SAME)).sum())
    return most, agrees / max(seen, 1.0)


def is_loop(most: float, agree: float) -> bool:
    """Whether the result of `halves_agree` is a loop."""
    return most >= _SEEN and agree >= _AGREE


def doubt_of(agree: float) -> float:
    """The factor for the errors of a loop's edges: passes whose halves agree less are bent more."""
    return max(1.0, (1 - agree) / _FIRM)


def in_vain(accepted: Sequence[bool]) -> bool:
    """Whether no more candidates, which are weaker, are worth a pass after these, the strongest first."""
    return len(accepted) >= _IN_VAIN and not any(accepted[-_IN_VAIN:])


# --- descriptors ------------------------------------------------------------------------------------------------------


def likeness_of(features: Sequence[Features]) -> np.ndarray:
    """(N, N) float32 similarity of the descriptors of N pictures; their features are converted to floats one after the
    other, because those of thousands of pictures do not fit into memory.
    """
    words = vocabulary([keypoints_of(each) for each in features[:: max(1, len(features) // PLACES)]])
    if words is None:
        return np.zeros((len(features), len(features)), np.float32)
    vectors = centred(residuals(map(keypoints_of, features), words))
    return vectors @ vectors.T


def vocabulary(features: Sequence[Keypoints]) -> np.ndarray | None:
    """The words (W, C) of a set of pictures; None if they have too few features."""
    everything = np.concatenate([f.descriptors for f in features])
    return None if len(everything) < _WORDS else _vocabulary(everything[:: max(1, len(everything) // _SAMPLE)])


def residuals(features: Iterable[Keypoints], words: np.ndarray) -> np.ndarray:
    """(N, D) float32: sums of the residuals of each picture's features to the words."""
    return np.stack([_residuals(f.descriptors, words) for f in features])


def centred(sums: np.ndarray) -> np.ndarray:
    """Unit vectors (N, D) of `residuals` of a whole set."""
    sums = sums - sums.mean(0)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)


def _vocabulary(sample: np.ndarray) -> np.ndarray:
    """k-means from evenly spread seeds: deterministic."""
    words = sample[np.linspace(0, len(sample) - 1, _WORDS).astype(int)].copy()
    for _ in range(_ROUNDS):
        nearest = (sample @ words.T - (words**2).sum(1) / 2).argmax(1)
        for k in range(_WORDS):
            mine = sample[nearest == k]
            if len(mine):
                words[k] = mine.mean(0)
    return words


def _residuals(found: np.ndarray, words: np.ndarray) -> np.ndarray:
    sums = np.zeros_like(words)
    if len(found):
        nearest = (found @ words.T - (words**2).sum(1) / 2).argmax(1)
        np.add.at(sums, nearest, found - words[nearest])
    sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    flat = np.sign(sums) * np.sqrt(np.abs(sums))
    return flat.ravel() / max(float(np.linalg.norm(flat)), 1e-9)
