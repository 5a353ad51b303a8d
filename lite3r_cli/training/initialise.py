"""Initial weights for training: a pretrained image encoder, or an earlier checkpoint of the same model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lite3r_cli.checkpoints.plain_path import plain_path
from lite3r_cli.checkpoints.weights import load_into, read_checkpoint
from lite3r_cli.errors import WeightsError
from lite3r_cli.networks.mini.network import Mini

ADDED = ("known_camera.", "belongs.", "camera.correct.")


def load_encoder(model: Mini, files: list[Path]) -> int:
    """Copy a ViT-S/14 encoder with timm names (one or several safetensors shards) into `model`. Returns the number of
    copied tensors.

    Heads, camera tokens and QK-norms keep their initial values. Raises WeightsError if a tensor of the encoder is
    missing or has another shape.
    """
    encoder: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            with plain_path(file) as plain:
                encoder |= load_file(plain)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a readable safetensors file ({error})") from error
    wanted = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(("patch_embed.", "cls_token", "pos_embed", "blocks.", "norm.")) and "q_norm" not in name
        and "k_norm" not in name
    }  # fmt: skip
    bad = [n for n, p in wanted.items() if n not in encoder or encoder[n].shape != p.shape]
    if bad:
        raise WeightsError(f"{files[0]}: not a ViT-S/14 encoder; missing or mis-shaped: {', '.join(bad[:5])}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(encoder[name].float())
    return len(wanted)


def load_checkpoint(model: Mini, path: Path) -> None:
    """Load a checkpoint of the same configuration. Raises WeightsError.

    A part in ADDED keeps its initial values if the checkpoint is too old to have it.
    """
    state, _ = read_checkpoint(path)
    for part in ADDED:
        if not any(name.startswith(part) for name in state):
            state |= {name: value for name, value in model.state_dict().items() if name.startswith(part)}
    load_into(model, state, path)
