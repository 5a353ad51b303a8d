"""`mini`: the embedded any-view transformer, similar to Depth-Anything-3 (arXiv 2511.10647) at the size of ViT-S.

Early blocks attend within a view. From `alternate_from` on, even blocks attend within a view and odd blocks across all
views, with QK-norm and 2-D RoPE. Token 0 of a view is its camera token; the reference view, whose camera is the world
frame, has a different one. Views may differ in size, see `layers/buckets.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import set_frames
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers.buckets import (
    group_by_size,
    in_view_order,
    normalise,
    own_precision,
    pack_ropes,
    run_each,
    run_packed,
    trunk_precision,
)
from lite3r_cli.layers.heads.camera import CameraDecoder
from lite3r_cli.layers.heads.dpt import DPTConfig, DPTHead
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.view_shards import first_view, mine, sizes_of_all, whole
from lite3r_cli.layers.vit import (
    Block,
    ModulesOf,
    PatchEmbed,
    RopeTable,
    patch_positions,
    resize_position_embedding,
    rope_table,
)
from lite3r_cli.networks.base import KnownCameras, Network, Prediction, RawOutput
from lite3r_cli.networks.mini.known import CameraHints, KnownCameraToken
from lite3r_cli.networks.recorded import OnDevice

# Pixels above this log depth are sky; depth is in units of the scene's geometric mean. Training pushes sky beyond 4
# (`training.losses.FAR`); everything else in the training scenes is nearer than e³ = 20 times the mean depth.
SKY = 3.0
LARGEST_LOG_CONFIDENCE = 10.0
DECODED = {"cpu": 1}  # views in the depth head at once: it is the memory peak, but a GPU needs more to be busy


@dataclass(frozen=True)
class MiniConfig:
    """Sizes of `mini`."""

    dim: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 14
    alternate_from: int = 2
    taps: tuple[int, ...] = (5, 7, 9, 11)
    head_features: int = 64
    head_stages: tuple[int, int, int, int] = (48, 96, 128, 128)
    camera_hidden: int = 256
    camera_layers: int = 0  # layers of the camera decoder across the views
    position_grid: int = 37
    known_cameras: bool = False  # takes known focal lengths and poses, and predicts which views belong together

    def is_global(self, i: int) -> bool:
        """Whether block i attends across views."""
        return i >= self.alternate_from and i % 2 == 1


class Mini(Network):
    """The network that ships with this package: see checkpoints/README.md."""

    name = "mini"

    def __init__(self, config: MiniConfig = MiniConfig()):
        super().__init__()
        self.config = config
        self.patch_size = config.patch_size
        dim = config.dim
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.position_grid**2, dim) * 0.02)
        self.camera_token = nn.Parameter(torch.randn(2, dim) * 0.02)  # reference view, every other view
        self.blocks = ModulesOf(
            Block(dim, config.heads, qk_norm=i >= config.alternate_from, layer_scale=0.1) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = DPTHead(DPTConfig(2 * dim, config.head_features, config.head_stages), config.patch_size)
        self.camera = CameraDecoder(2 * dim, config.camera_hidden, config.camera_layers)
        self.ray_norm = nn.LayerNorm(2 * dim)
        self.ray_head = nn.Linear(2 * dim, 6)
        if config.known_cameras:
            self.known_camera = KnownCameraToken(dim)
            self.belongs = nn.Linear(2 * dim, 1)
        self._rope: dict[tuple[Any, ...], RopeTable] = {}
        self.compute_dtype = torch.float32  # of the trunk and the depth head in `predict`

    # -- tokens -----------------------------------------------------------------------------------------------------

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) in [0, 1] → tokens (B, S, 1 + N, C), class token first."""
        batch, views, _, height, width = images.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        x = self.patch_embed(normalise(images).flatten(0, 1))
        x = x + resize_position_embedding(self.pos_embed[:, 1:], rows, columns)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        result: Tensor = torch.cat([first, x], dim=1).unflatten(0, (batch, views))
        return result

    def rope(self, rows: int, columns: int, device: torch.device) -> RopeTable:
        """The RoPE table of one view of rows × columns patches. Cached."""
        key = (rows, columns, device)
        if key not in self._rope:
            with torch.inference_mode(False):  # a cached table from `predict` must also work in training
                positions = patch_positions(rows, columns, 1, device)
                self._rope[key] = rope_table(positions, self.config.dim // self.config.heads)
        return self._rope[key]

    def trunk(
        self,
        buckets: list[Tensor],
        grids: list[tuple[int, int]],
        is_reference: list[Tensor],
        known: list[Tensor] | None = None,
        seen: Seen | None = None,
    ) -> list[list[Tensor]]:
        """Run the blocks. Per bucket: tokens (B, S_b, P_b, C), a mask (B, S_b) of the reference view, and the encoding
        (B, S_b, C) of known cameras from `known_camera`. Only patches in `seen` are used as keys.

        Returns per bucket the tapped tokens (B, S_b, P_b, 2C): the output of the last within-view block, then that of
        the cross-view block.
        """
        config = self.config
        ropes = [self.rope(*grid, buckets[0].device) for grid in grids]
        packed_rope = pack_ropes(ropes, [b.shape[1] for b in buckets])
        frames = (Frames(b.shape[1], b.shape[2], 1, grid) for b, grid in zip(buckets, grids))
        across = (block.attn for i, block in enumerate(self.blocks) if config.is_global(i))
        set_frames(across, frames, torch.cat(is_reference, dim=1), buckets[0].device, seen)
        local = buckets
        taps: list[list[Tensor]] = [[] for _ in buckets]
        for i, block in enumerate(self.blocks):
            if i == config.alternate_from:
                told: Sequence[Tensor | None] = known or [None] * len(buckets)
                buckets = [self._add_camera_token(*each) for each in zip(buckets, is_reference, told)]
            if config.is_global(i):
                buckets = run_packed(block, buckets, packed_rope, seen)
            else:
                turned = ropes if i >= config.alternate_from else [None] * len(buckets)
                buckets = run_each(block, buckets, turned, seen)
                local = buckets
            if i in config.taps:
                for tap, loc, glo in zip(taps, local, buckets):
                    tap.append(torch.cat([self.norm(loc), self.norm(glo)], dim=-1))
        return taps

    def _add_camera_token(self, tokens: Tensor, is_reference: Tensor, known: Tensor | None) -> Tensor:
        token = torch.where(is_reference[..., None], self.camera_token[0], self.camera_token[1])
        token = token if known is None else token + known
        return torch.cat([tokens[:, :, :1] + token[:, :, None].to(tokens.dtype), tokens[:, :, 1:]], dim=2)

    # -- outputs ----------------------------------------------------------------------------------------------------

    def decode_depth(self, taps: list[Tensor], rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Tapped tokens (B, S, P, 2C) → log depth and confidence, each (B, S, H, W) float32."""
        maps = self.head([t[:, :, 1:].flatten(0, 1) for t in taps], rows, columns).float()
        log_depth, confidence = maps.unflatten(0, taps[0].shape[:2]).unbind(2)
        return log_depth, 1 + confidence.clamp(max=LARGEST_LOG_CONFIDENCE).exp()

    def forward(
        self,
        images: Tensor,
        reference: Tensor | None = None,
        decoded: Tensor | None = None,
        rays: bool = False,
        known: CameraHints | None = None,
    ) -> RawOutput:
        """The output for equally sized views (B, S, 3, H, W) in [0, 1]. `reference` (B,) is the index of the reference
        view, 0 if None; `known` requires `config.known_cameras`; `rays` adds the ray output.

        Depth is computed only for the views in `decoded` (V,), all if None, because the head takes half of a training
        step.
        """
        batch, views, _, height, width = images.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        if reference is None:
            reference = torch.zeros(batch, dtype=torch.long, device=images.device)
        every = torch.arange(views, device=images.device)
        decoded = every if decoded is None else decoded
        is_reference = every == reference[:, None]
        tokens = None if known is None else [self.known_camera(known)]
        taps = self.trunk([self.embed(images)], [(rows, columns)], [is_reference], tokens)[0]
        log_depth, confidence = self.decode_depth([t[:, decoded] for t in taps], rows, columns)
        with own_precision(images.device):  # a step of bfloat16 is up to 0.45 degrees
            rotation, centre, log_focal = self.camera(taps[-1][:, :, 0].float())
        ray = None
        if rays:
            ray = self.ray_head(self.ray_norm(taps[-1][:, :, 1:])).float().unflatten(2, (rows, columns))
        belongs = self.belongs(taps[-1][:, :, 0]).float().squeeze(-1) if self.config.known_cameras else None
        return RawOutput(log_depth, confidence, decoded, rotation, centre, log_focal, ray, belongs)

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        cameras: KnownCameras | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.

        What is known of `cameras` is an input of networks with `config.known_cameras`; others ignore it. `unseen` masks
        pixels without scene content (H, W) per image; patches of only such pixels are not used as keys.

        Sky has no depth: 0, with confidence 0.
        """
        sizes = sizes_of_all(images)
        return self.collect(self.compute(images, cameras, unseen), sizes)

    def compute(
        self,
        images: Sequence[Tensor],
        cameras: KnownCameras | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> OnDevice:
        """`predict` as far as the device computes it: the maps, and the rotations, centres and log focal lengths of all
        views.
        """
        groups = group_by_size(images)
        device = self.pos_embed.device
        stacks = [torch.stack([images[i] for i in g])[None].to(device) for g in groups]
        grids = [(s.shape[-2] // self.patch_size, s.shape[-1] // self.patch_size) for s in stacks]
        refs = [_is_first([first_view() + i for i in g], device) for g in groups]
        token = None
        if cameras is not None and self.config.known_cameras:
            sizes = torch.tensor(sizes_of_all(images), device=device)
            token = mine(self.known_camera(CameraHints.of(cameras, sizes)))
        tokens = None if token is None else [token[:, g] for g in groups]
        depth: dict[int, Tensor] = {}
        confidence: dict[int, Tensor] = {}
        with trunk_precision(device, self.compute_dtype):
            taps = self.trunk([self.embed(s) for s in stacks], grids, refs, tokens, Seen.of(unseen, groups, grids))
            for group, tap, grid in zip(groups, taps, grids):
                some = DECODED.get(device.type, 8)
                for first in range(0, len(group), some):
                    log_d, conf = self.decode_depth([t[:, first : first + some] for t in tap], *grid)
                    solid = log_d[0] < SKY
                    found = self.placed(solid * log_d[0].exp()), self.placed(solid * conf[0])
                    for i, d, c in zip(group[first:], *found):
                        depth[i], confidence[i] = d, c
        # the camera head is cheap: always float32, for the views of all processes
        features = whole(in_view_order([tap[-1][:, :, 0].float() for tap in taps], groups))
        order = range(len(images))
        return OnDevice([depth[i] for i in order], [confidence[i] for i in order], self.camera(features))

    def collect(self, computed: OnDevice, sizes: Sequence[tuple[int, int]]) -> Prediction:
        """The prediction for views of these sizes, those of all processes."""
        rotation, centre, log_focal = (t[0].cpu() for t in computed.cameras)
        K = torch.empty(len(sizes), 3, 3)
        for size in dict.fromkeys(sizes):
            same = [i for i, each in enumerate(sizes) if each == size]
            K[same] = intrinsics_from_log_focal(log_focal[same], *size)
        return Prediction(computed.depth, computed.confidence, cam_from_world(rotation, centre), K)


def _is_first(views: Sequence[int], device: torch.device) -> Tensor:
    """A mask (1, S) of view 0 among these, made on the device."""
    mask = torch.zeros(1, len(views), dtype=torch.bool, device=device)
    for place in (i for i, view in enumerate(views) if view == 0):
        mask[:, place].fill_(True)
    return mask


def cam_from_world(rotation: Tensor, centre: Tensor) -> Tensor:
    """World_from_cam rotation (…, 3, 3) and camera centre (…, 3) → cam_from_world (…, 3, 4)."""
    inverse = rotation.transpose(-1, -2)
    return torch.cat([inverse, -inverse @ centre[..., None]], dim=-1)


def intrinsics_from_log_focal(log_focal: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    """Log focal length (…,) in half diagonals → K (…, 3, 3) in pixels, principal point at the image centre. `height`
    and `width` are one size for all, or tensors (…,).
    """
    focal = log_focal.exp() * 0.5 * (height**2 + width**2) ** 0.5
    K = torch.zeros(*focal.shape, 3, 3, device=focal.device)
    K[..., 0, 0] = K[..., 1, 1] = focal
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = width / 2, height / 2, 1
    return K
