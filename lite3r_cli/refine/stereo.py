"""Depth from several pictures with known cameras: a wide sweep at a quarter of the size, then finer and narrower ones.

Wide: fronto-parallel planes, evenly spaced in inverse depth, scored by correlation with a small penalty for the
distance from the expected depth; semi-global matching selects one per pixel. Then the views exchange results: points
that another view confirms give a bonus to the hypotheses that they meet in the views that see them. Fine: a pixel may
adopt the depth of a pixel nearby if that explains the other pictures clearly better, which corrects depth edges; then a
few hypotheses around the surface are scored on windows that follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .correlation import Correlation, window_mean
from .each_view import each_view
from .semiglobal import select
from .support import Maps, seen_from, votes
from .warp import Picture

_COARSE = 4  # downscaling of the wide sweep
_PLANES = 96
_COARSE_HALF = 3  # pixels
_COARSE_TOLERANCE = 0.015
_ROUNDS = 3  # rounds of exchange between the views
_BONUS, _MOST_BONUS = 0.15, 0.45  # bonus of a hypothesis for one confirmed point, and its maximum
_COUNTS = 2**16  # integer value of a score of 1: integer sums do not depend on the order of threads
_FAR, _UNEXPECTED = 0.3, 0.2  # log depth distance from the expected one with the maximum penalty, and that penalty
_SURE = 0.5  # correlation from which one confirming view is enough
_VALLEY = 0.1  # decrease of the score that separates two peaks
_RIVAL = 0.02  # a pixel is ambiguous if its second peak is within this of the first
_SMALL, _LARGE = 0.08, 3.0  # penalties of the wide sweep
_EDGE = 0.06  # change of grey value at which the large penalty falls to a third
_FINE = ((2, 3, 4, (6, 3)), (1, 2, 2, (3,)))  # (shrink, half window, hypotheses on either side, reach nearby)
_FINE_SMALL, _FINE_LARGE = 0.05, 0.3
_STEP_PIXELS = 0.7  # motion in the neighbours, in pixels, between two fine hypotheses
_FARTHEST = 0.5  # largest relative change of inverse depth in a narrow search
_MARGIN = 0.1  # share of the score by which a neighbour's depth must be better
_TOLERANCE = 0.01


@dataclass(frozen=True)
class Surface:
    """The stereo result of a view at the size of its picture."""

    inverse: Tensor  # (h, w) inverse depth
    score: Tensor  # (h, w) correlation in 0..1
    votes: Tensor  # (h, w) number of other views with the same surface, to 1 %
    ambiguous: float  # share of clearly textured pixels with another depth of similar score


def stereo(
    pictures: Mapping[int, Picture],
    neighbours: Mapping[int, Sequence[int]],
    ranges: Mapping[int, tuple[float, float]],
    expected: Mapping[int, Tensor],
    step: Callable[[], None] = lambda: None,
) -> dict[int, Surface]:
    """The surfaces of all views that have neighbours. `ranges`: smallest and largest depth of each; `expected`: the
    likely depth (h, w), 0 = unknown.
    """
    chosen = [i for i in pictures if neighbours[i]]
    if not chosen:
        return {}
    device = pictures[chosen[0]].grey.device
    small = {i: pictures[i].shrunk(_COARSE) for i in pictures}
    likely = {i: _resize(expected[i], small[i].grey.shape) for i in chosen}
    maps, rivals = _wide(small, neighbours, {i: ranges[i] for i in chosen}, likely)
    scores: dict[int, Tensor] = {}
    for shrink, half, count, reaches in _FINE:
        fine = {i: pictures[i].shrunk(shrink) for i in pictures}

        def finer(i: int, before=maps, fine=fine, half=half, count=count, reaches=reaches) -> tuple[Tensor, Tensor]:
            match = Correlation(fine[i], [fine[j] for j in neighbours[i]], half)
            start = _resize(before[i], fine[i].grey.shape)
            found = _narrow(match, _take_over(match, start, reaches), count)
            if fine[i] is pictures[i]:
                step()
            return found

        maps, scores = _apart(each_view(chosen, device, finer))

    def surface(i: int) -> Surface:
        agree = votes(i, maps, pictures, _known(neighbours[i], maps), _TOLERANCE)
        return Surface(maps[i], scores[i], agree, _ambiguous(*rivals[i]))

    return each_view(chosen, device, surface)


def _apart(found: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The first and the second part of each view's result."""
    return {i: first for i, (first, _) in found.items()}, {i: second for i, (_, second) in found.items()}


