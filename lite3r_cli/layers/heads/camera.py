"""Decode a camera from one token per view: rotation, position, focal length. Layers across views may correct it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.vit import Block, ModulesOf

VALUES = 10  # of a camera: 6-D rotation, centre, log focal length
PASSES = 3  # over the correcting layers


def rotation_from_6d(x: Tensor) -> Tensor:
    """x (…, 6) → rotations (…, 3, 3) whose first two columns are the Gram-Schmidt orthonormalisation of x.

    This representation is continuous, unlike quaternions (Zhou et al., arXiv 1812.07035).
    """
    a = F.normalize(x[..., :3], dim=-1, eps=1e-6)
    b = x[..., 3:] - (a * x[..., 3:]).sum(-1, keepdim=True) * a
    b = F.normalize(b, dim=-1, eps=1e-6)
    return torch.stack([a, b, torch.linalg.cross(a, b)], dim=-1)


class CameraCorrection(nn.Module):
    """Camera tokens (B, S, C) and decoded values (B, S, VALUES) → corrected values.

    A transformer over the views sees the tokens and the present values, and adds to these, PASSES times, as the camera
    head of VGGT (arXiv 2503.11651). Before training it adds nothing.
    """

    def __init__(self, channels: int, dim: int, layers: int):
        super().__init__()
        self.tokens = nn.Linear(channels, dim)
        self.values = nn.Linear(VALUES, dim)
        self.blocks = ModulesOf(Block(dim, dim // 64 or 1, mlp_ratio=2.0, layer_scale=None) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, VALUES)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        seen = self.tokens(tokens)
        for _ in range(PASSES):
            x = seen + self.values(values)
            for block in self.blocks:
                x = block(x)
            values = values + self.out(self.norm(x))
        return values


class CameraDecoder(nn.Module):
    """Camera tokens (B, S, C) → world_from_cam rotation (B, S, 3, 3), camera centre (B, S, 3), log focal length (B, S).

    The focal length is in units of half the image diagonal and thus independent of the resolution. The centre is in the
    network's world frame and unit. With `layers` across the views a CameraCorrection follows.
    """

    def __init__(self, channels: int, hidden: int, layers: int = 0):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, VALUES)
        nn.init.normal_(self.out.weight, std=0.01)
        with torch.no_grad():  # start at the identity, at the origin, with a 50 degree diagonal field of view
            self.out.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0, 0.76]))
        self.correct = CameraCorrection(channels, hidden, layers) if layers else None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.norm(tokens)
        x = F.gelu(self.fc1(tokens))
        x = x + F.gelu(self.fc2(x))
        values = self.out(x)
        if self.correct is not None:
            values = self.correct(tokens, values)
        rotation, centre, log_focal = values.float().split([6, 3, 1], dim=-1)
        return rotation_from_6d(rotation), centre, log_focal.squeeze(-1)
