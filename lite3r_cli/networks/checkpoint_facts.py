"""The facts that decide in which form a network runs, read from a checkpoint's headers or from a loaded network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lite3r_cli.attention.sparse_config import METADATA_KEY, SparseConfig
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.recognise import CheckpointSpec
from lite3r_cli.networks.sparsify import sparse_modules

RECIPE_KEY = "distillation"  # metadata key of a checkpoint: how the student was trained

# What training with sparse-linear attention changed. `none`: nothing; the network was made for dense attention.
# `branch`: only the linear branches. `weights`: other weights too, so that dense attention no longer fits them.
TRAININGS = ("none", "branch", "weights")


@dataclass(frozen=True)
class NetworkFacts:
    """The facts that `pipelines/engine_choice.py` needs."""

    name: str
    config: Any  # the configuration of the network
    across: tuple[str, ...]  # names of the cross-view attention modules, see `Family.global_layers`
    sparse: SparseConfig | None = None  # the settings stored in the checkpoint
    training: str = "none"  # one of TRAININGS
    fp8_trained: bool = False  # whether training saw the rounding of FP8 arithmetic

    @classmethod
    def of_checkpoint(
        cls, spec: CheckpointSpec, sparse: SparseConfig | None, metadata: Mapping[str, str]
    ) -> NetworkFacts:
        """The facts of an open checkpoint."""
        across = tuple(spec.family.global_layers(spec.config))
        training = training_of(metadata, sparse)
        return cls(spec.name, spec.config, across, sparse, training, fp8_trained(metadata, sparse))

    @classmethod
    def of_model(cls, model: nn.Module) -> NetworkFacts:
        """The facts of a network without a checkpoint, taken as untrained."""
        modules = list(sparse_modules(model).values())
        name, config = getattr(model, "name", type(model).__name__), getattr(model, "config", None)
        return cls(name, config, tuple(global_layers_of(model)), modules[0].config if modules else None)


def training_of(metadata: Mapping[str, str], sparse: SparseConfig | None) -> str:
    """One of TRAININGS. A file with linear branches but without metadata about them is taken as fully trained."""
    if sparse is None:
        return "none"
    if sparse.official:
        return "weights"
    if RECIPE_KEY in metadata:
        return "weights" if json.loads(metadata[RECIPE_KEY]).get("trainable") else "branch"
    return "none" if METADATA_KEY in metadata else "weights"


def fp8_trained(metadata: Mapping[str, str], sparse: SparseConfig | None) -> bool:
    """Whether a checkpoint's training saw the rounding of FP8 arithmetic."""
    recipe = json.loads(metadata.get(RECIPE_KEY, "{}"))
    return (sparse is not None and sparse.official) or recipe.get("fp8_from", 1) < 1
