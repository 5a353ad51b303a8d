"""The writer of all checkpoints: safetensors, one file or shards, which replace older files atomically.

A file is written tensor by tensor, because the header is known in advance (safetensors' own writer needs all tensors
in memory). All files are written to a hidden folder next to the output, and a journaled transaction moves them into
place, the file to load last. Until then the old checkpoint is complete; then it is removed with all its shards.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from lite3r_cli.checkpoints.shards import INDEX_SUFFIX, read_index
from lite3r_cli.checkpoints.tensor_sources import DTYPES
from lite3r_cli.config.distill_recipe import CHECKPOINT_SUFFIX
from lite3r_cli.errors import OutputError, WeightsError
from lite3r_cli.io.files import output_error
from lite3r_cli.io.locks import in_the_way
from lite3r_cli.io.mounts import require_no_mounts
from lite3r_cli.io.same_entry import is_same_entry
from lite3r_cli.io.transaction import Transaction, recover

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # the length of the header is a multiple of this


@dataclass(frozen=True)
class Slot:
    """Name, dtype and shape of a tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as it is stored."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class SafetensorsWriter:
    """`with SafetensorsWriter(path, slots, metadata) as out: out.write(name, tensor)` for each slot, in any order.

    Deterministic: the same slots, metadata and values give the same bytes. Raises OSError, or ValueError if the block
    ends before all slots are written.
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
        self._file = self.path.open("xb", buffering=0)
        _write_all(self._file, memoryview(self._header))
        self._file.truncate(self.size)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor. Raises ValueError if dtype or shape differ from its slot."""
        slot = self._slots.pop(name)
        if tensor.dtype != slot.dtype or tuple(tensor.shape) != slot.shape:
            raise ValueError(
                f"{name}: announced as {slot.dtype} {slot.shape}, given {tensor.dtype} {tuple(tensor.shape)}"
            )
        assert self._file is not None
        self._file.seek(len(self._header) + self._offsets[name])
        if slot.nbytes:
            _write_all(self._file, tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None and self._slots:
            raise ValueError(f"{self.path}: {len(self._slots)} tensors were announced but not written")


class CheckpointWriter:
    """`with CheckpointWriter(output, slots, metadata) as out: out.write(name, tensor)` for each slot, in any order.

    The checkpoint appears when the block ends without an error: one file, or shards of at most `shard_bytes` and their
    index. `overwrite` allows replacing an older checkpoint, including the shards of its index. `beside` are small files
    that are written with it (name → content); `gone` are names of further old files to remove. Files in `sources` are
    never replaced. Raises OutputError.
    """

    def __init__(
        self,
        output: Path,
        slots: Sequence[Slot],
        metadata: Mapping[str, str],
        *,
        shard_bytes: int | None = None,
        overwrite: bool = False,
        sources: Iterable[Path] = (),
        beside: Mapping[str, bytes] | None = None,
        gone: Sequence[str] = (),
    ) -> None:
        self.output, self.metadata, self.overwrite, self.gone = output, metadata, overwrite, gone
        self.sources = tuple(sources)
        self.beside = dict(beside or {})
        self.total = sum(slot.nbytes for slot in slots)
        whole = shard_bytes is None or self.total <= shard_bytes
        self.parts = [list(slots)] if whole else split_into_shards(slots, shard_bytes or 0)
        self.names = _file_names(output, len(self.parts))  # the file to load first
        self._files = Transaction(output.parent, output.name, _beside)
        self._open = ExitStack()
        self._writers: dict[str, SafetensorsWriter] = {}

    @property
    def files(self) -> list[Path]:
        """All files of the checkpoint, the one to load first."""
        return [self.output.with_name(name) for name in self.names]

    def __enter__(self) -> CheckpointWriter:
        self._files.__enter__()
        try:
            refuse_existing(self.output, self.overwrite, self.sources, self.names)
            require_space(self.output, self.total)
            for name, part in zip(self.names[-len(self.parts) :], self.parts):
                writer = self._open.enter_context(SafetensorsWriter(self._files.new / name, part, self.metadata))
                self._writers |= {slot.name: writer for slot in part}
        except BaseException as error:
            self._open.__exit__(type(error), error, error.__traceback__)
            self._files.leave()
            if isinstance(error, OSError):
                raise output_error(self.output, error) from error
            raise
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor. Raises ValueError if dtype or shape differ from its slot."""
        try:
            self._writers[name].write(name, tensor)
        except OSError as error:  # an error of a write does not name its file
            raise output_error(self.output, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
            if kind is None:
                self._commit()
        except OSError as failure:
            raise output_error(self.output, failure) from failure
        finally:
            self._files.__exit__(kind, error, trace)

    def _commit(self) -> None:
        new = self._files.new
        if len(self.parts) > 1:
            names = self.names[1:]
            weight_map = {slot.name: name for name, part in zip(names, self.parts) for slot in part}
            index = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(weight_map.items()))}
            _write_new(new / self.names[0], (json.dumps(index, indent=1) + "\n").encode())
        for name, content in self.beside.items():
            _write_new(new / name, content)
        old = (*old_files(self.output), *self.names, *self.beside, *self.gone)
        self._files.commit(list(dict.fromkeys(old)), self.names[0])


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    beside: Mapping[str, bytes] | None = None,
    gone: Sequence[str] = (),
) -> None:
    """Write tensors in their dtypes, replacing an older file. See CheckpointWriter. Raises OutputError."""
    slots = [Slot(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    with CheckpointWriter(path, slots, metadata, overwrite=True, beside=beside, gone=gone) as out:
        for name, tensor in tensors.items():
            out.write(name, tensor)


def old_files(output: Path) -> list[str]:
    """Names of the existing files of a checkpoint at `output`, the one to load first: an index with its shards, and the
    file itself.

    Shards only count if their names have the form that this writer (and the hub) use, with their number, because an
    index may list any file next to it. The shards of an index that cannot be read are unknown and stay.
    """
    index = output.with_name(output.stem + INDEX_SUFFIX)
    found = []
    if _is_file(index):
        try:
            shards = set(read_index(index).values())
            shard = re.compile(rf"{re.escape(output.stem)}-\d{{5}}-of-{len(shards):05d}{re.escape(CHECKPOINT_SUFFIX)}")
            found = [index.name, *sorted(filter(shard.fullmatch, shards))]
        except WeightsError:
            found = [index.name]
    return [name for name in dict.fromkeys([*found, output.name]) if _is_file(output.with_name(name))]


def _beside(name: str) -> bool:
    return Path(name).name == name


def bring_right(output: Path) -> None:
    """Recover from a run that was killed while it wrote this checkpoint. Raises OutputError."""
    recover(output.parent, output.name, _beside)


def refuse_existing(
    output: Path, overwrite: bool, sources: Collection[Path] = (), names: Sequence[str] | None = None
) -> None:
    """Raises OutputError if a checkpoint at `output` would replace an existing file without `overwrite`, something that
    is not a regular file, or a file in `sources`. `names` are the new files, if known.
    """
    try:
        _refuse(output, overwrite, sources, names)
    except OSError as error:  # no permission for the folder, or a name that is too long
        raise output_error(output, error) from error


def _refuse(output: Path, overwrite: bool, sources: Collection[Path], names: Sequence[str] | None) -> None:
    index = output.stem + INDEX_SUFFIX
    for name in dict.fromkeys([output.name, index, *(names or ()), *old_files(output)]):
        target = output.with_name(name)
        if any(is_same_entry(target, source) for source in sources):
            raise OutputError(f"{target}: this is the checkpoint that is read; choose another -o")
        if os.path.lexists(target) and not _is_file(target):
            raise in_the_way(target)
        if os.path.lexists(target) and not overwrite:
            raise OutputError(f"{target}: exists; give --overwrite or choose another -o")
        require_no_mounts(target.parent, [target])


def _is_file(path: Path) -> bool:
    """Whether the path is a regular file and not a symbolic link. Links are never replaced."""
    return path.is_file() and not path.is_symlink()


def _file_names(output: Path, parts: int) -> list[str]:
    if parts == 1:
        return [output.name]
    shards = [f"{output.stem}-{i:05d}-of-{parts:05d}{CHECKPOINT_SUFFIX}" for i in range(1, parts + 1)]
    return [output.stem + INDEX_SUFFIX, *shards]


def require_space(output: Path, total: int) -> None:
    """Raises OutputError if less than `total` bytes are free in the folder of `output`."""
    free = shutil.disk_usage(output.parent).free
    if free < total:
        raise OutputError(
            f"{output}: needs {total / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free there; choose another -o"
        )


def _write_new(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)


def _write_all(file: BinaryIO, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += file.write(data[done:]) or 0


def split_into_shards(slots: Sequence[Slot], limit: int) -> list[list[Slot]]:
    """Slots in order, split into parts of at most `limit` bytes; a larger tensor gets a part of its own."""
    parts: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        if parts[-1] and size + slot.nbytes > limit:
            parts.append([])
            size = 0
        parts[-1].append(slot)
        size += slot.nbytes
    return parts
