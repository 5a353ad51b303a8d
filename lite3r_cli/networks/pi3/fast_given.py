"""What Pi3X has beyond π³ on the fast path: known cameras and depth, and the metric scale."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lite3r_cli.engine.layers import Prepared, Settings, Tokens
from lite3r_cli.engine.packing import Packing
from lite3r_cli.engine.runner import Known
from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products, trunk_precision
from lite3r_cli.layers.vit import RopeTable
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.pi3.conditions import embed_given, prepare
from lite3r_cli.networks.pi3.network import REGISTERS, Pi3, conditions_from, places_of_patches


class More:
    """The layers that Pi3X adds to π³. The encoders of rays and depth stay in float32, as on the ordinary path."""

    def __init__(self, model: Pi3, settings: Settings):
        self.dtype = settings.dtype
        self.ray_embed, self.depth_encoder = (
            copy.deepcopy(part).float().eval() for part in (model.ray_embed, model.depth_encoder)
        )
        self.depth_emb, self.metric_token = model.depth_emb.detach().float(), model.metric_token.detach().float()
        self.metric_decoder = _half(model.metric_decoder, settings)
        injections = (_half(block, settings) for block in model.pose_inject_blk)
        self.metric_head = copy.deepcopy(model.metric_head).float().eval()
        self.injections = dict(zip(model.config.inject_after, injections))

    def known(self, cameras: KnownCameras, prepared: Prepared) -> Known:
        """See `FastPi3.known`."""
        device = self.depth_emb.device
        images = [torch.empty(3, int(h), int(w), device="meta") for h, w in prepared.sizes.tolist()]
        given = prepare(conditions_from(cameras, images, device))
        told = torch.cat(
            [embed_given(self, bucket.views, given)[0].flatten(0, 1) for bucket in prepared.packing.buckets]
        )
        if not given.any_pose:
            return (told,)
        some = () if bool(given.has_pose.all()) else (given.has_pose[0],)
        return (told, given.cam_from_first[0], *some)

    def inject(self, i: int, tokens: Tokens, known: Known, places: tuple[Tensor, tuple[Tensor, Tensor]]) -> bool:
        """After block i: add what known poses say to the patches, in place. Returns whether there was anything."""
        if i not in self.injections or len(known) == 1:
            return False
        view, place = places
        patches = [frames[:, REGISTERS:] for frames in tokens.frames()]
        flat = torch.cat([part.flatten(0, 1) for part in patches])[None]
        has_pose = known[2][view][None] if len(known) > 2 else None
        with trunk_precision(flat.device, self.dtype):
            found = self.injections[i](flat, known[1][view][None], place, has_pose)[0]
        for part, values in zip(patches, found.split([part.shape[0] * part.shape[1] for part in patches])):
            part.copy_(values.view_as(part))
        return True

    def metres_per_unit(self, tokens: Tensor, rope: RopeTable) -> Tensor:
        """The metric scale, a scalar, from the tokens of all views (T, 2C) and their RoPE table."""
        with trunk_precision(tokens.device, self.dtype):
            x = self.metric_decoder(self.metric_token, tokens[None], rope)
        result: Tensor = self.metric_head(x.float()).exp()[0, 0, 0]
        return result


def patch_places(packing: Packing, device: torch.device) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Of every patch of the packed views: its view, and its column and row."""
    return places_of_patches([b.grid for b in packing.buckets], [b.views for b in packing.buckets], device)


def _half(part: nn.Module, settings: Settings) -> nn.Module:
    """A copy whose matrix products run in the engine's precision."""
    twin = copy.deepcopy(part).float().eval()
    if settings.dtype in HALF_PRECISION:
        cast_products(twin, settings.dtype)
    return twin