def _ambiguous(best: Tensor, second: Tensor) -> float:
    clear = best > _SURE
    return float((clear & (second > best - _RIVAL)).sum() / clear.sum().clamp_min(1))


def _known(others: Sequence[int], maps: Maps) -> list[int]:
    return [j for j in others if j in maps]


def _resize(depth: Tensor, shape) -> Tensor:
    return F.interpolate(depth[None, None], size=tuple(shape), mode="nearest-exact")[0, 0]


# --- the wide sweep ---------------------------------------------------------------------------------------------------


def _wide(
    pictures: Mapping[int, Picture],
    neighbours: Mapping[int, Sequence[int]],
    ranges: Mapping[int, tuple[float, float]],
    expected: Mapping[int, Tensor],
) -> tuple[dict[int, Tensor], dict[int, tuple[Tensor, Tensor]]]:
    """The inverse depth of each view, and the scores of the selected and of the best rival hypothesis."""
    device = next(iter(pictures.values())).grey.device
    planes = {i: torch.linspace(1 / far, 1 / near, _PLANES, device=device) for i, (near, far) in ranges.items()}

    def volume(i: int) -> Tensor:
        match = Correlation(pictures[i], [pictures[j] for j in neighbours[i]], _COARSE_HALF)
        return match.volume(planes[i]).half()

    def pick(i: int, bonus: Tensor | float) -> tuple[Tensor, Tensor]:
        return _pick(pictures[i], planes[i], volumes[i].float(), bonus - _unexpected(planes[i], expected[i]))

    volumes = each_view(ranges, device, volume)
    maps, scores = _apart(each_view(ranges, device, lambda i: pick(i, 0.0)))
    for _ in range(_ROUNDS):

        def trust(i: int, maps=maps, scores=scores) -> Tensor:
            agree = votes(i, maps, pictures, _known(neighbours[i], maps), _COARSE_TOLERANCE)
            return ((agree >= 1) & (scores[i] > _SURE)) | (agree >= 2)

        trusted = each_view(ranges, device, trust)

        def again(i: int, maps=maps, trusted=trusted) -> tuple[Tensor, Tensor]:
            points = seen_from(i, maps, trusted, pictures, _known(neighbours[i], maps))
            return pick(i, _bonus(points, planes[i], volumes[i].shape))

        maps, scores = _apart(each_view(ranges, device, again))
    rivals = each_view(ranges, device, lambda i: (scores[i], _rival(maps[i], planes[i], volumes[i].float())))
    return maps, rivals


def _rival(inverse: Tensor, planes: Tensor, volume: Tensor) -> Tensor:
    """The best score (h, w) on other peaks than the selected one, 0 without another peak."""
    chosen = ((inverse - planes[0]) / (planes[1] - planes[0])).round()
    number = torch.arange(len(planes), device=planes.device)[:, None, None]
    rival = torch.zeros_like(inverse)
    for nearer in (True, False):
        side = number >= chosen if nearer else number <= chosen
        scores = torch.where(side, volume, 2.0)
        outwards = scores if nearer else scores.flip(0)
        valley = outwards.cummin(dim=0).values
        valley = valley if nearer else valley.flip(0)
        rival = torch.maximum(rival, torch.where(side & (volume - valley > _VALLEY), volume, 0.0).amax(dim=0))
    return rival


