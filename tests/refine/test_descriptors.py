"""Matches of descriptors against an exhaustive comparison."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.refine import descriptors
from lite3r_cli.refine.descriptors import Described, match_pairs, matches

LENGTH = 512.0


def drawn(rng: np.random.Generator, count: int, like: np.ndarray | None = None) -> np.ndarray:
    """Descriptors (count, 128) uint8 of length 512; the first ones resemble those of `like`, from little to a lot."""
    rows = rng.gamma(0.5, 1.0, (count, 128))
    if like is not None and len(like):
        shared = min(len(like), count) * 2 // 3
        chosen = rng.permutation(len(like))[:shared]
        noise = np.linspace(0, 1.2, shared)[:, None]
        rows[:shared] = like[chosen] / 30 + noise * rows[:shared]
    rows = rows * LENGTH / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.minimum(rows.round(), 255).astype(np.uint8)


def exhaustive(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mutual nearest neighbours (M, 2) by the full table of products."""
    table = first.astype(np.float64) @ second.astype(np.float64).T

    def clear(rows: np.ndarray) -> np.ndarray:
        two = np.sort(rows, axis=1)[:, -2:]
        apart = np.maximum(LENGTH**2 - two[:, 1], 0)
        return (apart < 0.64 * (LENGTH**2 - two[:, 0])) & (apart <= 0.245 * LENGTH**2)

    column, row = table.argmax(axis=1), table.argmax(axis=0)
    here = np.flatnonzero((row[column] == np.arange(len(first))) & clear(table) & clear(table.T)[column])
    return np.stack([here, column[here]], axis=1)


@pytest.mark.parametrize("by_bytes", [True, False])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 700), (63, 129), (64, 128), (65, 2), (300, 257), (1000, 1)])
def test_matches_are_those_of_an_exhaustive_comparison(sizes, by_bytes, monkeypatch):
    if not by_bytes:
        monkeypatch.setattr(descriptors, "_bytes_work", lambda: False)
    rng = np.random.default_rng(sizes[0] + 7 * sizes[1])
    first = drawn(rng, sizes[0])
    second = drawn(rng, sizes[1], first)
    found = matches(Described(first), Described(second))
    expected = exhaustive(first, second) if min(sizes) > 1 else np.zeros((0, 2), np.int64)
    np.testing.assert_array_equal(found, expected)
    assert len(found) > min(sizes) // 8 or min(sizes) < 4


def test_repeated_descriptors_match_nothing():
    rng = np.random.default_rng(1)
    own = drawn(rng, 200)
    twice = np.concatenate([own, own[50:]])  # the last 150 have a twin
    found = matches(Described(own), Described(twice))
    assert found.tolist() == [[k, k] for k in range(50)]
    assert matches(Described(twice), Described(own)).tolist() == found.tolist()


def test_pairs_are_matched_beside_each_other_in_their_order():
    rng = np.random.default_rng(2)
    first = drawn(rng, 150)
    rows = [first, drawn(rng, 90, first), np.zeros((0, 128), np.uint8), drawn(rng, 200, first)]
    pairs = [(0, 3), (1, 2), (0, 1), (1, 3)]
    found = match_pairs([Described(each) for each in rows], pairs)
    for (i, j), each in zip(pairs, found, strict=True):
        expected = exhaustive(rows[i], rows[j]) if min(len(rows[i]), len(rows[j])) else np.zeros((0, 2))
        np.testing.assert_array_equal(each, expected)
