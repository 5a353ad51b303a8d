"""The depth maps of a scene on a device, with the pixels of each that may enter the cloud."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .device_maps import DeviceMaps
from .posed_view import View, known_depth
from .surfaces import VoterMap, runs_of_one_shape

NOTHING_HELD = DeviceMaps()


class UsableMap:
    """A view's depth and confidence on the device, and its remaining pixels (h, w) bool."""

    def __init__(self, view: View, device: torch.device | str, held: DeviceMaps) -> None:
        self.view = view
        self.depth = held.of(known_depth(view), device)
        self.confidence = (
            torch.ones_like(self.depth) if view.confidence is None else held.of(view.confidence, device).float()
        )
        self.alive = self.depth > 0  # until `maps_of` has looked for them
        self.voter = VoterMap(view, self.alive, depth=self.depth)

    def keep(self, alive: Tensor) -> None:
        """Keep the pixels `alive` (h, w) bool."""
        self.alive = self.voter.alive = alive


def maps_of(
    views: Sequence[View], device: torch.device | str, held: DeviceMaps = NOTHING_HELD
) -> list[UsableMap | None]:
    """The maps of the views, with their pixels that have depth and confidence; None for a view without depth."""
    maps = [UsableMap(view, device, held) if view.depth is not None else None for view in views]
    there = [each for each in maps if each is not None]
    for run in runs_of_one_shape([each.voter for each in there]):
        group = [there[k] for k in run]
        depth, confidence = stacked([each.depth for each in group]), stacked([each.confidence for each in group])
        for each, alive in zip(group, depth.isfinite() & (depth > 0) & confidence.isfinite()):
            each.keep(alive)
    return maps


def stacked(maps: Sequence[Tensor]) -> Tensor:
    """Maps (h, w) as (n, h, w); a single one is not copied."""
    return maps[0][None] if len(maps) == 1 else torch.stack(list(maps))
