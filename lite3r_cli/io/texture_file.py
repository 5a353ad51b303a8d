"""The archive of --textures, an option of `synth`, `train` and `distill`."""

from __future__ import annotations

from pathlib import Path

from .archives import require_npz
from .documents import require_file

ARRAYS = ("data", "offsets")


def require_textures(path: Path | None) -> None:
    """Raise UsageError for a missing file or a folder, InputError for what is no archive with these arrays. The crops
    themselves are not read, so that this can come first.
    """
    if path is not None:
        require_file(path, "it takes an .npz file of JPEG crops (`data`, `offsets`)", "--textures")
        require_npz(path, ARRAYS)
