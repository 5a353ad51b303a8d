"""An open checkpoint. It is opened once and passed on to all code that inspects, loads or copies it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import torch

from lite3r_cli.attention.module import UNUSED, attach, layers_in
from lite3r_cli.attention.sparse_config import METADATA_KEY, SparseConfig
from lite3r_cli.checkpoints import hub
from lite3r_cli.checkpoints.fingerprint import Fingerprint
from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.checkpoints.tensor_sources import Source, open_source
from lite3r_cli.checkpoints.weights import require_names
from lite3r_cli.console import Tell
from lite3r_cli.errors import Lite3RError, WeightsError
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.networks.loading import load_values
from lite3r_cli.networks.recognise import CheckpointSpec, recognise
from lite3r_cli.networks.registry import MODELS, STREAMED, resolve

OFFICIAL_KEEP_RATIO = 0.3  # keep ratio of Lite3R's published checkpoints, which do not store it
UNKNOWN_LICENCE = "unknown: the checkpoint does not say"


@dataclass(frozen=True)
class Origin:
    """The origin of a checkpoint, as recorded in run.json."""

    model: str
    licence: str
    notices: tuple[str, ...] = ()  # tensors that are deliberately not loaded, with the reason

    @property
    def notes(self) -> tuple[str, ...]:
        """The lines that a command prints about the checkpoint."""
        return (f"model: {self.model}, licence: {self.licence}", *self.notices)


class Checkpoint:
    """A checkpoint whose headers have been read into `spec`, `sparse`, `facts` and `origin`. It is a context manager:
    `load` and `source` only work while it is open, everything else also afterwards.

    Raises WeightsError for a file that is not a checkpoint of a known network.
    """

    def __init__(self, asked: str, source: Source):
        self.asked, self.source, self.path = asked, source, source.path
        shapes = {name: entry.shape for name, entry in source.entries.items() if not name.endswith(SCALE_SUFFIX)}
        with _said_of(source.path):
            self.spec: CheckpointSpec = recognise(shapes, source.metadata, source.path)
            self.sparse = _sparse_config(source, self.spec)
            self.facts = NetworkFacts.of_checkpoint(self.spec, self.sparse, source.metadata)
        self.origin = self._origin()

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of the file."""
        return self.source.metadata

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The SHA-256 of the file; its computation starts at the first access."""
        return Fingerprint(self.path, self.source.seen)

    def build(self) -> Network:
        """The network on the meta device, without values. Raises WeightsError if the tensors do not fit it."""
        with unfilled(), _said_of(self.path):
            model = self.spec.build()
            if self.sparse is not None:
                try:
                    attach(model, self.sparse)
                except (KeyError, AttributeError) as error:
                    raise WeightsError(
                        f"{self.path}: sparse-linear attention for {str(error)[:200]}, which {self.spec.name} has not"
                    ) from error
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found = {name: self.source.entries[stored].shape for name, stored in self.spec.sources.items()}
        require_names(expected, found, self.path, self.spec.name)
        return model

    def load(
        self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, built: Network | None = None
    ) -> Network:
        """The network with its weights, in evaluation mode. `dtype` is the precision of its trunk (float32 or bfloat16;
        None: float32); FP8 weights are expanded to it. `built` is the result of `build`, if that was called before.
        Raises WeightsError.
        """
        model = self.build() if built is None else built
        loaded = load_values(model, self.source, self.spec, torch.device(device), dtype or torch.float32)
        self.source.require_unchanged()
        return loaded

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.__exit__(kind, error, trace)

    def _origin(self) -> Origin:
        official = self.sparse is not None and self.sparse.official and f"lite3r-{self.spec.name}" in MODELS
        model = f"lite3r-{self.spec.name}" if official else self.spec.name
        licence = self.metadata.get("licence") or _licence(self.asked, model)
        notices = (f"not loaded: {why}, {len(names)} tensors" for why, names in self.spec.left_out.items())
        return Origin(model, licence, tuple(notices))


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Turn any error inside into a WeightsError: malformed metadata can make the readers raise errors of many types."""
    try:
        yield
    except (Lite3RError, MemoryError, ImportError):
        raise  # an ImportError comes from the installation, not from the file
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        what = "what its metadata says of the network cannot be used"
        raise WeightsError(f"{path}: {what} ({reason}); get it again") from error


def open_checkpoint(name_or_path: str | Path, note: Tell = lambda text: None) -> Checkpoint:
    """Open the checkpoint of a model name, hf:OWNER/NAME or path. Downloads it if necessary, and passes its size and
    licence to `note` first.

    Raises WeightsError, or BackendError if a download needs a package that is not installed.
    """
    source = open_source(resolve(str(name_or_path), note))
    try:
        return Checkpoint(str(name_or_path), source)
    except BaseException as error:
        source.__exit__(type(error), error, error.__traceback__)
        raise


def frames_of_video(name_or_path: str) -> int | None:
    """The default number of frames from a video for this model name, hf:OWNER/NAME or path; None: the default of all
    models. A file is opened to recognise its network; nothing is downloaded, and errors are left to `open_checkpoint`.
    """
    source = name_or_path.partition("@")[0]
    infos = [info for info in MODELS.values() if name_or_path == info.name or source == info.source]
    streams = any(info.streams for info in infos)
    with suppress(Lite3RError, OSError):
        if not infos and Path(name_or_path).exists():
            with open_checkpoint(name_or_path) as checkpoint:
                streams = checkpoint.spec.family.streams
    return STREAMED if streams else None


def _licence(asked: str, model: str) -> str:
    """The licence of weights that do not state one: known for a model name, only a hint for another file."""
    if asked in MODELS:
        return MODELS[asked].licence
    if asked.startswith(hub.PREFIX):
        return f"see https://huggingface.co/{hub.parse(asked)[0]}"
    published = MODELS[model].licence if model in MODELS and MODELS[model].repository else None
    return f"not stated in the file; the published {model} is under {published}" if published else UNKNOWN_LICENCE


def _sparse_config(source: Source, spec: CheckpointSpec) -> SparseConfig | None:
    """The sparse-linear attention of a checkpoint, from its metadata, else from its tensor names (official ones)."""
    layers = layers_in(spec.sources)
    if not layers and METADATA_KEY not in source.metadata:
        return None
    try:
        if METADATA_KEY in source.metadata:
            return SparseConfig.from_dict(json.loads(source.metadata[METADATA_KEY]))
        official = f"{layers[0]}.{UNUSED}" in spec.sources
        return SparseConfig(layers, OFFICIAL_KEEP_RATIO if official else 1.0, official=official)
    except (ValueError, KeyError, TypeError, Lite3RError) as error:
        raise WeightsError(
            f"{source.path}: its metadata holds no readable `{METADATA_KEY}` ({str(error)[:200]})"
        ) from error
