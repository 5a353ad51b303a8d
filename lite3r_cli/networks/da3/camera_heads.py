"""Depth-Anything-3's camera heads (arXiv 2511.10647): camera tokens → cameras, and known cameras → camera tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.heads.pose import invert_rigid, quaternion_from_rotation
from lite3r_cli.layers.vit import Block, Mlp

POSE_CHANNELS = 9  # translation (3), quaternion (4), vertical and horizontal field of view


class CameraDecoder(nn.Module):
    """Camera features (B, S, C) → pose vectors (B, S, 9): world_from_cam and fields of view in radians. Each view is
    decoded alone.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, features: Tensor) -> Tensor:
        x = self.backbone(features)
        return torch.cat([self.fc_t(x), self.fc_qvec(x), self.fc_fov(x)], dim=-1)


class CameraEncoder(nn.Module):
    """Pose vectors (B, S, 9) of known cameras → camera tokens (B, S, C), with a small transformer over the views."""

    def __init__(self, dim: int, depth: int = 4, heads: int = 16):
        super().__init__()
        self.trunk = nn.ModuleList(Block(dim, heads, norm_eps=1e-5) for _ in range(depth))
        self.token_norm = nn.LayerNorm(dim, eps=1e-5)
        self.trunk_norm = nn.LayerNorm(dim, eps=1e-5)
        self.pose_branch = Mlp(POSE_CHANNELS, dim // 2, dim)

    def forward(self, pose: Tensor) -> Tensor:
        x = self.token_norm(self.pose_branch(pose))
        for block in self.trunk:
            x = block(x)
        result: Tensor = self.trunk_norm(x)
        return result


def encode_cameras(cam_from_world: Tensor, K: Tensor, size: Tensor) -> Tensor:
    """cam_from_world (…, ≥3, 4), K (…, 3, 3) and image sizes (…, 2) as (H, W) → pose vectors (…, 9). The principal
    point is not encoded.
    """
    R, t = cam_from_world[..., :3, :3], cam_from_world[..., :3, 3]
    inverse = invert_rigid(R, t)
    focal = torch.stack([K[..., 1, 1], K[..., 0, 0]], dim=-1)
    fov = 2 * torch.atan(size / 2 / focal)
    return torch.cat([inverse[..., 3], quaternion_from_rotation(inverse[..., :3]), fov], dim=-1).float()


def normalise_cameras(cam_from_world: Tensor) -> Tensor:
    """cam_from_world (B, S, 3, 4) → cam_from_world (B, S, 3, 4) in the first camera's frame, scaled to a median
    distance of 1 from it.

    The median is the lower of the two middle values and includes the first camera's 0. A median below 0.1 counts as
    0.1.
    """
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=cam_from_world.dtype, device=cam_from_world.device)
    full = torch.cat([cam_from_world[..., :3, :], last.expand(*cam_from_world.shape[:-2], 1, 4)], dim=-2)
    first = F.pad(invert_rigid(full[:, :1, :3, :3], full[:, :1, :3, 3]), (0, 0, 0, 1))
    first[..., 3, 3] = 1
    relative = (full @ first)[..., :3, :]
    centres = invert_rigid(relative[..., :3], relative[..., 3])[..., 3]
    unit = centres.norm(dim=-1).median(dim=-1).values.clamp(min=0.1)
    return torch.cat([relative[..., :3], relative[..., 3:] / unit[:, None, None, None]], dim=-1)
