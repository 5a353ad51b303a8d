"""Safetensors files written tensor by tensor: the header is known before the first value is, so nothing is held.

The library's own writer needs all tensors at once. Tensors lie in the order of falling element
size, so that each is aligned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from lite3r_cli.checkpoints.sources import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # of the header's end


@dataclass(frozen=True)
class Slot:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class SafetensorsWriter:
    """`with SafetensorsWriter(path, slots, metadata) as out: out.write(name, tensor)` for each slot, in any order.

    The same slots, metadata and values give the same bytes. Raises OSError; leaving with a slot
    unwritten raises ValueError.
    """

    def __init__(self, path: Path, slots: Sequence[Slot], metadata: Mapping[str, str]):
        self.path = path
        self._slots = {slot.name: slot for slot in slots}
        self._offsets: dict[str, int] = {}
        header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
        end = 0
        for slot in sorted(slots, key=lambda slot: (-slot.dtype.itemsize, slot.name)):
            start, end = end, end + slot.nbytes
            self._offsets[slot.name] = start
            header[slot.name] = {"dtype": NAMES[slot.dtype], "shape": list(slot.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._header = len(text).to_bytes(8, "little") + text
        self.size = len(self._header) + end
        self._file: BinaryIO | None = None

    def __enter__(self) -> SafetensorsWriter:
        self._file = self.path.open("wb", buffering=0)
        _write_all(self._file, memoryview(self._header))
        self._file.truncate(self.size)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor into its place."""
        slot = self._slots.pop(name)
        if tensor.dtype != slot.dtype or tuple(tensor.shape) != slot.shape:
            raise ValueError(
                f"{name}: announced as {slot.dtype} {slot.shape}, given {tensor.dtype} {tuple(tensor.shape)}"
            )
        self._file.seek(len(self._header) + self._offsets[name])
        if slot.nbytes:
            _write_all(self._file, memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._slots:
            raise ValueError(f"{self.path}: {len(self._slots)} tensors were announced but not written")


def _write_all(file: BinaryIO, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += file.write(data[done:])


def split_into_shards(slots: Sequence[Slot], limit: int) -> list[list[Slot]]:
    """Slots in order, cut so that no part is above `limit` bytes, a larger tensor alone in its own."""
    parts: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        if parts[-1] and size + slot.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append(slot)
        size += slot.nbytes
    return parts
