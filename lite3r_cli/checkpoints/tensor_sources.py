"""Checkpoint files as named tensors that are read one at a time: safetensors, sharded safetensors, and `.pt` without
running code from the file.

`open_source(path)` reads only headers. `read` returns a copy, so that only the current tensor is in memory.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lite3r_cli.checkpoints.plain_path import plain_path
from lite3r_cli.checkpoints.shards import (
    INDEX_SUFFIX,
    LONGEST_NAME,
    are_written_to,
    changed,
    identities,
    read_index,
    shard_files,
)
from lite3r_cli.errors import WeightsError
from lite3r_cli.io.open_files import TOO_MANY

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
ZIP_HEAD = b"PK\x03\x04"
PICKLE_HEADS = (ZIP_HEAD, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor in the header of a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor] = field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as it is stored."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class Source:
    """The tensors of a file by name, in the order of the file, and its metadata. A context manager: reading is only
    possible while it is open.
    """

    def __init__(self, path: Path, entries: dict[str, Entry], metadata: dict[str, str], close: Callable[[], None]):
        self.path, self.entries, self.metadata, self._close = path, entries, metadata, close
        self.seen = identities(path)

    def require_unchanged(self) -> None:
        """Raises WeightsError if another program has written to the file since it was opened."""
        if are_written_to(self.seen):
            raise changed(self.path)

    def read(self, name: str) -> Tensor:
        """The tensor as stored. Raises WeightsError if the file is now shorter than its header says."""
        return self.entries[name].read()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def open_source(path: Path) -> Source:
    """Open a checkpoint. Raises WeightsError if the file is missing or damaged, or contains more than tensors."""
    try:
        _refuse_non_checkpoints(path)
        if path.name.endswith(INDEX_SUFFIX):
            return _open_shards(path)
        if path.suffix.lower() in PICKLE_SUFFIXES:
            from lite3r_cli.checkpoints.torch_files import open_torch_file

            return open_torch_file(path)
        return _open_safetensors(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({_system_reason(error)})") from error


def _refuse_non_checkpoints(path: Path) -> None:
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a device, a pipe or a socket"
        raise WeightsError(f"{path}: {what}, not a checkpoint file; `lite3r models` lists what is here")
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint file; `lite3r models` lists what is here")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError(f"{path}: the file is empty; get it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull`")
    header_follows = head[4:9] == b"\0\0\0\0{"  # safetensors: the bytes of the header length may look like a pickle
    if path.suffix.lower() not in PICKLE_SUFFIXES and head.startswith(PICKLE_HEADS) and not header_follows:
        raise WeightsError(
            f"{path}: a pickle, which could run code when opened; only safetensors files may have this name "
            f"(a torch file of tensors alone is read when it ends in .pt)"
        )


def _system_reason(error: OSError) -> str:
    return TOO_MANY.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def damaged(path: Path, error: Exception) -> WeightsError:
    """The WeightsError for an error that a library raised while it read `path`."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    if os.strerror(errno.EMFILE) in reason:  # some libraries only give the text
        error = OSError(errno.EMFILE, reason)
    if isinstance(error, OSError) and error.errno:
        return WeightsError(f"{path}: cannot be read ({_system_reason(error)})")
    return WeightsError(f"{path}: damaged or truncated ({reason}); get it again")


# -- safetensors -------------------------------------------------------------------------------------------------------


def _open_safetensors(path: Path) -> Source:
    try:
        # safe_open checks the whole header against the file size
        with plain_path(path) as plain, safe_open(plain, "pt") as checked:
            metadata = dict(checked.metadata() or {})
        file = path.open("rb", buffering=0)
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    except (SafetensorError, ValueError, RuntimeError, OSError) as error:
        raise damaged(path, error) from error
    header.pop("__metadata__", None)
    if any(len(name) > LONGEST_NAME for name in header):
        raise WeightsError(f"{path}: holds a tensor with a name of more than {LONGEST_NAME} characters")
    unknown = sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys())
    if unknown:
        raise WeightsError(f"{path}: holds tensors of a kind that is not supported ({', '.join(unknown)})")

    def reader(start: int, end: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Callable[[], Tensor]:
        def read() -> Tensor:
            data = torch.empty(end - start, dtype=torch.uint8)
            view, done = memoryview(data.numpy().data), 0
            while done < len(view):
                count = os.preadv(file.fileno(), [view[done:]], 8 + size + start + done)  # safe in several threads
                if not count:
                    raise WeightsError(f"{path}: became shorter while it was read; get it again")
                done += count
            return data.view(dtype).view(shape)

        return read

    entries = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        entries[name] = Entry(dtype, shape, reader(start, end, dtype, shape))
    return Source(path, entries, metadata, file.close)


def _open_shards(path: Path) -> Source:
    weight_map = read_index(path)
    shards = shard_files(path)[1:]
    for shard in shards:
        if not shard.is_file():
            raise WeightsError(f"{shard}: missing, though {path.name} names it; get all shards")
    sources = [open_source(shard) for shard in shards]
    entries: dict[str, Entry] = {}
    for source in sources:
        twice = sorted(entries.keys() & source.entries.keys())
        if twice:
            raise WeightsError(f"{source.path}: holds {twice[0]}, which another shard holds too; get all shards again")
        entries |= source.entries
    missing = sorted(weight_map.keys() - entries.keys())
    if missing:
        raise WeightsError(f"{path}: no shard holds {', '.join(missing[:5])}; get all shards again")

    def close() -> None:
        for source in sources:
            source._close()

    return Source(path, entries, sources[0].metadata, close)
