"""The answer of any backbone in one form, with gradients: that of `mini`, whose losses then serve all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lite3r_cli.layers.buckets import trunk_precision
from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.da3.network import DA3
from lite3r_cli.networks.mini.network import Mini, RawOutput
from lite3r_cli.networks.vggt.network import VGGT


class Runner(nn.Module):
    """A network whose forward pass gives a RawOutput for images (B, S, 3, H, W) in [0, 1].

    Depth is that of the views `decoded`, all if None; poses are in the frame that the network gives view 0. Precision
    is its `compute_dtype`, cameras are in float32.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.answer = next(answer for kind, answer in ANSWERS.items() if isinstance(network, kind))

    def forward(self, images: Tensor, decoded: Tensor | None = None) -> RawOutput:
        decoded = torch.arange(images.shape[1], device=images.device) if decoded is None else decoded
        return self.answer(self.network, images, decoded)


def _mini(network: Mini, images: Tensor, decoded: Tensor) -> RawOutput:
    rows, columns = (side // network.patch_size for side in images.shape[-2:])
    is_reference = (torch.arange(images.shape[1], device=images.device) == 0).expand(len(images), -1)
    with trunk_precision(images.device, network.compute_dtype):
        (taps,) = network.trunk([network.embed(images)], [(rows, columns)], [is_reference])
        log_depth, confidence = network.decode_depth([t[:, decoded] for t in taps], rows, columns)
    rotation, centre, log_focal = network.camera(taps[-1][:, :, 0].float())
    return RawOutput(log_depth, confidence, decoded, rotation, centre, log_focal, None)


def _vggt(network: VGGT, images: Tensor, decoded: Tensor) -> RawOutput:
    (features,), (special,) = network.encode([images], [range(images.shape[1])])
    vectors = network.camera_head(special[:, :, 0].float())[-1]
    rotation = pose.rotation_from_quaternion(vectors[..., 3:7])
    world_from_cam = pose.invert_rigid(rotation, vectors[..., :3])
    return _published(network, features, world_from_cam, vectors[..., 7:], images, decoded)


def _da3(network: DA3, images: Tensor, decoded: Tensor) -> RawOutput:
    (features,), cameras = network.encode([images], [range(images.shape[1])])
    vectors = network.cam_dec(cameras)
    world_from_cam = torch.cat([pose.rotation_from_quaternion(vectors[..., 3:7]), vectors[..., :3, None]], dim=-1)
    return _published(network, features, world_from_cam, vectors[..., 7:], images, decoded)


def _published(network, features, world_from_cam: Tensor, fov: Tensor, images: Tensor, decoded: Tensor) -> RawOutput:
    depth, confidence = network.decode_depth(type(features)([t[:, decoded] for t in features.taps], features.grid))
    size = torch.tensor(images.shape[-2:], dtype=torch.float32, device=images.device)
    focal = pose.focal_from_fov(fov.clamp(*pose.FOV_RANGE), size)
    half_diagonal = 0.5 * size.norm()
    rotation, centre = world_from_cam[..., :3], world_from_cam[..., 3]
    first = rotation[:, :1].transpose(-1, -2)
    moved = (first @ (centre - centre[:, :1])[..., None]).squeeze(-1)
    log_focal = (focal / half_diagonal).log().mean(-1)
    return RawOutput(depth.log(), confidence, decoded, first @ rotation, moved, log_focal, None)


ANSWERS = {Mini: _mini, VGGT: _vggt, DA3: _da3}


def has_unit_scale(network: nn.Module) -> bool:
    """Whether depth and cameras come in units of the scene's mean depth; else their scale means nothing."""
    return isinstance(network, Mini)
