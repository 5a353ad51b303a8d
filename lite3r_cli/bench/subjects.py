"""A network to measure: a checkpoint that is at hand, or random values made on the device itself."""

from __future__ import annotations

import torch
from torch import nn

from lite3r_cli.networks import registry, standin
from lite3r_cli.networks.da3.network import DA3, SIZES
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.networks.vggt.network import VGGT, VGGT_1B

BUILDERS = {
    "mini": Mini,
    "vggt-1b": lambda: VGGT(VGGT_1B, "vggt-1b"),
    **{name: lambda name=name: DA3(SIZES[name], name) for name in SIZES},
}


def network(name: str, device: torch.device, seed: int) -> tuple[nn.Module, str]:
    """A network in float32 in evaluation mode, and where its values are from. Raises WeightsError."""
    at_hand = name not in registry.MODELS or registry.find_checkpoint(name) is not None
    if at_hand or name not in BUILDERS:
        return registry.load(name, device=device, dtype=torch.float32), "checkpoint"
    with torch.device("meta"):
        model = BUILDERS[name]()
    if hasattr(model, "point_head"):
        del model.point_head  # no prediction of this program runs it
    model.to_empty(device=device)
    _fill(model, device, seed)
    return model.eval(), "random values: no checkpoint is at hand"


@torch.no_grad()
def _fill(model: nn.Module, device: torch.device, seed: int) -> None:
    """The distributions of `standin`, drawn on the device: seconds instead of minutes for a billion values."""
    make = torch.Generator(device).manual_seed(seed)
    for name, tensor in model.state_dict().items():
        normal = torch.randn(tensor.shape, generator=make, device=device)
        tensor.copy_(standin.spread_out(name, tuple(tensor.shape), normal))


def image_sets(count: int, views: int, height: int, width: int, device: torch.device, seed: int) -> list[torch.Tensor]:
    """`count` sets (S, 3, H, W) of stand-in pictures in [0, 1]."""
    coarse = torch.rand(count * views, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device)
    fine = torch.rand(
        count * views, 3, height, width, generator=torch.Generator(device).manual_seed(seed), device=device
    )
    enlarged = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return list((0.8 * enlarged + 0.2 * fine).unflatten(0, (count, views)))