def _pick(picture: Picture, planes: Tensor, volume: Tensor, bonus: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depth and score (h, w) from the scores (D, h, w) of the planes and additional bonuses."""
    cost = 1 - volume - bonus
    down, right = (_SMALL + (_LARGE - _SMALL) * torch.exp(-picture.grey.diff(dim=k).abs() / _EDGE) for k in (0, 1))
    best, number = select(cost, _SMALL, down, right)
    return planes[0] + number * (planes[1] - planes[0]), volume.gather(0, best[None])[0]


def _unexpected(planes: Tensor, expected: Tensor) -> Tensor:
    """Cost (D, h, w) of the planes' distance from the expected depth (h, w)."""
    away = (planes.log()[:, None, None] + expected.clamp_min(1e-9).log()).abs()
    return torch.where(expected > 0, _UNEXPECTED * (away / _FAR).clamp(max=1), 0.0)


def _bonus(points: tuple[Tensor, Tensor, Tensor], planes: Tensor, shape) -> Tensor:
    """Bonus of confirmed points for the scores (D, h, w) of the nearest planes."""
    row, column, inverse = points
    bonus = torch.zeros(shape, device=planes.device, dtype=torch.int32)
    number = (inverse - planes[0]) / (planes[1] - planes[0])
    for offset in (-1, 0, 1):
        plane = number.round().long() + offset
        ok = (plane >= 0) & (plane < len(planes))
        worth = (_COUNTS * _BONUS * torch.exp(-((plane - number) ** 2))).round().int()
        bonus.index_put_((plane[ok], row[ok], column[ok]), worth[ok], accumulate=True)
    return (bonus / _COUNTS).clamp_(max=_MOST_BONUS)


# --- finer ------------------------------------------------------------------------------------------------------------


def _take_over(match: Correlation, inverse: Tensor, reaches: Sequence[int]) -> Tensor:
    """Each pixel adopts the depth of one nearby if that scores clearly better; `reaches`: distances in pixels, by
    round.
    """
    height, width = inverse.shape
    for reach in reaches:
        padded = F.pad(inverse[None, None], (reach,) * 4, mode="replicate")[0, 0]
        places = [(reach, reach), (0, reach), (2 * reach, reach), (reach, 0), (reach, 2 * reach)]
        choices = torch.stack([padded[y : y + height, x : x + width] for y, x in places])  # (5, h, w), its own first
        scores = window_mean(match.volume(choices), 1)
        scores[0] += _MARGIN
        inverse = choices.gather(0, scores.argmax(dim=0, keepdim=True))[0]
    return inverse


def _narrow(match: Correlation, inverse: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of 2 · count + 1 surfaces around `inverse` (h, w), with its score."""
    # where depth has little parallax, a step of one pixel would reach behind the camera
    step = min(_STEP_PIXELS / _motion(match, inverse), _FARTHEST / count)
    offsets = torch.arange(-count, count + 1, device=inverse.device) * step
    volume = match.volume(inverse * (1 + offsets)[:, None, None])
    level = inverse.log()
    down, right = (
        _FINE_SMALL + (_FINE_LARGE - _FINE_SMALL) / (1 + (level.diff(dim=k).abs() / (2 * step)) ** 2) for k in (0, 1)
    )
    best, number = select(1 - volume, _FINE_SMALL, down, right)
    return inverse * (1 + (number - count) * step), volume.gather(0, best[None])[0]


def _motion(match: Correlation, inverse: Tensor) -> float:
    """Motion of a point in pixels per relative change of depth, in the neighbour with the largest
    motion; the median.
    """
    moves = []
    for to in match.projections:
        (x, y, _), (x2, y2, _) = to(inverse), to(inverse * 1.01)
        moves.append(torch.hypot((x2 - x) * (to.size[1] / 2), (y2 - y) * (to.size[0] / 2)) * 100)
    return max(float(torch.stack(moves).amax(dim=0).median()), 1e-3)
