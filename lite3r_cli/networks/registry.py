"""The named models, and finding, downloading or loading their checkpoints."""

from __future__ import annotations

import difflib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lite3r_cli.checkpoints import hub
from lite3r_cli.checkpoints.shards import INDEX_SUFFIX
from lite3r_cli.console import Tell
from lite3r_cli.errors import WeightsError
from lite3r_cli.networks import NETWORKS
from lite3r_cli.networks.installed import load_installed
from lite3r_cli.networks.publication import ModelInfo

if TYPE_CHECKING:
    import torch

    from lite3r_cli.networks.base import Network

PACKAGE = Path(__file__).resolve().parent.parent
CHECKPOINT_FOLDERS = (PACKAGE / "checkpoints", PACKAGE.parent / "checkpoints")  # installed wheel, source tree


def _published(network: str) -> tuple[ModelInfo, ...]:
    found: tuple[ModelInfo, ...] = import_module(f"{__package__}.{network}.published").MODELS
    return found


OWN = {info.name: network for network in NETWORKS for info in _published(network)}  # model → its folder here
MODELS = {info.name: info for network in NETWORKS for info in _published(network)}  # other packages add theirs


STREAMED = 1000  # default number of frames from a video for a streaming model: one cache is enough for these


def find_checkpoint(name: str) -> Path | None:
    """The local path of a named model's weights; None if they are not on this machine."""
    info = MODELS[name]
    if info.repository is not None:
        return hub.find_cached(info.repository, info.revision, info.file)
    if info.file is None:
        return None
    found = (folder / info.file for folder in CHECKPOINT_FOLDERS)
    return next((path for path in found if path.is_file()), None)


def resolve(name_or_path: str, note: Tell = lambda text: None) -> Path:
    """The path of the checkpoint of a model name, hf:OWNER/NAME or path. Downloads it if necessary, and passes its size
    and licence to `note` first.

    Raises WeightsError, which lists the known names, or BackendError if a download needs a package that is not
    installed.
    """
    if name_or_path not in MODELS:
        load_installed()
    if name_or_path in MODELS:
        return _resolve_known(MODELS[name_or_path], note)
    if name_or_path.startswith(hub.PREFIX):
        repository, revision = hub.parse(name_or_path)
        cached = hub.find_cached(repository, revision)
        return cached or hub.download(repository, revision, f"see https://huggingface.co/{repository}", note)
    path = Path(name_or_path)
    try:
        if path.is_dir():
            return _within(path)
        if path.exists() or path.suffix:
            return path
    except (OSError, ValueError) as error:  # no permission, too long, a NUL character
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{name_or_path[:200]}: no checkpoint can be looked for there ({reason})") from error
    close = difflib.get_close_matches(name_or_path, MODELS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise WeightsError(
        f"{name_or_path}: neither a model nor a checkpoint file{hint}; known models: {', '.join(MODELS)}"
    )


def _resolve_known(info: ModelInfo, note: Tell) -> Path:
    path = find_checkpoint(info.name)
    if path is not None:
        return path
    if info.repository is None:
        raise WeightsError(f"{info.name}: its checkpoint is not in this installation; reinstall lite3r")
    return hub.download(info.repository, info.revision, info.licence, note, info.file)


def _within(folder: Path) -> Path:
    name = hub.choose_file(sorted(path.name for path in folder.iterdir() if path.is_file()))
    if name is None:
        raise WeightsError(
            f"{folder}: a folder without one model.safetensors, *{INDEX_SUFFIX} or .pt file; name the file itself"
        )
    return folder / name


def load(name_or_path: str, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Network:
    """A network with its weights, in evaluation mode; see `Checkpoint.load`. Raises WeightsError or BackendError."""
    from lite3r_cli.networks.checkpoint import open_checkpoint

    with open_checkpoint(name_or_path) as checkpoint:
        return checkpoint.load(device, dtype)
