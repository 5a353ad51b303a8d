"""Maps as bytes: exact, little more than a byte a pixel for a surface, and refused where a byte is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.io.regular import BadImage
from lite3r_cli.long.map_codec import packed, unpacked

MOST = 10_000


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (31, 1), (37, 53)])
def test_every_value_comes_back(kind, shape):
    rng = np.random.default_rng(0)
    for values in (rng.integers(0, np.iinfo(kind).max + 1, shape), np.full(shape, np.iinfo(kind).max)):
        values = values.astype(kind)
        back = unpacked(packed(values), values.itemsize, MOST)
        assert back.dtype == kind and (back == values).all()


def test_the_high_bytes_of_a_noisy_surface_take_little():
    rows, columns = np.mgrid[:80, :100]
    values = (9000 + 40 * rows + 25 * columns + np.random.default_rng(0).normal(0, 6, rows.shape)).astype(np.uint16)
    assert len(packed(values)) < 1.3 * values.size


def test_other_bytes_are_refused():
    good = packed(np.arange(60, dtype=np.uint16).reshape(6, 10))
    larger = packed(np.zeros((200, 200), np.uint16))
    wrong = [b"", good[:12], good[:-3], good + b"x", b"PNG " + good[4:], good[:-1] + bytes([good[-1] ^ 1]), larger]
    wrong += [good[:30] + bytes([good[30] ^ 1]) + good[31:], good + good[13:]]  # a low byte, a plane too many
    wrong += [good[:5] + (7).to_bytes(4, "little") + good[9:]]  # one row more than there are bytes
    for data in wrong:
        with pytest.raises(BadImage):
            unpacked(data, 2, MOST)
    with pytest.raises(BadImage):
        unpacked(good, 1, MOST)
