"""`mini`'s RawOutput, with gradients and in its `compute_dtype`."""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.layers.buckets import trunk_precision
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.mini.network import Mini


def answer(network: Mini, images: Tensor, decoded: Tensor) -> RawOutput:
    """The RawOutput for images (B, S, 3, H, W) in [0, 1]; depth only for the views `decoded` (V,); view 0 is the
    reference.
    """
    rows, columns = (side // network.patch_size for side in images.shape[-2:])
    is_reference = (torch.arange(images.shape[1], device=images.device) == 0).expand(len(images), -1)
    with trunk_precision(images.device, network.compute_dtype):
        (taps,) = network.trunk([network.embed(images)], [(rows, columns)], [is_reference])
        log_depth, confidence = network.decode_depth([t[:, decoded] for t in taps], rows, columns)
    rotation, centre, log_focal = network.camera(taps[-1][:, :, 0].float())
    return RawOutput(log_depth, confidence, decoded, rotation, centre, log_focal, None)
