"""The answer of any network in one form, with gradients: that of `mini`, whose losses then serve all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.family import require_family


class Runner(nn.Module):
    """A network whose forward pass gives a RawOutput for images (B, S, 3, H, W) in [0, 1].

    Depth is that of the views `decoded`, all if None; poses are in the frame that the network gives view 0. Precision
    is its `compute_dtype`, cameras are in float32. Raises UsageError for a network of no family.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.answer = require_family(network).answer

    def forward(self, images: Tensor, decoded: Tensor | None = None) -> RawOutput:
        decoded = torch.arange(images.shape[1], device=images.device) if decoded is None else decoded
        return self.answer(self.network, images, decoded)


def has_unit_scale(network: nn.Module) -> bool:
    """Whether depth and cameras come in units of the scene's mean depth; else their scale is fitted."""
    return require_family(network).scale == "mean depth"
