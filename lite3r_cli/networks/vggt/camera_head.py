"""VGGT's camera head (arXiv 2503.11651): a small transformer over the views' camera tokens refines the cameras in four
rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.vit import Block, Mlp

Attend = Callable[[int, int, nn.Module, Tensor], Tensor]
POSE_CHANNELS = 9  # translation (3), quaternion (4), vertical and horizontal field of view


class CameraHead(nn.Module):
    """Camera tokens (B, S, C) → one pose vector (B, S, 9) per round: cam_from_world and fields of view in radians, see
    POSE_CHANNELS.
    """

    ROUNDS = 4

    def __init__(self, dim: int, depth: int = 4, heads: int = 16):
        super().__init__()
        self.trunk = nn.ModuleList(Block(dim, heads, norm_eps=1e-5) for _ in range(depth))
        self.token_norm = nn.LayerNorm(dim, eps=1e-5)
        self.trunk_norm = nn.LayerNorm(dim, eps=1e-5)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_CHANNELS))
        self.embed_pose = nn.Linear(POSE_CHANNELS, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.adaln_norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.pose_branch = Mlp(dim, dim // 2, POSE_CHANNELS)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        return self.refine(tokens, self.ROUNDS, lambda number, j, block, x: block(x))

    def refine(self, tokens: Tensor, rounds: int, attend: Attend) -> list[Tensor]:
        """`forward` with `rounds` rounds; `attend(round, block index, block, tokens)` runs a block."""
        tokens = self.token_norm(tokens)
        pose = None
        found = []
        for number in range(rounds):
            # the next round gets the raw sum, without the ReLU on the fields of view
            given = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if pose is None else pose.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(given)).chunk(3, dim=-1)
            x = gate * (self.adaln_norm(tokens) * (1 + scale) + shift) + tokens
            for j, block in enumerate(self.trunk):
                x = attend(number, j, block, x)
            change = self.pose_branch(self.trunk_norm(x))
            pose = change if pose is None else given + change
            found.append(torch.cat([pose[..., :7], F.relu(pose[..., 7:])], dim=-1))
        return found
