"""Unordered photographs: an order in which neighbours overlap, and subsets that are predicted together.

Matches between pictures form a graph. The order is a walk along its maximum spanning tree from one end to the other. It
is divided into blocks. Each block is predicted together with views of earlier blocks: those with the strongest matches
to it, with a preference for views that several blocks share already (hubs; S-VGGT and MERG3R share such views among all
subsets). So a subset is connected to all that shows the same place, anywhere in the order, and no loop search is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..world.ties import Keypoints, evidence
from .chunk_plan import SUBSET, ChunkPlan, Pass, overlap_of

ASKED = 16  # most similar pictures that each one is matched with
_STRONGEST = 200.0  # evidence beyond which the weight of a match does not grow
_HUB = 1.5  # factor for a view that subsets already share

Near = Mapping[int, Mapping[int, float]]  # picture → connected pictures with weights above 0


@dataclass(frozen=True)
class Subsets:
    """A plan for unordered pictures; its positions are those in `order`."""

    order: tuple[int, ...]  # pictures of the set, without unrelated ones
    plan: ChunkPlan
    near: Near = field(repr=False)  # of positions

    def around(self, own: Sequence[int], count: int) -> list[int]:
        """At most `count` positions with the strongest connections to those of `own`, in order."""
        return sorted(_most_tied(self.near, own, count))


def pairs_to_ask(likeness: np.ndarray) -> list[tuple[int, int]]:
    """Pairs i < j: each picture with the `ASKED` most similar others; `likeness` (N, N) of descriptors."""
    likeness = likeness.copy()
    np.fill_diagonal(likeness, -np.inf)
    most = min(ASKED, len(likeness) - 1)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :most]
    return sorted({(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist()) for j in row})


def ties_among(
    features: Sequence[Keypoints], pairs: Iterable[tuple[int, int]], least: float
) -> Iterator[tuple[tuple[int, int], float]]:
    """The pairs whose evidence (world/ties.py) is below `least`, and the evidence."""
    for i, j in pairs:
        told = evidence(features[i], features[j])
        if told < least:
            yield (i, j), told


def strength(told: float) -> float:
    """The weight of a connection from its evidence."""
    return min(-told, _STRONGEST)


def nearness(ties: Mapping[tuple[int, int], float]) -> dict[int, dict[int, float]]:
    """The connections (i, j) → weight, for each picture."""
    near: dict[int, dict[int, float]] = {}
    for (i, j), weight in ties.items():
        near.setdefault(i, {})[j] = weight
        near.setdefault(j, {})[i] = weight
    return near


def seriated(members: Sequence[int], near: Near) -> list[int]:
    """Connected pictures in an order in which each is near its predecessors: the maximum spanning tree from one end of
    its longest path, small branches first. Independent of the order of `members`, except for equal weights.
    """
    tree = _strongest_tree(members, near)
    start = _farthest(tree, _farthest(tree, members[0]))
    sizes, order = _sizes(tree, start), []
    stack: list[tuple[int, int | None]] = [(start, None)]
    while stack:
        here, parent = stack.pop()
        order.append(here)
        children = [c for c in tree[here] if c != parent]
        stack += [(c, here) for c in sorted(children, key=lambda c: -sizes[c])]  # the last one is taken first
    return order


def plan_subsets(groups: Sequence[Sequence[int]], near: Near, size: int, reason: str) -> Subsets:
    """Subsets of at most `size` pictures of each connected group. `near` is that of pictures."""
    order = [i for group in groups for i in seriated(group, near)]
    place = {i: position for position, i in enumerate(order)}
    moved = {place[i]: {place[j]: w for j, w in row.items() if j in place} for i, row in near.items() if i in place}
    shared = overlap_of(size)
    passes: list[Pass] = []
    first = 0
    for group in groups:
        passes += _subsets_of(range(first, first + len(group)), moved, size, shared)
        first += len(group)
    return Subsets(tuple(order), ChunkPlan(len(order), size, shared, tuple(passes), reason), moved)


def _subsets_of(positions: range, near: Near, size: int, shared: int) -> Iterator[Pass]:
    count = len(positions)
    number = 1 if count <= size else 1 + -(-(count - size) // (size - shared))
    first = min(size, count)
    cuts = [first + round(k * (count - first) / max(number - 1, 1)) for k in range(number)]
    used: dict[int, int] = {}
    start = 0
    for cut in cuts:
        own = list(positions[start:cut])
        others = _borrowed(near, own, positions[:start], min(shared, start), used) if start else []
        for i in others:
            used[i] = used.get(i, 0) + 1
        views = [*own, *others]
        inside = {i: sum(w for j, w in near.get(i, {}).items() if j in set(views)) for i in views}
        reference = max(views, key=lambda i: (inside[i], -i))  # the network's frame is that of the first view
        yield Pass(SUBSET, (reference, *(i for i in views if i != reference)))
        start = cut


def _borrowed(near: Near, own: Sequence[int], earlier: Sequence[int], count: int, used: Mapping[int, int]) -> list[int]:
    """Views of earlier blocks for a block: one by one, the view that adds most connections, with less weight for
    pictures that are already connected; neighbours in order if there are too few connections.
    """
    allowed, tied = set(earlier), dict.fromkeys(own, 1.0)
    chosen: list[int] = []
    rows = {i: {j: w for j, w in near.get(i, {}).items() if j in allowed} for i in own}
    while len(chosen) < count:
        gain: dict[int, float] = {}
        for i, row in rows.items():
            for j, weight in row.items():
                gain[j] = gain.get(j, 0.0) + weight / tied[i] * (_HUB if j in used else 1.0)
        if not gain:
            return [*chosen, *[j for j in reversed(earlier) if j not in chosen][: count - len(chosen)]]
        best = min(gain, key=lambda j: (-gain[j], j))
        chosen.append(best)
        for i, row in rows.items():
            tied[i] += row.pop(best, 0.0)
    return chosen


def _most_tied(near: Near, own: Sequence[int], count: int) -> list[int]:
    inside, sums = set(own), dict[int, float]()
    for i in own:
        for j, weight in near.get(i, {}).items():
            if j not in inside:
                sums[j] = sums.get(j, 0.0) + weight
    return sorted(sums, key=lambda j: (-sums[j], j))[:count]


# --- the tree ---------------------------------------------------------------------------------------------------------


def _strongest_tree(members: Sequence[int], near: Near) -> dict[int, list[int]]:
    """Neighbours in the maximum spanning tree (Kruskal). Raises ValueError if the members are not connected."""
    inside = set(members)
    edges = sorted((-w, i, j) for i in members for j, w in near.get(i, {}).items() if i < j and j in inside)
    parent = {i: i for i in members}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    tree: dict[int, list[int]] = {i: [] for i in members}
    for _, i, j in edges:
        if root(i) != root(j):
            parent[root(i)] = root(j)
            tree[i].append(j)
            tree[j].append(i)
    if sum(map(len, tree.values())) != 2 * (len(members) - 1):
        raise ValueError("the images do not hang together")
    return tree


def _farthest(tree: Mapping[int, Sequence[int]], start: int) -> int:
    """A node with the largest number of steps from `start`."""
    seen, last = {start}, [start]
    while True:
        following = [c for i in last for c in tree[i] if c not in seen]
        if not following:
            return min(last)
        seen |= set(following)
        last = following


def _sizes(tree: Mapping[int, Sequence[int]], start: int) -> dict[int, int]:
    """Number of nodes below each one, including itself."""
    order, parent = [start], {start: start}
    for i in order:
        for c in tree[i]:
            if c != parent[i]:
                parent[c] = i
                order.append(c)
    sizes = dict.fromkeys(order, 1)
    for i in reversed(order[1:]):
        sizes[parent[i]] += sizes[i]
    return sizes
