"""Assembles passes on disk to one scene: their edges, their transforms, and the camera of every view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..cores import count_cores
from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.posed_view import View, known_depth
from .chunk_plan import CHUNK, LOOP, MAIN, SKIP, SUBSET, Pass, owners
from .loop_search import AGREE, doubt_of
from .pass_store import PassStore
from .pose_graph import NEXT, OFF, Edge, Solved, solve, spread_out, strain
from .sim3_fit import BAD, FitConfig, Tie, same_focal, tie

_MOST_THREADS = 3  # more of them wait for Python's lock: a fit is hundreds of short operations
_SHARED = 12  # maximum number of views for measuring an edge
_FEWEST = {CHUNK: 1, SUBSET: 2, SKIP: 2, LOOP: 3}  # fewest views that a pass shares with a chunk
# Squared standard deviations. On a walk of 1,000 frames the eight accepted loops have 3 to 9 (on one of 240 up to 19),
# and eight of the refused candidates, which connect other places, 594 to 4,564.
_BENT = 40.0
_NAMES = {CHUNK: "next", SUBSET: "shared", SKIP: "skip", LOOP: "loop"}


@dataclass(frozen=True)
class AssemblyConfig:
    """Switches for the ablation."""

    fit: FitConfig = FitConfig()
    focal: bool = True  # one focal length for all passes, with rescaled depth
    graph: bool = True  # False: chunks are chained, without solving the graph
    blend: bool = True  # blend poses in the overlap of two chunks
    doubt: bool = True  # loops count less whose halves agree less


@dataclass(frozen=True)
class Judged:
    """A measured edge and its verdict."""

    passes: tuple[int, int]
    kind: str
    tie: dict[str, Any] | None  # None: too few known pixels in the shared views
    verdict: str
    off: float | None = None  # distance from the solution in standard deviations

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        off = {} if self.off is None else {"off": round(self.off, 3)}
        return {"passes": list(self.passes), "kind": self.kind, **(self.tie or {}), "verdict": self.verdict, **off}


@dataclass
class Assembly:
    """One scene of several passes."""

    passes: Sequence[Pass]
    nodes: dict[int, Similarity]  # world_from_pass of its passes
    edges: list[Judged]
    focal: float | None  # as a share of the width
    facts: dict[str, Any] = field(default_factory=dict)


class Passes:
    """Reads the views of passes as they enter the scene."""

    def __init__(
        self,
        store: PassStore,
        passes: Sequence[Pass],
        bare: Callable[[int], View],
        focal: bool = True,
        used: Sequence[bool] | None = None,
    ) -> None:
        self.store, self.passes, self._bare = store, passes, bare
        used = [True] * len(passes) if used is None else used
        self.present = [set(store.views(k)) if used[k] else set() for k in range(len(passes))]
        self.focal = self._common_focal() if focal else None

    def _common_focal(self) -> float | None:
        """The median focal length of all views, as a share of the width; None if sizes or lenses differ."""
        seen = [(k, i) for k, present in enumerate(self.present) for i in sorted(present)]
        views = {i: self._bare(i) for _, i in seen}
        if len({(v.width, v.height) for v in views.values()}) > 1:
            return None
        values = [self.store.cameras(k)[0][:, 0, 0] for k, present in enumerate(self.present) if present]
        width = next(iter(views.values())).width
        return float(np.median(np.concatenate(values))) / width

    def view(self, number: int, position: int) -> View:
        """View `position` from pass `number`, which has it whole, with the common focal length."""
        return self._refocused(self.store.read(number, position, self._bare(position)))

    def sample(self, number: int, position: int) -> View:
        """The same with a sample of the maps, for any view of a pass."""
        return self._refocused(self.store.sample(number, position, self._bare(position)))

    def _refocused(self, view: View) -> View:
        return view if self.focal is None else same_focal([view], self.focal)[0]

    def both(self, i: int, j: int) -> list[int]:
        """Evenly spread views that both passes have, at most `_SHARED`."""
        shared = sorted(self.present[i] & self.present[j])
        if len(shared) <= _SHARED:
            return shared
        return [shared[round(k * (len(shared) - 1) / (_SHARED - 1))] for k in range(_SHARED)]

    def length(self, number: int) -> float:
        """The typical depth of a pass."""
        views = self.store.views(number)
        depths = [known_depth(self.sample(number, i)) for i in views[:: max(1, len(views) // 4)]]
        known = np.concatenate([d[d > 0] for d in depths])
        return float(np.median(known)) if len(known) else 1.0


def measure(passes: Passes, config: AssemblyConfig = AssemblyConfig()) -> tuple[list[Edge], list[Judged]]:
    """The edges between passes with common views, and an account of all candidates."""
    kinds = [p.kind for p in passes.passes]
    chunks = [k for k, kind in enumerate(kinds) if kind == CHUNK and passes.present[k]]
    wanted = [(i, j, CHUNK) for i, j in pairwise(chunks)]
    for k, kind in enumerate(kinds):
        if kind != CHUNK:
            others = [c for c in range(k) if kinds[c] == SUBSET] if kind == SUBSET else chunks
            near = [c for c in others if len(passes.present[k] & passes.present[c]) >= _FEWEST[kind]]
            wanted += [(c, k, kind) for c in near]
    ends = sorted({i for i, _, _ in wanted})
    with ThreadPoolExecutor(min(_MOST_THREADS, count_cores())) as pool:
        lengths = dict(zip(ends, pool.map(passes.length, ends)))
        ties = list(pool.map(lambda edge: _tied(passes, edge[0], edge[1], config.fit), wanted))
    edges, judged = [], []
    for (i, j, kind), found in zip(wanted, ties):
        verdict = BAD if found is None else found.verdict
        judged.append(Judged((i, j), _NAMES[kind], None if found is None else found.as_dict(), verdict))
        if found is not None and (verdict != BAD):
            agree = passes.store.facts(j).get(AGREE) if kind == LOOP and config.doubt else None
            edges.append(Edge(i, j, found, lengths[i], _NAMES[kind], 1.0 if agree is None else doubt_of(agree)))
    return edges, judged


def _tied(passes: Passes, i: int, j: int, config: FitConfig) -> Tie | None:
    shared = passes.both(i, j)
    first, second = ([passes.sample(k, v) for v in shared] for k in (i, j))
    return tie(first, second, config) if shared else None


def assemble(passes: Passes, config: AssemblyConfig = AssemblyConfig()) -> list[Assembly]:
    """The scenes of the passes, the largest first: one, or several if no good edge connects them."""
    edges, judged = measure(passes, config)
    wrong = _bending_loops(passes, edges) if config.graph else set()
    edges = [edge for edge in edges if not wrong & {edge.first, edge.second}]
    judged = [replace(each, verdict="contradicted") if wrong & set(each.passes) else each for each in judged]
    left = {k for k in range(len(passes.passes)) if passes.present[k]} - wrong  # those that are used
    scenes = []
    while left:
        order = sorted(left)
        local = {k: n for n, k in enumerate(order)}
        mine = [
            replace(e, first=local[e.first], second=local[e.second])
            for e in edges
            if e.first in left and e.second in left
        ]
        if not config.graph:
            mine = [e for e in mine if e.kind == "next"]
        start = spread_out(len(order), mine)
        reached = [n for n, node in enumerate(start) if node is not None]
        scenes.append(_scene(passes, [order[n] for n in reached], start, reached, mine, judged, config))
        left -= {order[n] for n in reached}
    scenes = [s for s in scenes if any(passes.passes[k].kind in MAIN for k in s.nodes)]
    return sorted(scenes, key=lambda s: -sum(passes.passes[k].kind in MAIN for k in s.nodes))


def _bending_loops(passes: Passes, edges: Sequence[Edge]) -> set[int]:
    """The loops that fit to the chunks only if the way between their ends is bent beyond its errors. Each is looked at
    alone: of several wrong ones, one would excuse another. Its doubt does not count here: it would excuse a wrong one.
    """
    way = [edge for edge in edges if edge.kind == NEXT]
    wrong = set()
    for number, each in enumerate(passes.passes):
        own = [replace(edge, doubt=1.0) for edge in edges if number in (edge.first, edge.second)]
        if each.kind == LOOP and len(own) > 1 and strain([*own, *way]) > _BENT:
            wrong.add(number)
    return wrong


def _scene(passes, which: list[int], start, reached: list[int], edges: list[Edge], judged, config) -> Assembly:
    place = {n: k for k, n in enumerate(reached)}
    inside = [e for e in edges if e.first in place and e.second in place]
    own = [replace(e, first=place[e.first], second=place[e.second]) for e in inside]
    nodes = [start[n] for n in reached]
    solved = solve(nodes, own) if config.graph else Solved(nodes, [0.0] * len(own), 0.0, 0.0)
    off = {(which[e.first], which[e.second]): value for e, value in zip(own, solved.off)}
    account = []
    for each in judged:
        if each.passes in off:
            value = off[each.passes]
            verdict = "contradicted" if value > OFF else each.verdict
            account.append(replace(each, off=value, verdict=verdict))
        elif each.passes[0] in which or each.passes[1] in which:
            account.append(each)
    return Assembly(passes.passes, dict(zip(which, solved.nodes)), account, passes.focal, solved.as_dict())


# --- the cameras ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """The views of a scene in order: their positions, the pass that provides each depth map, the cameras, and the
    factors of the depth.
    """

    positions: list[int]
    source: list[int]
    cameras: list[View]
    factors: list[float]
    unit: float = 1.0  # of length of the scene, in that of its passes' common world


def place_views(
    scene: Assembly, passes: Passes, count: int, blend: bool = True, rank: Sequence[int] | None = None
) -> Placed:
    """World: the camera of the first view, in the unit of length of its pass; first by `rank`, if that is given."""
    chunks = [k for k in sorted(scene.nodes) if passes.passes[k].kind in MAIN]
    whole = [Pass(passes.passes[k].kind, tuple(passes.store.whole(k))) for k in chunks]
    owner = owners(whole, count)
    positions = [i for i in range(count) if owner[i] >= 0]
    source = [chunks[owner[i]] for i in positions]
    cameras, factors = [], []
    known: dict[int, tuple[dict[int, int], np.ndarray, np.ndarray]] = {}
    for k in chunks:
        K, poses = passes.store.cameras(k)
        views = passes.store.views(k)
        known[k] = ({v: n for n, v in enumerate(views)}, K, scene.nodes[k].apply_to_poses(poses))
    for position, number in zip(positions, source):
        bare = passes._bare(position)
        holders = [k for k in chunks if position in known[k][0]]
        ordered = passes.passes[number].kind == CHUNK
        pose = _blended(position, holders, known, ordered) if blend else known[number][2][known[number][0][position]]
        K = known[number][1][known[number][0][position]].copy()
        factor = scene.nodes[number].scale
        if passes.focal is not None:
            ratio = passes.focal * bare.width / K[0, 0]
            K[0, 0], K[1, 1], factor = K[0, 0] * ratio, K[1, 1] * ratio, factor * ratio
        cameras.append(replace(bare, K=K, cam_from_world=pose))
        factors.append(factor)
    world = 0 if rank is None else min(range(len(positions)), key=lambda k: rank[positions[k]])
    first = scene.nodes[source[world]].scale
    rebased = geometry.rebase(np.stack([c.cam_from_world for c in cameras]), world)
    rebased[..., 3] /= first
    cameras = [replace(c, cam_from_world=pose) for c, pose in zip(cameras, rebased)]
    return Placed(positions, source, cameras, [f / first for f in factors], first)


def _blended(position: int, holders: list[int], known, ordered: bool) -> np.ndarray:
    """The pose of a view as a mean of those in its chunks; if they are `ordered`, the chunk in whose interior it lies
    has a larger weight.
    """
    weights, poses = [], []
    for k in holders:
        places, _, placed = known[k]
        n = places[position]
        weights.append(min(n, len(places) - 1 - n) + 0.5 if ordered else 1.0)
        poses.append(placed[n])
    share = np.array(weights) / sum(weights)
    rotation = sum(w * p[:, :3] for w, p in zip(share, poses))
    u, _, vt = np.linalg.svd(rotation)
    turn = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    centre = sum(w * geometry.camera_centres(p[None])[0] for w, p in zip(share, poses))
    return np.concatenate([turn, (-turn @ centre)[:, None]], axis=1)
