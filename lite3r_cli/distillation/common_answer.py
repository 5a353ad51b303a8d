"""The output of any network as a RawOutput, with gradients, so that the losses of `mini` work for all networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.family import require_family


class Runner(nn.Module):
    """A network whose forward pass returns a RawOutput for images (B, S, 3, H, W) in [0, 1].

    Depth is computed for the views `decoded`, all if None; view 0 is the world frame. The trunk runs in the network's
    `compute_dtype`, cameras in float32. Raises UsageError for a network of unknown family.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.answer = require_family(network).answer

    def forward(self, images: Tensor, decoded: Tensor | None = None) -> RawOutput:
        decoded = torch.arange(images.shape[1], device=images.device) if decoded is None else decoded
        return self.answer(self.network, images, decoded)


def has_unit_scale(network: nn.Module) -> bool:
    """Whether depth and cameras are in units of the scene's mean depth. Otherwise losses fit the scale."""
    return require_family(network).scale == "mean depth"
