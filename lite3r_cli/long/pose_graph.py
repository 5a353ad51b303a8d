"""Pose graph of similarity transforms of all passes, solved by Gauss–Newton.

Edges between neighbours in order are trusted (a quadratic loss): drift is small everywhere. Other edges may be wrong
and have a Cauchy loss. After a long path, a true loop is initially many standard deviations off. So the loss starts so
wide that all edges count, and narrows (graduated non-convexity, Yang et al., RA-L 2020): small changes of many edges
satisfy a true loop, a false one stays off and loses its weight.

A node is a pass with its own world; an edge is the relative transform of two passes. The residual of an edge is r =
(log of the rotation, translation, log of the scale) of measured⁻¹ · node_i⁻¹ · node_j, each divided by the usual error
of such an edge: the scale is known less well than the rotation, and loops, whose views are far apart, less well than
neighbours. A few hundred nodes have a few thousand unknowns, so dense normal equations are solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from .sim3_fit import Tie, chain, inverse

_ROUNDS, _FEW_ROUNDS, _STEP = 60, 15, 1e-6
_FINE, _ROUGH = 1e-9, 1e-3  # smallest gain of a step, relative to the cost: of the solution, of a test
_WIDTH = 8.0  # final width of the Cauchy loss in standard deviations
_LEAST_RESIDUAL = 0.004  # of the best edges
# standard deviations for a residual of 1, measured on a walk of 1,000 frames: rotation in radians, translation in
# depths, logarithm of the scale; and the factors of weak and bad edges and of loops
_SIGMAS = (0.5, 0.5, 2.0)
_DOUBT = {"good": 1.0, "weak": 1.5}
_WORST_DOUBT, _FAR_DOUBT = 4.0, 2.0
NEXT, SHARED = "next", "shared"  # the kinds of edges between neighbours in order, and between overlapping subsets
OFF = 12.0  # standard deviations from which an edge contradicts the solution


@dataclass(frozen=True)
class Edge:
    """`tie.similarity` maps pass `second` into the world of pass `first`; `length` is the typical depth there."""

    first: int
    second: int
    tie: Tie
    length: float
    kind: str  # "next", "skip", "loop"
    doubt: float = 1.0  # factor for its errors

    @property
    def sigma(self) -> float:
        """The residual, increased for edges that are less sure; errors are proportional to it."""
        far = 1.0 if self.kind in (NEXT, SHARED) else _FAR_DOUBT
        return max(self.tie.residual, _LEAST_RESIDUAL) * _DOUBT.get(self.tie.verdict, _WORST_DOUBT) * far * self.doubt


@dataclass(frozen=True)
class Solved:
    """World_from_pass for every node, and the residuals of the edges."""

    nodes: list[Similarity]
    off: list[float]  # per edge: standard deviations between measurement and solution
    before: float  # cost at the start and of the solution
    after: float

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        return {"cost_before": round(self.before, 4), "cost_after": round(self.after, 4)}


def spread_out(count: int, edges: Sequence[Edge]) -> list[Similarity | None]:
    """The nodes along the maximum spanning tree from node 0; None for unconnected ones."""
    nodes: list[Similarity | None] = [None] * count
    nodes[0] = Similarity(1.0, np.eye(3), np.zeros(3))
    left = sorted(edges, key=lambda e: (e.kind != "next", e.sigma))
    while True:
        for edge in left:
            i, j, m = edge.first, edge.second, edge.tie.similarity
            if nodes[i] is not None and nodes[j] is None:
                nodes[j] = chain(nodes[i], m)  # type: ignore[arg-type]
                break
            if nodes[j] is not None and nodes[i] is None:
                nodes[i] = chain(nodes[j], inverse(m))  # type: ignore[arg-type]
                break
        else:
            return nodes


def solve(nodes: Sequence[Similarity], edges: Sequence[Edge]) -> Solved:
    """The most likely nodes; the first one is fixed."""
    state = np.stack([_matrix(node) for node in nodes])
    if not edges or len(nodes) < 2:
        return Solved(list(nodes), [0.0] * len(edges), 0.0, 0.0)
    system = _System(edges, len(nodes))
    before = system.cost(state)
    system.width = max(_WIDTH, float(np.linalg.norm(system.residuals(state), axis=1).max()))
    while system.width > _WIDTH:
        state = _descend(system, state, _ROUNDS // 6)
        system.width = max(_WIDTH, system.width / 2)
    state = _descend(system, state, _ROUNDS)
    off = np.linalg.norm(system.residuals(state), axis=1)
    return Solved([_similarity(m) for m in state], off.tolist(), before, system.cost(state))


def strain(edges: Sequence[Edge]) -> float:
    """How much edges contradict each other: the smallest sum of squared residuals of those that are connected with the
    first one, in standard deviations and without a robust loss.
    """
    names = dict.fromkeys(node for edge in edges for node in (edge.first, edge.second))
    place = {name: k for k, name in enumerate(names)}
    own = [replace(edge, first=place[edge.first], second=place[edge.second]) for edge in edges]
    start = spread_out(len(place), own)
    reached = {k: n for n, k in enumerate(k for k, node in enumerate(start) if node is not None)}
    own = [replace(e, first=reached[e.first], second=reached[e.second]) for e in own if e.first in reached]
    system = _System(own, len(reached))
    system.sure[:] = True
    state = np.stack([_matrix(node) for node in start if node is not None])
    return system.cost(_descend(system, state, _FEW_ROUNDS, _ROUGH))


def _descend(system: _System, state: np.ndarray, rounds: int, least: float = _FINE) -> np.ndarray:
    """Levenberg–Marquardt, until a step lowers the cost by less than a share `least` of it."""
    cost, damping = system.cost(state), 1e-6
    for _ in range(rounds):
        step = system.step(state, damping)
        moved = state @ _exponential(step)
        changed = system.cost(moved)
        if changed <= cost:
            gain, state, cost, damping = cost - changed, moved, changed, max(damping / 10, 1e-9)
            if gain <= least * max(cost, 1e-12):
                break
        else:
            damping *= 30
            if damping > 1e6:
                break
    return state


class _System:
    def __init__(self, edges: Sequence[Edge], count: int) -> None:
        self.count, self.width = count, _WIDTH
        self.sure = np.array([e.kind == NEXT for e in edges])
        self.i, self.j = (np.array([getattr(e, name) for e in edges]) for name in ("first", "second"))
        self.measured = np.linalg.inv(np.stack([_matrix(e.tie.similarity) for e in edges]))
        sigma, length = np.array([e.sigma for e in edges]), np.array([e.length for e in edges])
        ones = np.ones_like(sigma)
        scaled = length / np.array([e.tie.similarity.scale for e in edges])  # translation in the second world
        turn, shift, scale = _SIGMAS
        self.sigma = sigma[:, None] * np.stack([turn * ones] * 3 + [shift * scaled] * 3 + [scale * ones], axis=1)

    def residuals(self, state: np.ndarray) -> np.ndarray:
        """(E, 7) in standard deviations."""
        return _logarithm(self.measured @ np.linalg.inv(state[self.i]) @ state[self.j]) / self.sigma

    def cost(self, state: np.ndarray) -> float:
        squared = (self.residuals(state) ** 2).sum(1)
        doubted = self.width**2 * np.log1p(squared / self.width**2)
        return float(np.where(self.sure, squared, doubted).sum())

    def step(self, state: np.ndarray, damping: float) -> np.ndarray:
        """(N, 7) of one damped Gauss–Newton step; the derivatives are central differences."""
        relative = np.linalg.inv(state[self.i]) @ state[self.j]
        r = _logarithm(self.measured @ relative) / self.sigma
        root = np.sqrt(np.where(self.sure, 1.0, 1 / (1 + (r**2).sum(1) / self.width**2)))
        moved_i = self.measured @ _BACK[:, None] @ relative  # (14, E, 4, 4)
        moved_j = self.measured @ relative @ _AHEAD[:, None]
        values = _logarithm(np.concatenate([moved_i, moved_j]).reshape(-1, 4, 4)).reshape(2, 2, 7, len(r), 7)
        change = (values[:, 0] - values[:, 1]) / (2 * _STEP) / self.sigma  # end, direction, edge, residual
        jacobian = change.transpose(2, 3, 0, 1).reshape(len(r), 7, 14) * root[:, None, None]
        blocks = jacobian.transpose(0, 2, 1) @ jacobian  # (E, 14, 14)
        pull = -(jacobian.transpose(0, 2, 1) @ (root[:, None] * r)[..., None])[..., 0]
        size = 7 * self.count
        normal, right = np.zeros((size, size)), np.zeros(size)
        ends = np.stack([self.i, self.j], axis=1)
        places = (7 * ends[..., None] + np.arange(7)).reshape(-1, 14)
        for place, block, force in zip(places, blocks, pull):  # both ends of an edge differ
            normal[place[:, None], place] += block
            right[place] += force
        free = normal[7:, 7:]
        free[np.diag_indices_from(free)] += damping * np.maximum(np.diag(free), 1e-9)
        return np.concatenate([np.zeros(7), np.linalg.solve(free, right[7:])]).reshape(-1, 7)


# --- similarity transforms as matrices (…, 4, 4), and as seven numbers: rotation, translation, logarithm of the scale


def _matrix(s: Similarity) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = s.scale * s.rotation, s.translation
    return matrix


def _similarity(matrix: np.ndarray) -> Similarity:
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    u, _, vt = np.linalg.svd(matrix[:3, :3] / scale)
    return Similarity(scale, u @ vt, matrix[:3, 3].copy())


def _logarithm(matrix: np.ndarray) -> np.ndarray:
    """(E, 7); the translation is used directly."""
    scale = np.cbrt(np.linalg.det(matrix[:, :3, :3]))
    q = geometry.quaternion_from_matrix(matrix[:, :3, :3] / scale[:, None, None])
    length = np.linalg.norm(q[:, :3], axis=1)
    angle = 2 * np.arctan2(length, q[:, 3])
    factor = np.where(length > 1e-12, angle / np.maximum(length, 1e-12), 2.0)
    return np.concatenate([q[:, :3] * factor[:, None], matrix[:, :3, 3], np.log(scale)[:, None]], axis=1)


def _exponential(step: np.ndarray) -> np.ndarray:
    """(N, 4, 4) of (N, 7)."""
    angle = np.linalg.norm(step[:, :3], axis=1)
    half = np.where(angle > 1e-12, np.sin(angle / 2) / np.maximum(angle, 1e-12), 0.5)
    q = np.concatenate([step[:, :3] * half[:, None], np.cos(angle / 2)[:, None]], axis=1)
    matrix = np.tile(np.eye(4), (len(step), 1, 1))
    matrix[:, :3, :3] = geometry.matrix_from_quaternion(q) * np.exp(step[:, 6])[:, None, None]
    matrix[:, :3, 3] = step[:, 3:6]
    return matrix


_AHEAD = _exponential(np.concatenate([_STEP * np.eye(7), -_STEP * np.eye(7)]))  # (14, 4, 4) small steps
_BACK = np.linalg.inv(_AHEAD)
