"""The models this program knows, and how to get one ready to run."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lite3r_cli import console
from lite3r_cli.checkpoints import hub
from lite3r_cli.checkpoints.shards import INDEX_SUFFIX
from lite3r_cli.errors import WeightsError
from lite3r_cli.networks import NETWORKS
from lite3r_cli.networks.published import ModelInfo

if TYPE_CHECKING:
    import torch

    from lite3r_cli.networks.base import Backbone

PACKAGE = Path(__file__).resolve().parent.parent
CHECKPOINT_FOLDERS = (PACKAGE / "checkpoints", PACKAGE.parent / "checkpoints")  # installed wheel, source tree

UNKNOWN_LICENCE = "unknown: the checkpoint does not say"


def _published() -> dict[str, ModelInfo]:
    found = (import_module(f"{__package__}.{network}.published").MODELS for network in NETWORKS)
    return {info.name: info for models in found for info in models}


MODELS: dict[str, ModelInfo] = _published()  # families from outside the package add theirs


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is, as it stands in run.json."""

    model: str
    licence: str
    notices: tuple[str, ...] = ()  # tensors that are not loaded on purpose
    trained_for_fp8: bool = False  # whether its training saw the rounding of FP8 arithmetic


def find_checkpoint(name: str) -> Path | None:
    """Where the weights of a named model lie on this machine, or None."""
    info = MODELS[name]
    if info.repository is not None:
        return hub.find_cached(info.repository, info.revision, info.file)
    return next((folder / info.file for folder in CHECKPOINT_FOLDERS if (folder / info.file).is_file()), None)


def resolve(name_or_path: str) -> Path:
    """A model's name, hf:OWNER/NAME or a checkpoint's path → the checkpoint's path; downloads what is not here.

    Raises WeightsError with the known names, BackendError where a download needs a package that is not installed.
    """
    if name_or_path in MODELS:
        return _resolve_known(MODELS[name_or_path])
    if name_or_path.startswith(hub.PREFIX):
        repository, revision = hub.parse(name_or_path)
        cached = hub.find_cached(repository, revision)
        return cached or hub.download(repository, revision, f"see https://huggingface.co/{repository}", console.info)
    path = Path(name_or_path)
    if path.is_dir():
        return _within(path)
    if path.exists() or path.suffix:
        return path
    close = difflib.get_close_matches(name_or_path, MODELS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise WeightsError(
        f"{name_or_path}: neither a model nor a checkpoint file{hint}; known models: {', '.join(MODELS)}"
    )


def _resolve_known(info: ModelInfo) -> Path:
    path = find_checkpoint(info.name)
    if path is not None:
        return path
    if info.repository is None:
        raise WeightsError(f"{info.name}: its checkpoint is not in this installation; reinstall lite3r")
    return hub.download(info.repository, info.revision, info.licence, console.info, info.file)


def _within(folder: Path) -> Path:
    name = hub.choose_file(sorted(path.name for path in folder.iterdir() if path.is_file()))
    if name is None:
        raise WeightsError(
            f"{folder}: a folder without one model.safetensors, *{INDEX_SUFFIX} or .pt file; name the file itself"
        )
    return folder / name


def inspect(name_or_path: str) -> Origin:
    """What would be loaded, from headers alone. Raises WeightsError."""
    from lite3r_cli.checkpoints.sources import open_source
    from lite3r_cli.networks.lite_form import trained_for_fp8
    from lite3r_cli.networks.loading import layout_of, left_out_notices, sparse_config_of

    with open_source(resolve(name_or_path)) as source:
        layout = layout_of(source)
        sparse = sparse_config_of(source, layout)
        official = sparse is not None and sparse.official and f"lite3r-{layout.name}" in MODELS
        model = f"lite3r-{layout.name}" if official else layout.name
        licence = source.metadata.get("licence") or _licence(name_or_path, model)
        notices = tuple(left_out_notices(layout.left_out))
        return Origin(model, licence, notices, trained_for_fp8(source.metadata, sparse))


def _licence(name_or_path: str, model: str) -> str:
    """Of weights that do not state theirs: certain for a known name, a hint for a file of the same network."""
    if name_or_path in MODELS:
        return MODELS[name_or_path].licence
    if name_or_path.startswith(hub.PREFIX):
        return f"see https://huggingface.co/{hub.parse(name_or_path)[0]}"
    published = MODELS[model].licence if model in MODELS and MODELS[model].repository else None
    return f"not stated in the file; the published {model} is under {published}" if published else UNKNOWN_LICENCE


def load(name_or_path: str, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Backbone:
    """A backbone with its weights, in evaluation mode.

    `dtype` is the arithmetic of the transformer (float32 or bfloat16, None = float32); FP8 weights are expanded to it.
    Raises WeightsError, BackendError.
    """
    import torch

    from lite3r_cli.checkpoints.sources import open_source
    from lite3r_cli.networks.loading import load_model

    with open_source(resolve(name_or_path)) as source:
        model, _ = load_model(source, torch.device(device), dtype or torch.float32)
    return model
