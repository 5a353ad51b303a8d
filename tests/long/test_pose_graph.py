"""A loop that is closed takes the drift out of the way; one that is wrong does not pull the rest along."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lite3r_cli.long.assembly import _bending_loops
from lite3r_cli.long.chunk_plan import CHUNK, LOOP, Pass
from lite3r_cli.long.pose_graph import Edge, solve, spread_out, strain
from lite3r_cli.long.sim3_fit import GOOD, Tie, chain, inverse
from lite3r_cli.scene.geometry import Similarity

NODES = 14


def turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def ring() -> list[Similarity]:
    """World_from_pass of passes along a circle, each with a scale of its own."""
    angles = np.arange(NODES) * 2 * np.pi / NODES
    places = np.stack([5 * np.sin(angles), 0.1 * angles, 5 - 5 * np.cos(angles)], 1)
    return [Similarity(1 + 0.3 * np.sin(k), turn(a), p) for k, (a, p) in enumerate(zip(angles, places))]


def edge(nodes, i: int, j: int, kind: str, error: Similarity | None = None, residual: float = 0.01) -> Edge:
    measured = chain(inverse(nodes[i]), nodes[j])
    measured = measured if error is None else chain(measured, error)
    return Edge(i, j, Tie(measured, residual, 0.9, 1000, 8, 0.5, GOOD), 3.0, kind)


def drifting(nodes) -> list[Edge]:
    drift = Similarity(1.02, turn(0.02), np.array([0.03, 0.01, 0.0]))
    return [edge(nodes, k, k + 1, "next", drift, 0.02) for k in range(NODES - 1)]


def errors(found, truth) -> np.ndarray:
    first = chain(truth[0], inverse(found[0]))
    return np.array([np.linalg.norm(chain(first, f).translation - t.translation) for f, t in zip(found, truth)])


def test_a_loop_takes_most_of_the_drift_away():
    truth = ring()
    edges = drifting(truth)
    start = spread_out(NODES, edges)
    closed = [*edges, edge(truth, 0, NODES - 1, "loop", residual=0.02)]
    without, with_loop = solve(start, edges), solve(spread_out(NODES, closed), closed)
    assert errors(without.nodes, truth).max() > 1.0
    assert errors(with_loop.nodes, truth).max() < 0.35 * errors(without.nodes, truth).max()
    assert max(with_loop.off) < 6


def test_exact_edges_are_met_exactly_from_a_bad_start():
    truth = ring()
    edges = [edge(truth, k, k + 1, "next") for k in range(NODES - 1)] + [edge(truth, 0, NODES - 1, "loop")]
    start = [Similarity(1.0, np.eye(3), np.array([0.1 * k, 0, 0])) for k in range(NODES)]
    start[1:] = [chain(n, Similarity(1.1, turn(0.1), np.ones(3) * 0.1)) for n in spread_out(NODES, edges)[1:]]
    start[0] = spread_out(NODES, edges)[0]
    assert errors(solve(start, edges).nodes, truth).max() < 1e-4


def test_one_false_loop_is_contradicted_and_does_not_pull():
    truth = ring()
    edges = [edge(truth, k, k + 1, "next") for k in range(NODES - 1)]
    good = [edge(truth, 0, NODES - 1, "loop"), edge(truth, 1, NODES - 2, "loop")]
    false = edge(truth, 3, 10, "loop", Similarity(1.4, turn(1.0), np.array([4.0, 0, 2.0])))
    closed = [*edges, *good, false]
    found = solve(spread_out(NODES, closed), closed)
    assert errors(found.nodes, truth).max() < 0.1
    assert found.off[-1] == pytest.approx(max(found.off)) and found.off[-1] > 10


def test_a_wrong_loop_strains_the_way_and_one_that_corrects_its_drift_does_not():
    truth = ring()
    way = drifting(truth)

    def loop(first: int, second: int, error: Similarity | None = None) -> list[Edge]:
        """The edges of a pass, node NODES, that has views of two chunks."""
        nodes = [*truth, truth[first]]
        return [edge(nodes, first, NODES, "loop", residual=0.02), edge(nodes, second, NODES, "loop", error, 0.02)]

    assert strain([*loop(0, NODES - 1), *way]) < 40
    elsewhere = Similarity(1.0, turn(1.5), np.array([8.0, 0, 3.0]))
    assert strain([*loop(2, 6, elsewhere), *way]) > 100
    assert strain([*loop(2, 6, elsewhere), *way[:4]]) < 1e-6, "nothing contradicts a loop to a part that is not reached"


def test_a_doubted_loop_that_bends_the_way_is_left_out():
    truth = ring()
    way, nodes = drifting(truth), [*truth, truth[2]]
    passes = [*[Pass(CHUNK, ())] * NODES, Pass(LOOP, ())]
    for error, wrong in ((None, set()), (Similarity(1.0, turn(0.3), np.array([2.0, 0, 0.8])), {NODES})):
        ends = [edge(nodes, 2, NODES, "loop", residual=0.02), edge(nodes, 6, NODES, "loop", error, 0.02)]
        doubted = [replace(each, doubt=4.0) for each in ends]
        assert _bending_loops(SimpleNamespace(passes=passes), [*way, *doubted]) == wrong


def test_what_no_edge_reaches_has_no_place():
    truth = ring()
    edges = [e for e in drifting(truth) if 5 not in (e.first, e.second)]
    assert [node is not None for node in spread_out(NODES, edges)] == [k < 5 for k in range(NODES)]
