"""Names of outputs: a file ends in the suffix of its format, and the name of a folder does not look like a file's."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import UsageError

# Suffixes that people and programs know as those of files. A folder of such a name is nearly always a mistake.
_OF_FILES = frozenset(
    ".avif .bmp .gif .heic .jpeg .jpg .png .tif .tiff .webp "  # pictures
    ".avi .m4v .mkv .mov .mp4 .webm "  # videos
    ".glb .gltf .las .laz .npy .npz .obj .pcd .ply .rrd .splat .stl .xyz "  # clouds, surfaces, arrays
    ".ckpt .onnx .pt .pth .safetensors "  # networks
    ".csv .db .htm .html .json .jsonl .pdf .tar .txt .yaml .zip".split()
)


def is_like_a_file(path: str | Path) -> bool:
    """Whether a path that names no folder yet has the suffix of a file. A slash at its end means a folder."""
    return not str(path).endswith("/") and Path(path).suffix.lower() in _OF_FILES and not os.path.isdir(path)


def require_folder(option: str, path: str | Path) -> None:
    """Raise UsageError unless `path` can be meant as a folder."""
    if not str(path):
        raise UsageError(f"{option}: the name is empty; give a folder")
    if is_like_a_file(path):
        raise UsageError(f"{option} {path}: ends like the name of a file, but {option} takes a folder")


def require_suffix(option: str, path: Path, what: str, *suffixes: str) -> None:
    """Raise UsageError unless `path` ends in one of the suffixes. `what` it names: "a video"."""
    if path.suffix.lower() not in suffixes:
        ends = " or ".join([", ".join(suffixes[:-1]), suffixes[-1]] if suffixes[1:] else suffixes)
        raise UsageError(f"{option} {path}: the name of {what} ends in {ends}")
