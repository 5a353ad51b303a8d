"""Mutations of bytes, JSON trees and word lines that are independent of the format."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence

Change = Callable[[random.Random, bytes], bytes]
EXTREME = (
    *(0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE),
    *(0xFFFFFFFF, 1 << 32, (1 << 53) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)


def flip(r: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(r.choice((1, 1, 2, 4, 16))):
        if changed:
            changed[r.randrange(len(changed))] ^= 1 << r.randrange(8)
    return bytes(changed)


def cut(r: random.Random, data: bytes) -> bytes:
    at = r.randrange(len(data) + 1)
    return data[:at] if r.random() < 0.7 else data[at:]


def repeat(r: random.Random, data: bytes) -> bytes:
    start = r.randrange(len(data) + 1)
    end = min(len(data), start + r.choice((1, 4, 12, 64, 512)))
    return data[:end] + data[start:end] * r.choice((1, 1, 2, 50)) + data[end:]


def remove(r: random.Random, data: bytes) -> bytes:
    at = r.randrange(len(data) + 1)
    return data[:at] + data[at + r.choice((1, 2, 4, 12, 64, 512)) :]


def integer(r: random.Random, data: bytes) -> bytes:
    """Write an extreme number, or one near the file's length, at a random place, more often near the start."""
    if len(data) < 8:
        return data
    size, code = r.choice(((1, "B"), (2, "H"), (4, "I"), (8, "Q")))
    last = len(data) - size + 1
    at = r.randrange(last if r.random() < 0.6 else min(last, 160))
    value = len(data) + r.randrange(-8, 9) if r.random() < 0.2 else r.choice(EXTREME)
    return data[:at] + struct.pack(r.choice("<>") + code, value & ((1 << 8 * size) - 1)) + data[at + size :]


def hole(r: random.Random, data: bytes) -> bytes:
    """A run of one byte, as a bad sector leaves it."""
    at, length = r.randrange(len(data) + 1), r.choice((16, 64, 256, 4096))
    return data[:at] + bytes([r.choice((0, 255, 90))]) * length + data[at + length :]


def junk(r: random.Random, data: bytes) -> bytes:
    at = r.randrange(len(data) + 1)
    return data[:at] + r.randbytes(r.choice((1, 2, 8, 64))) + data[at + r.choice((0, 0, 8)) :]


GENERIC: tuple[Change, ...] = (flip, flip, cut, repeat, remove, integer, integer, integer, hole, junk)


_BROKEN = (
    struct.error,
    zlib.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def mutated(r: random.Random, data: bytes, corpus: Sequence[bytes], structured: Sequence[Change] = ()) -> bytes:
    """One to three changes; those that know the format more often than not."""
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        if structured and r.random() < 0.6:
            try:
                data = r.choice(structured)(r, data)
                continue
            except _BROKEN:
                pass
        if r.random() < 0.08:
            other = r.choice(corpus)
            data = data[: r.randrange(len(data) + 1)] + other[r.randrange(len(other) + 1) :]
        else:
            data = r.choice(GENERIC)(r, data)
    return data


# --- JSON -------------------------------------------------------------------------------------------------------------

ODD = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**19, 10**400, 1e308, -0.0, 1e-320, float("nan"),
    float("inf"), float("-inf"), "", "a", "..", "../../x", "/etc/passwd", "\0", "a\0b", "\ud800", "x" * 5000, "é",
    "\x1b[31m", ".", "/", "a/b", "NaN", "1e5", [], {}, [[]], [None], {"": {}}, [1, [2, [3]]], [[1, 2, 3, 4]] * 3,
    [[1, 2, 3]] * 3, "depth/a.png", "1", 0.5,
)  # fmt: skip

_DEEP = tuple(a * depth + "1" + b * depth for a, b in ("[]", ('{"a":', "}")) for depth in (300, 900))
_HERE = "a value that is nested deeply"


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def json_changed(r: random.Random, value):
    """One change in a copy of a JSON value."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    path = r.choice(places[:40] if r.random() < 0.5 else places)
    new = _HERE if r.random() < 0.03 else r.choice(ODD)
    if not path:
        return new if r.random() < 0.3 else value
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, old = path[-1], parent[path[-1]]
    what = r.randrange(6)
    if what == 0:
        del parent[key]
    elif what == 1 and isinstance(parent, dict):
        parent[r.choice(("", "..", "../x", "\0", "a" * 3000, "\x1b[2J", "NaN", "0"))] = parent.pop(key)
    elif what == 2 and isinstance(parent, list):
        parent.insert(r.randrange(len(parent) + 1), old)
    elif what == 3 and isinstance(old, (int, float)) and not isinstance(old, bool) and abs(old) < 1e6:
        parent[key] = r.choice((old * -1, old * 0, old * 10**18, old * 1e300, str(old), [old], old + 0.5))
    else:
        parent[key] = new
    return value


def json_bytes(r: random.Random, value) -> bytes:
    """A changed JSON value as text, sometimes with damage in the text itself."""
    for _ in range(r.choice((1, 1, 2, 3))):
        value = json_changed(r, value)
    text = json.dumps(value, ensure_ascii=r.random() < 0.8).replace(f'"{_HERE}"', r.choice(_DEEP))
    if r.random() < 0.03:
        text = "[" * r.choice((990, 100_000)) + text
    if r.random() < 0.03:
        text = r.choice(("\ufeff", "//x\n", "")) + text + r.choice((",", "\0", "{}", ""))
    data = text.encode("utf-8", "surrogatepass")
    return mutated(r, data, [data]) if r.random() < 0.15 else data


WORDS = (
    "0", "-1", "nan", "inf", "-inf", "1e400", "1e-400", "18446744073709551616", "4294967295", "2147483648",
    "99999999999", "", "x", "0x10", "1.5", "PINHOLE", "SIMPLE_RADIAL", "OPENCV", "FOO", "\0", "list", "char",
    "double", "ascii", "\x1b[2J", "../../x", "/etc/passwd",
)  # fmt: skip


def words(r: random.Random, data: bytes) -> bytes:
    """A text of numbers with some of its words replaced, and lines moved."""
    lines = data.decode("latin-1").split("\n")
    for _ in range(r.choice((1, 1, 2, 4))):
        i = r.randrange(len(lines))
        parts = lines[i].split(" ")
        what = r.randrange(6)
        if what == 0:
            del lines[i]
        elif what == 1:
            lines.insert(r.randrange(len(lines) + 1), lines[i])
        elif what == 2:
            parts.insert(r.randrange(len(parts) + 1), r.choice(parts))
            lines[i] = " ".join(parts)
        else:
            parts[r.randrange(len(parts))] = r.choice(WORDS)
            lines[i] = " ".join(parts)
        lines = lines or [""]
    return "\n".join(lines).encode("latin-1")
