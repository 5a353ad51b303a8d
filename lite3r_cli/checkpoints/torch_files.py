"""Read torch's own files (`.pt` and similar) safely: only tensors are accepted, and no code from the file runs.

torch maps a file of its current format into memory and trusts every offset in it. Therefore the archive is checked
first: its records must be uncompressed, match their checksums, and be as long as their tensors.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.checkpoints.plain_path import plain_path
from lite3r_cli.checkpoints.tensor_sources import DTYPES, PICKLE_HEADS, ZIP_HEAD, Entry, Source, damaged
from lite3r_cli.errors import WeightsError

STATE_ENTRIES = ("model", "state_dict", "model_state_dict")  # entries in which training programs store the weights
CHUNK = 2**24  # elements copied at a time from a mapped file
BLOCK = 1 << 22  # bytes read at a time
SWITCHES = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
NAMED = re.compile(r"GLOBAL ([\w.]+)")  # names the refused class in torch's error message


def open_torch_file(path: Path) -> Source:
    """Open a file that holds a state dict, or a dict with one as an entry of STATE_ENTRIES. Raises WeightsError."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(PICKLE_HEADS):
        raise WeightsError(
            f"{path}: its name is that of a torch file, its content is none; safetensors files end in .safetensors"
        )
    zipped = head.startswith(ZIP_HEAD)  # else the format of torch before 1.6, which cannot be mapped
    sizes = _checked_records(path) if zipped else None
    content = _loaded(path, zipped)
    _require_room(path, content, sizes)
    tensors = _state_dict(path, content)
    mapped = _mapped_ranges(path)

    def reader(tensor: Tensor) -> Callable[[], Tensor]:
        def read() -> Tensor:
            if not tensor.is_contiguous():
                return tensor.detach().clone(memory_format=torch.contiguous_format)
            copy = torch.empty(tensor.shape, dtype=tensor.dtype)
            for target, part in zip(copy.view(-1).split(CHUNK), tensor.detach().view(-1).split(CHUNK)):
                target.copy_(part)
                _drop_pages(part, mapped)
            return copy

        return read

    entries = {name: Entry(t.dtype, tuple(t.shape), reader(t)) for name, t in tensors.items()}
    return Source(path, entries, {}, lambda: None)


def _loaded(path: Path, zipped: bool) -> Any:
    if all(os.environ.get(name) for name in SWITCHES):
        raise WeightsError(f"{path}: torch reads nothing while {' and '.join(SWITCHES)} are both set; unset them")
    try:
        with plain_path(path) as plain:
            return torch.load(plain, map_location="cpu", mmap=zipped, weights_only=True)
    except pickle.UnpicklingError as error:
        found = NAMED.search(str(error))
        what = f" ({found[1][:80]})" if found else ""
        raise WeightsError(
            f"{path}: holds more than tensors{what}, and opening that could run code: refused; get the weights as "
            "safetensors, or let whoever made them save the state dict alone"
        ) from error
    except Exception as error:  # the errors of a damaged pickle have no common base class
        raise damaged(path, error) from error


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for entry in STATE_ENTRIES:
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors or len(tensors) < len(content):
        raise WeightsError(f"{path}: not a state dict: a checkpoint is a dict of tensors, or has one as its `model`")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise WeightsError(f"{path}: not a state dict: a tensor is called {str(name)[:40]!r}, which is no text")
        plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
        if not plain or tensor.dtype not in DTYPES.values():
            kind = "meta" if tensor.device.type == "meta" else f"{tensor.layout}, {tensor.dtype}".replace("torch.", "")
            raise WeightsError(f"{path}: {name[:80]} is a tensor of a kind that is not supported ({kind})")
    return tensors


# -- the archive -------------------------------------------------------------------------------------------------------


def _checked_records(path: Path) -> list[int]:
    """The sizes of the records that hold tensors. Raises WeightsError for an archive that torch would misread."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.filename.endswith("/constants.pkl") for record in records):
                raise WeightsError(f"{path}: a TorchScript archive, which is a program; get the weights as safetensors")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise WeightsError(f"{path}: was packed anew with compression, which torch cannot read; get it again")
            names = [record.filename for record in records]
            if len(set(names)) < len(names):
                raise WeightsError(f"{path}: holds two records of one name; get it again")
            filled = [record for record in records if record.file_size]
            wrong = [record.filename for record in filled if _checksum(archive, record) != record.CRC]
    except WeightsError:
        raise
    except Exception as error:  # the errors of a damaged archive have no common base class
        raise damaged(path, error) from error
    # if every checksum is wrong, the file was written without checksums
    if wrong and not {r.filename for r in filled if "/data/" in r.filename} <= set(wrong):
        raise WeightsError(f"{path}: damaged: the content of {wrong[0][:80]} is not what was written; get it again")
    return [record.file_size for record in records if "/data/" in record.filename]


def _checksum(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> int:
    value = 0
    with archive.open(record) as stream:
        stream._expected_crc = None  # type: ignore[attr-defined]  # the caller compares all checksums
        while block := stream.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


def _require_room(path: Path, content: Any, sizes: list[int] | None) -> None:
    """Raises WeightsError if tensors need more bytes than their records have: torch would read beyond the record."""
    if sizes is None:
        return
    needed = sorted({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(content)}.values())
    present = sorted(sizes)[-len(needed) :] if needed else []
    if len(present) < len(needed) or any(have < need for have, need in zip(present, needed)):
        raise WeightsError(f"{path}: damaged: a record is shorter than the tensor that lies in it; get it again")


def _tensors(content: Any, depth: int = 0) -> Iterator[Tensor]:
    """All strided CPU tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        if content.layout == torch.strided and content.device.type == "cpu":
            yield content
    elif depth < 32 and isinstance(content, dict):
        for value in content.values():
            yield from _tensors(value, depth + 1)
    elif depth < 32 and isinstance(content, (list, tuple)):
        for value in content:
            yield from _tensors(value, depth + 1)


def _mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """The address ranges [start, end) at which the file is mapped into this process; empty if unknown."""
    if not sys.platform.startswith("linux"):
        return []
    real = str(path.resolve())
    ranges = []
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[5] == real:
            start, end = parts[0].split("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _drop_pages(tensor: Tensor, mapped: list[tuple[int, int]]) -> None:
    """Release the pages of a contiguous tensor in a mapped file. A later access reads them from the file again."""
    page, dont_need = mmap.PAGESIZE, 4
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if end > start and any(low <= start and end <= high for low, high in mapped):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), dont_need)
