"""The models this program knows, and how to get one ready to run."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lite3r_cli.errors import WeightsError

if TYPE_CHECKING:
    import torch

    from lite3r_cli.backbones.base import Backbone

PACKAGE = Path(__file__).resolve().parent.parent
CHECKPOINT_FOLDERS = (PACKAGE / "checkpoints", PACKAGE.parent / "checkpoints")  # installed wheel, source tree


@dataclass(frozen=True)
class ModelInfo:
    name: str
    parameters: int
    licence: str
    source: str  # where the weights come from
    file: str  # name of the checkpoint file in the package
    summary: str


MODELS: dict[str, ModelInfo] = {
    "mini": ModelInfo(
        name="mini",
        parameters=23_654_834,
        licence="MIT",
        source="ships with this package",
        file="mini.safetensors",
        summary="any-view ViT-S/14 trained by this project: depth, confidence and cameras",
    ),
}


def find_checkpoint(name: str) -> Path | None:
    """Where the weights of a named model lie on this machine, or None."""
    for folder in CHECKPOINT_FOLDERS:
        path = folder / MODELS[name].file
        if path.is_file():
            return path
    return None


def resolve(name_or_path: str) -> Path:
    """A model's name or a checkpoint's path → the checkpoint's path. Raises WeightsError with the known names."""
    if name_or_path in MODELS:
        path = find_checkpoint(name_or_path)
        if path is None:
            raise WeightsError(f"{name_or_path}: its checkpoint is not in this installation; reinstall lite3r")
        return path
    path = Path(name_or_path)
    if path.exists() or path.suffix:
        return path
    close = difflib.get_close_matches(name_or_path, MODELS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise WeightsError(f"{name_or_path}: neither a model nor a checkpoint file{hint}; known models: {', '.join(MODELS)}")


def load(name_or_path: str, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Backbone:
    """A backbone with its weights, in evaluation mode.

    `dtype` is the arithmetic of the transformer (float32 or bfloat16, None = float32). Raises WeightsError.
    """
    import torch

    from lite3r_cli.backbones.mini import Mini, MiniConfig
    from lite3r_cli.backbones.weights import config_from, load_into, read_checkpoint

    path = resolve(name_or_path)
    state, metadata = read_checkpoint(path)
    values = config_from(metadata, path)
    try:
        config = MiniConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        known = ", ".join(f.name for f in dataclasses.fields(MiniConfig))
        raise WeightsError(f"{path}: its configuration has entries this version does not know; known are {known}") from error
    model = Mini(config)
    load_into(model, state, path)
    model.compute_dtype = dtype or torch.float32
    return model.to(device).eval()
