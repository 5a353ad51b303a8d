"""Decode a camera from one token per view: rotation, position and focal length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotation_from_6d(x: Tensor) -> Tensor:
    """x (…, 6) → rotations (…, 3, 3) whose first two columns are the Gram-Schmidt orthonormalisation of x.

    This representation is continuous, unlike quaternions (Zhou et al., arXiv 1812.07035).
    """
    a = F.normalize(x[..., :3], dim=-1, eps=1e-6)
    b = x[..., 3:] - (a * x[..., 3:]).sum(-1, keepdim=True) * a
    b = F.normalize(b, dim=-1, eps=1e-6)
    return torch.stack([a, b, torch.linalg.cross(a, b)], dim=-1)


class CameraDecoder(nn.Module):
    """Camera tokens (B, S, C) → world_from_cam rotation (B, S, 3, 3), camera centre (B, S, 3), log focal length (B, S).

    The focal length is in units of half the image diagonal and thus independent of the resolution. The centre is in the
    network's world frame and unit.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 10)
        nn.init.normal_(self.out.weight, std=0.01)
        with torch.no_grad():  # start at the identity, at the origin, with a 50 degree diagonal field of view
            self.out.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0, 0, 0, 0, 0.76]))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.gelu(self.fc1(self.norm(tokens)))
        x = x + F.gelu(self.fc2(x))
        rotation, centre, log_focal = self.out(x).float().split([6, 3, 1], dim=-1)
        return rotation_from_6d(rotation), centre, log_focal.squeeze(-1)
