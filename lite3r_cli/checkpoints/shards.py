"""The files of a checkpoint: an index and its shards, or one file."""

from __future__ import annotations

import json
from pathlib import Path

from lite3r_cli.errors import WeightsError
from lite3r_cli.io.names import can_be_a_path

INDEX_SUFFIX = ".safetensors.index.json"
LARGEST_INDEX = 1 << 26  # bytes, about a million tensors
MOST_SHARDS = 1000  # each is an open file
LONGEST_NAME = 255  # characters of a tensor or file name
Identities = dict[Path, tuple[int, int, int] | None]
NO_INDEX = "{}: not an index of safetensors shards ({}); copy or download the checkpoint again, its index included"


def read_index(path: Path) -> dict[str, str]:
    """Tensor name → name of the shard, in the folder of the index. Raises WeightsError for an invalid index."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("no regular file")
        if path.stat().st_size > LARGEST_INDEX:
            raise ValueError(f"larger than {LARGEST_INDEX >> 20} MB")
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        shards = set(weight_map.values())
        if not shards or not all(name == Path(name).name != "" and not name.endswith(INDEX_SUFFIX) for name in shards):
            raise ValueError("its weight_map does not name files beside it")
        if not all(map(can_be_a_path, shards)):
            raise ValueError("it names a file that cannot be")
        if max(map(len, (*weight_map, *shards))) > LONGEST_NAME:
            raise ValueError(f"it holds a name of more than {LONGEST_NAME} characters")
        if len(shards) > MOST_SHARDS:
            raise ValueError(f"it names {len(shards)} files, and at most {MOST_SHARDS} are read")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such checkpoint file; `lite3r models` lists what is here") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:  # JSON of another form
        raise WeightsError(NO_INDEX.format(path, "it has no weight_map that names files")) from error
    except (OSError, ValueError) as error:
        reason = "no JSON that can be read" if _of_json(error) else " ".join(str(error).split())[:200]
        raise WeightsError(NO_INDEX.format(path, reason)) from error
    result: dict[str, str] = weight_map
    return result


def _of_json(error: Exception) -> bool:
    """Whether `error` is Python's own about the text: its advice (sys.set_int_max_str_digits) is none for a user."""
    return isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) or "int_max_str_digits" in str(error)


def shard_files(path: Path) -> list[Path]:
    """All files of a checkpoint: an index and its shards, or the file itself. Raises WeightsError."""
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    return [path, *(path.parent / name for name in dict.fromkeys(read_index(path).values()))]


def identities(path: Path) -> Identities:
    """Size, time of the last change and inode of each file of a checkpoint, None for one that is missing."""
    return {part: _identity(part) for part in (shard_files(path) if path.is_file() else [path])}


def are_written_to(seen: Identities) -> bool:
    """Whether another program has written to one of the open files, which had these identities. One that was removed or
    replaced since is still there for who has opened it.
    """
    pairs = [(before, _identity(part)) for part, before in seen.items()]
    return any(before and now and before[2] == now[2] and before != now for before, now in pairs)


def _identity(part: Path) -> tuple[int, int, int] | None:
    try:
        status = part.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def changed(path: Path) -> WeightsError:
    """The error for a checkpoint that is another one now than when it was opened."""
    return WeightsError(f"{path}: was changed or replaced while it was in use; run again")
