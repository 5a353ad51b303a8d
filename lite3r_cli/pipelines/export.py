"""Writes a network in memory as a checkpoint that every command loads."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .. import __version__
from ..attention.sparse_config import METADATA_KEY
from ..checkpoints.metadata import describe
from ..checkpoints.write import bring_right, refuse_existing, save_tensors
from ..config.conversion import WEIGHTS, ConvertConfig
from ..config.prediction import require_one_of
from ..io.transaction import Transaction
from ..networks.family import require_family
from ..networks.sparsify import sparse_modules
from .convert_checkpoint import convert


def export(module: nn.Module, output: Path, weights: str, licence: str | None, overwrite: bool) -> list[Path]:
    """See `lite3r_cli.export`. The file is first written in float32 next to the output, then converted."""
    require_one_of("weights", weights, WEIGHTS)
    family = require_family(module)
    sparse = list(sparse_modules(module).values())
    layers = sparse[0].config.layers if sparse else ("none",)
    config = ConvertConfig(str(output), output, weights=weights, attention=layers, overwrite=overwrite)
    bring_right(output)
    refuse_existing(output, overwrite, (), [output.name])
    metadata = describe(family.name_of(module.config), module.config, exported_by=f"lite3r {__version__}")
    if sparse:
        metadata[METADATA_KEY] = sparse[0].config.to_json()
    if licence is not None:
        metadata["licence"] = licence
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with Transaction(output.parent, f"{output.stem}.exact", lambda name: False) as hidden:  # removed after a kill
        exact = hidden.new / output.name
        save_tensors(exact, tensors, metadata)
        return convert(ConvertConfig(str(exact), **{k: v for k, v in vars(config).items() if k != "source"})).files
