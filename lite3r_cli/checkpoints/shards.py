"""The files of a checkpoint: an index and its shards, or one file."""

from __future__ import annotations

import json
from pathlib import Path

from lite3r_cli.errors import WeightsError

INDEX_SUFFIX = ".safetensors.index.json"


def read_index(path: Path) -> dict[str, str]:
    """Tensor name → file beside the index. Raises WeightsError."""
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        if not weight_map or any(Path(name).name != name for name in weight_map.values()):
            raise ValueError("its weight_map does not name files beside it")
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such checkpoint file; `lite3r models` lists what is here") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not an index of safetensors shards ({error})") from error
    return weight_map


def shard_files(path: Path) -> list[Path]:
    """All files of a checkpoint: an index and its shards, or the file itself."""
    if not path.name.endswith(INDEX_SUFFIX):
        return [path]
    return [path, *(path.parent / name for name in dict.fromkeys(read_index(path).values()))]
