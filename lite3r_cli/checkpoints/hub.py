"""Weights from the Hugging Face hub. Its cache is searched directly; a download needs huggingface_hub (extra `hub`)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from lite3r_cli.checkpoints.shards import INDEX_SUFFIX, shard_files
from lite3r_cli.errors import BackendError, WeightsError
from lite3r_cli.extras import install_line

PREFIX = "hf:"
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
MAIN = "main"
# Names of the weights in a repository, in order of preference.
PREFERRED = ("model.safetensors", "model.safetensors.index.json", "model.pt")
ENDINGS = (INDEX_SUFFIX, ".safetensors", ".pt")


def parse(name: str) -> tuple[str, str]:
    """hf:OWNER/NAME[@REVISION] → repository and revision. Raises WeightsError."""
    match = NAME.fullmatch(name)
    if match is None:
        raise WeightsError(f"{name}: a model on the hub is written hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return match[1], match[2] or MAIN


def choose_file(files: Iterable[str]) -> str | None:
    """The checkpoint among the files of a repository; None if there is none or more than one candidate."""
    files = list(files)
    for name in PREFERRED:
        if name in files:
            return name
    for ending in ENDINGS:
        found = [name for name in files if name.endswith(ending)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def cache_folder() -> Path:
    """The download cache of the hub's client. Raises WeightsError for a user without a home folder."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    try:
        return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    except RuntimeError as error:  # neither HOME nor a passwd entry, as in many containers
        raise WeightsError("this user has no home folder for the cache of the hub; set HF_HOME to a folder") from error


def find_cached(repository: str, revision: str, file: str | None = None) -> Path | None:
    """A checkpoint in the cache, complete with its shards; None if there is none or the cache cannot be read."""
    try:
        return _find(repository, revision, file)
    except (OSError, ValueError, WeightsError):  # ValueError: a reference that is no text
        return None


def _find(repository: str, revision: str, file: str | None) -> Path | None:
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    commit = revision
    if (reference := folder / "refs" / revision).is_file():
        commit = reference.read_text().strip()
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        return None
    name = file or choose_file(p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*"))
    if name is None or not (snapshot / name).is_file():
        return None
    complete = all(p.is_file() for p in shard_files(snapshot / name))
    return snapshot / name if complete else None


def download(
    repository: str, revision: str, licence: str, announce: Callable[[str], None], file: str | None = None
) -> Path:
    """Download a checkpoint into the hub's cache, after announcing its size and licence. Returns its path.

    Raises BackendError if huggingface_hub is not installed, WeightsError if the hub refuses access or is unreachable,
    or if HF_HUB_OFFLINE is set.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
    except ImportError as error:
        raise BackendError(
            f"{repository}: downloading needs the package huggingface_hub: {install_line('huggingface_hub')}; "
            f"or get the file from https://huggingface.co/{repository} and give its path to --model"
        ) from error
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"{repository}: not in {cache_folder()}, and HF_HUB_OFFLINE forbids a download; unset it or give a path"
        )
    _require_cache()
    try:
        info = hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
        sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
        name = file or choose_file(sizes)
        if name is None or name not in sizes:
            shown = ", ".join(sorted(sizes)[:5])
            raise WeightsError(f"{repository}: holds no checkpoint to choose ({shown}); download it and give its path")

        def get(part: str) -> Path:  # by revision name, so that the cache can resolve it offline
            return Path(hub.hf_hub_download(repository, part, revision=revision))

        index = get(name) if name.endswith(INDEX_SUFFIX) else None
        parts = [Path(name).with_name(p.name).as_posix() for p in shard_files(index)[1:]] if index else [name]
        size = sum(sizes.get(part, 0) for part in parts) / 1e9
        pinned = "" if revision != MAIN else " (revision not pinned)"
        announce(f"downloading {repository}/{name}, {size:.2f} GB, commit {info.sha}{pinned}, licence: {licence}")
        paths = [get(part) for part in parts]
    except WeightsError:
        raise
    except Exception as error:  # network errors have no common base class in all versions of the hub's client
        raise WeightsError(_refusal(repository, error)) from error
    return index or paths[0]


def _require_cache() -> None:
    """Raises WeightsError if this user may not use the cache: the client's own message names no fix."""
    folder = cache_folder()
    present = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if not os.access(present, os.R_OK | os.W_OK | os.X_OK):
        raise WeightsError(f"{folder}: this user may not use the cache of the hub; set HF_HOME to a folder of your own")


def _refusal(repository: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"https://huggingface.co/{repository}"
    if status in (401, 403):
        return f"{repository}: its owner must grant access first: ask at {page}, then set HF_TOKEN"
    if status == 404:
        return f"{repository}: no such repository or revision on the hub; check {page}"
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return f"{repository}: the hub cannot be reached ({reason}); download from {page} and give the path to --model"
