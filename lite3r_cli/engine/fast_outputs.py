"""The output of the fast path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lite3r_cli.engine.packing import Packing


@dataclass(frozen=True)
class FastOutput:
    """Depth and cameras, float32 on the device, in this program's conventions. With CUDA graphs the next call writes
    into the same memory.
    """

    packing: Packing
    depth: list[Tensor]  # z-depth per bucket (S_b, H, W)
    confidence: list[Tensor]  # per bucket (S_b, H, W)
    cam_from_world: Tensor  # (S, 3, 4), in the order of the views
    K: Tensor  # (S, 3, 3), in the order of the views

    @classmethod
    def of(
        cls, packing: Packing, decoded: Sequence[tuple[Tensor, Tensor]], cam_from_world: Tensor, K: Tensor
    ) -> FastOutput:
        """From `decoded`, pairs of depth and confidence (S_b, H, W) per bucket."""
        return cls(packing, [d for d, _ in decoded], [c for _, c in decoded], cam_from_world, K)

    def maps(self) -> tuple[list[Tensor], list[Tensor]]:
        """Depth and confidence of every view (H, W), in the order of the views."""
        depth, confidence = ([m for bucket in maps for m in bucket] for maps in (self.depth, self.confidence))
        places = self.packing.places
        return [depth[i] for i in places], [confidence[i] for i in places]
