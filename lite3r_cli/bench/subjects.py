"""The network and the images to measure: a local checkpoint, or random weights generated on the device."""

from __future__ import annotations

import torch

from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks import registry, standin
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import family_named

CHECKPOINT = "checkpoint"


def network(name: str, device: torch.device, seed: int) -> tuple[Network, str]:
    """A network in float32 in evaluation mode, and the origin of its weights as text. Raises WeightsError."""
    family = family_named(name)
    here = name in registry.MODELS and registry.find_checkpoint(name) is not None
    if here or family is None or name not in family.sizes:
        return registry.load(name, device=device, dtype=torch.float32), CHECKPOINT
    with unfilled():
        model = family.made(family.sizes[name], name)
    for part in family.unused:
        delattr(model, part)
    model.to_empty(device=device)
    _fill(model, device, seed)
    return model.eval(), "random values: no checkpoint is at hand"


@torch.no_grad()
def _fill(model: Network, device: torch.device, seed: int) -> None:
    """Fill a model with the distributions of `standin`, drawn on the device: seconds instead of minutes for a billion
    values. Constants keep their own values.
    """
    known = model.constants()
    make = torch.Generator(device).manual_seed(seed)
    for name, tensor in model.state_dict().items():
        normal = torch.randn(tensor.shape, generator=make, device=device)
        tensor.copy_(known[name] if name in known else standin.spread_out(name, tuple(tensor.shape), normal))


def image_sets(count: int, views: int, height: int, width: int, device: torch.device, seed: int) -> list[torch.Tensor]:
    """`count` sets (S, 3, H, W) of stand-in images in [0, 1]."""
    coarse = torch.rand(count * views, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(device)
    fine = torch.rand(
        count * views, 3, height, width, generator=torch.Generator(device).manual_seed(seed), device=device
    )
    enlarged = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    return list((0.8 * enlarged + 0.2 * fine).unflatten(0, (count, views)))
