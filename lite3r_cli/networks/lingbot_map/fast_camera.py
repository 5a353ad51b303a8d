"""LingBot-Map's camera head on the fast path: caches of fixed size, of which a mask shows what is stored."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lite3r_cli.engine.layers import Settings
from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products, trunk_precision
from lite3r_cli.layers.vit import Block
from lite3r_cli.networks.vggt.camera_head import CameraHead


class FastCameras:
    """A copy of the camera head whose transformer runs in half precision, with its caches (round, block)."""

    def __init__(self, head: CameraHead, settings: Settings):
        self.dtype = settings.dtype
        self.head = copy.deepcopy(head).float().eval()
        if settings.dtype in HALF_PRECISION:
            cast_products(self.head.trunk, settings.dtype)
        self.device = head.empty_pose_tokens.device
        self.caches: dict[tuple[int, int], Tensor] = {}  # (2, B = 1, H, frames, D): keys and values
        self.stored = 0
        self.slot = torch.zeros(1, dtype=torch.long, device=self.device)  # of the current frame
        self.numbers = self.slot

    def make_room(self, frames: int, rounds: int) -> None:
        """Caches for `frames` stored frames and one that is not."""
        self.stored = 0
        self.numbers = torch.arange(frames + 1, device=self.device)
        for j, block in enumerate(self.head.trunk):
            assert isinstance(block, Block)
            heads, dim = block.attn.heads, block.attn.proj.in_features // block.attn.heads
            for number in range(rounds):  # zeros: unlike what memory may hold, they stay finite behind the mask
                shape = 2, 1, heads, frames + 1, dim
                self.caches[number, j] = torch.zeros(shape, device=self.device, dtype=self.dtype)

    def turn(self, keep: bool) -> None:
        """Point at the slot of the next step; `keep` stores its frame."""
        self.slot.fill_(self.stored)
        self.stored += keep

    def together(self, tokens: Tensor, rounds: int, keep: bool) -> Tensor:
        """Camera features (1, S, 2C) of the first frames → pose vectors (1, S, 9)."""
        count = tokens.shape[1]

        def attend(number: int, j: int, block: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(block, Block)
            with trunk_precision(x.device, self.dtype):
                q, k, v = block.attn.project(block.norm1(x))
                if keep:
                    self.caches[number, j][:, :, :, :count] = torch.stack([k, v])
                return _rest(block, x, block.attn.meet(q, k, v))

        found = self.head.refine(tokens, rounds, attend)[-1]
        if keep:
            self.stored = count
        return found

    def step(self, tokens: Tensor, rounds: int) -> Tensor:
        """Camera features (1, 1, 2C) of one frame → pose vector (1, 1, 9), from all stored frames and itself."""
        hidden = self.numbers > self.slot

        def attend(number: int, j: int, block: nn.Module, x: Tensor) -> Tensor:
            assert isinstance(block, Block)
            cache = self.caches[number, j]
            with trunk_precision(x.device, self.dtype):
                q, k, v = block.attn.project(block.norm1(x))
                cache.index_copy_(3, self.slot, torch.stack([k, v]))
                logits = (q @ cache[0].transpose(-1, -2)).float() * q.shape[-1] ** -0.5
                weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
                return _rest(block, x, weights.to(q.dtype) @ cache[1])

        return self.head.refine(tokens, rounds, attend)[-1]


def _rest(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """The block after its attention (1, H, S, D), for tokens x (1, S, 2C)."""
    x = x + block.ls1(block.attn.merge(attended))
    result: Tensor = x + block.ls2(block.mlp(block.norm2(x)))
    return result
