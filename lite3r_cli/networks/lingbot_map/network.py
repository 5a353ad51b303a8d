"""LingBot-Map: a causal VGGT for video. The first frames are processed together, each later frame alone with a cache.

It has VGGT's parts, one more special token per frame, and RoPE over time across frames. A frame attends to all tokens
of the anchors and of the latest frames, and to six tokens of every frame between (`cache.py`). Parameter names are
those of the published checkpoints. The first camera is the world frame; the scale is arbitrary, set by the first
frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import set_frames
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers import buckets as bk
from lite3r_cli.layers.heads.dpt import DPTConfig, DPTHead
from lite3r_cli.layers.image_encoder import REGISTERS, ImageEncoder
from lite3r_cli.layers.vit import Block, ModulesOf, NeighboursTable, patch_positions, rope_table
from lite3r_cli.networks.base import FrameAnswer, Network, Prediction
from lite3r_cli.networks.lingbot_map.cache import SPECIALS, FrameCache, Room, TokenCache, meet_cached, meet_each_other
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.networks.lingbot_map.streaming import padded_prediction, streamed
from lite3r_cli.networks.vggt.camera_head import CameraHead

TIME, PLACE = 10, 11  # RoPE channel pairs of a head for time, and for each of row and column
PERIOD = 10000.0


@dataclass(frozen=True)
class LingBotMapConfig:
    """Sizes of a LingBot-Map."""

    dim: int = 1024
    pairs: int = 24  # pairs of a block within frames and a block across frames
    heads: int = 16
    encoder_depth: int = 24
    encoder_heads: int = 16
    taps: tuple[int, ...] = (4, 11, 17, 23)  # pairs whose outputs the depth head uses; includes the last pair
    head_features: int = 256
    head_stages: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    camera_depth: int = 4
    camera_heads: int = 16
    patch_size: int = 14
    position_grid: int = 37


LINGBOT_MAP = LingBotMapConfig()


@dataclass(frozen=True)
class FrameOutput:
    """The raw output for frames that were processed together, in the original conventions."""

    vectors: list[Tensor]  # (B, S, 9) per round: world_from_cam centre, quaternion, vertical and horizontal fov
    depth: Tensor  # (B, S, H, W)
    confidence: Tensor  # (B, S, H, W), above 1
    tokens: list[Tensor]  # (B, S, 6 + N, 2C) per tapped pair: within-frame half, across-frame half
    time: range  # time index of each frame
    keys: int  # number of keys of each token in attention across frames
    stored: bool  # whether the frames were stored in the cache


class StreamAggregator(nn.Module):
    """Image encoder, then pairs of a block within each frame and one across frames."""

    def __init__(self, config: LingBotMapConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embed = ImageEncoder(
            dim, config.encoder_depth, config.encoder_heads, config.patch_size, config.position_grid, mask_token=True
        )
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)  # first frame, every other frame
        self.register_token = nn.Parameter(torch.randn(1, 2, REGISTERS, dim) * 1e-6)
        self.scale_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)  # frames of the first pass, all others
        self.frame_blocks, self.global_blocks = (
            ModulesOf(
                Block(dim, config.heads, norm_eps=1e-5, qk_norm=True, layer_scale=0.01) for _ in range(config.pairs)
            )
            for _ in range(2)
        )

    def embed(self, images: Tensor, first_pass: bool) -> Tensor:
        """Images (B, S, 3, H, W) in [0, 1] → tokens (B, S, 6 + N, C)."""
        batch, frames = images.shape[:2]
        patches = self.patch_embed(bk.normalise(images).flatten(0, 1)).unflatten(0, (batch, frames))
        kind = torch.ones(frames, dtype=torch.long, device=images.device)
        if first_pass:
            kind[0] = 0
        scale = self.scale_token[:, torch.full_like(kind, 0 if first_pass else 1)]
        special = torch.cat([self.camera_token[:, kind], self.register_token[:, kind], scale], dim=2)
        return torch.cat([special.expand(batch, -1, -1, -1).to(patches.dtype), patches], dim=2)


def time_table(times: Sequence[int], rows: int, columns: int, device: torch.device) -> NeighboursTable:
    """cos and sin of the 3-D RoPE for frames with these time indices f, (S·(6 + N), D) for a head of D = 64 channels.

    Positions are (time, row, column): (f, j, j) for special token j, (f, 6 + y, 6 + x) for the patch in row y, column
    x.
    """
    angle = angles(torch.tensor(list(times), dtype=torch.float64, device=device), rows, columns)
    return NeighboursTable((angle.cos().float(), angle.sin().float()))


def angles(times: Tensor, rows: int, columns: int) -> Tensor:
    """The angles of `time_table` (S·(6 + N), D) in float64, for times (S,) float64 on the device."""
    device = times.device
    special = torch.arange(SPECIALS, dtype=torch.float64, device=device)
    y = torch.cat([special, (torch.arange(rows, device=device) + SPECIALS).repeat_interleave(columns).double()])
    x = torch.cat([special, (torch.arange(columns, device=device) + SPECIALS).repeat(rows).double()])
    slow, fast = (1 / PERIOD ** (torch.arange(n, dtype=torch.float64, device=device) / n) for n in (TIME, PLACE))
    place = torch.cat([y[:, None] * fast, x[:, None] * fast], dim=-1)  # (6 + N, 22)
    of_time = (times[:, None] * slow)[:, None].expand(-1, len(place), -1)
    return torch.cat([of_time, place.expand(len(times), -1, -1)], dim=-1).flatten(0, 1).repeat_interleave(2, dim=-1)


class Stream:
    """One pass over `count` frames of one size: holds the caches and processes the next frames."""

    def __init__(self, network: LingBotMap, plan: StreamPlan, count: int):
        config = network.config
        self.network, self.plan = network, plan
        self.time = 0  # frames stored so far
        room = Room(plan.anchors, plan.window, plan.stored(count))
        self.frames = [FrameCache(room) for _ in range(config.pairs)]
        self.cameras = [[TokenCache(room.frames) for _ in range(config.camera_depth)] for _ in range(plan.rounds)]

    def first(self, images: Tensor, keep: bool = True) -> FrameOutput:
        """Process the first frames (B, F, 3, H, W) in [0, 1] together; `keep` stores them for later frames."""
        return self._run(images, first_pass=True, keep=keep)

    def next(self, image: Tensor, keep: bool) -> FrameOutput:
        """Process the next frame (B, 1, 3, H, W); `keep` stores it for later frames."""
        return self._run(image, first_pass=False, keep=keep)

    def _run(self, images: Tensor, first_pass: bool, keep: bool) -> FrameOutput:
        network = self.network
        count, grid = images.shape[1], network.grid(images)
        time = range(self.time, self.time + count)
        with bk.trunk_precision(images.device, network.compute_dtype):
            taps, keys = self._aggregate(images, grid, time, first_pass, keep)
        depth, confidence = network.decode_depth(taps, grid)
        vectors = self._cameras(taps[-1][:, :, 0].float(), first_pass, keep)
        if keep:
            self.time += count
        return FrameOutput(vectors, depth, confidence, taps, time, keys, keep)

    def _aggregate(
        self, images: Tensor, grid: tuple[int, int], time: range, first_pass: bool, keep: bool
    ) -> tuple[list[Tensor], int]:
        aggregator, config = self.network.aggregator, self.network.config
        count, tokens = len(time), SPECIALS + grid[0] * grid[1]
        within = rope_table(patch_positions(*grid, SPECIALS, images.device), config.dim // config.heads, published=True)
        across = time_table(time, *grid, images.device)
        x = aggregator.embed(images, first_pass)
        if first_pass:
            frames = [Frames(count, tokens, SPECIALS, grid)]
            set_frames((block.attn for block in aggregator.global_blocks), frames, 0, images.device)
        taps = []
        keys = count * tokens
        for i, (near, far) in enumerate(zip(aggregator.frame_blocks, aggregator.global_blocks)):
            a = near(x.flatten(0, 1), within).unflatten(0, x.shape[:2])
            cache = self.frames[i]
            if first_pass:
                b, k, v = meet_each_other(far, a.flatten(1, 2), across)
                for one in range(count if keep else 0):
                    part = slice(one * tokens, (one + 1) * tokens)
                    cache.store(k[:, :, part], v[:, :, part])
            else:
                b = meet_cached(far, a.flatten(1, 2), across, cache, keep)
                keys = cache.end + (0 if keep else tokens)
            x = b.unflatten(1, x.shape[1:3])
            if i in config.taps:
                taps.append(torch.cat([a, x], dim=-1))
        return taps, keys

    def _cameras(self, tokens: Tensor, first_pass: bool, keep: bool) -> list[Tensor]:
        def attend(number: int, j: int, block: nn.Module, x: Tensor) -> Tensor:
            cache = self.cameras[number][j]
            if not first_pass:
                return meet_cached(block, x, None, cache, keep)
            x, k, v = meet_each_other(block, x, None)
            if keep:
                cache.store(k, v)
            return x

        return self.network.camera_head.refine(tokens, self.plan.rounds, attend)


class LingBotMap(Network):
    """The network. `head_frames` and `plan` may be set before a prediction; without a plan, the number of frames
    decides.
    """

    def __init__(self, config: LingBotMapConfig = LINGBOT_MAP, name: str = "lingbot-map"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.compute_dtype = torch.float32
        self.head_frames: int | None = None  # frames the depth head processes at a time; None: depends on the device
        self.plan: StreamPlan | None = None
        self.aggregator = StreamAggregator(config)
        self.camera_head = CameraHead(2 * config.dim, config.camera_depth, config.camera_heads)
        dense = DPTConfig(2 * config.dim, config.head_features, config.head_stages, 2, True, True)
        self.depth_head = DPTHead(dense, config.patch_size)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Patch rows and columns of images (…, H, W)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def decode_depth(self, taps: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Depth and confidence (B, S, H, W) from tapped tokens (B, S, 6 + N, 2C)."""
        patches = [t[:, :, SPECIALS:] for t in taps]
        raw = bk.in_chunks(lambda t: self.depth_head([x.float() for x in t], *grid), patches, self.head_frames)
        depth, confidence = raw.unflatten(0, taps[0].shape[:2]).exp().unbind(2)
        return depth, 1 + confidence

    def together(self, images: Tensor) -> FrameOutput:
        """Process frames (B, S, 3, H, W) in [0, 1] together, as in the first pass. Supports gradients."""
        count = images.shape[1]
        return Stream(self, StreamPlan(first=count), count).first(images, keep=False)

    def begin(self, plan: StreamPlan, count: int) -> Stream:
        """A pass over `count` frames."""
        return Stream(self, plan, count)

    @torch.inference_mode()
    def stream(self, frames: Iterable[Tensor], count: int) -> Iterator[FrameAnswer]:
        """Yield one answer per frame, in order. The `count` frames are (3, H, W) float32 RGB in [0, 1], of one size
        whose sides are multiples of the patch size. Raises UsageError for frames of different sizes.
        """
        plan = self.plan or StreamPlan.for_frames(count)
        yield from streamed(self.begin, frames, count, plan, self.aggregator.camera_token.device)

    def stream_memory(self, height: int, width: int, count: int) -> int:
        """Bytes of the cache for `count` frames of this size, without the frames kept for the overlap of windows."""
        plan, config = self.plan or StreamPlan.for_frames(count), self.config
        longest = max(len(window) for window in plan.windows(count))
        frames = plan.stored(longest)
        tokens = SPECIALS + (height // self.patch_size) * (width // self.patch_size)
        half = self.compute_dtype in bk.HALF_PRECISION
        across = 2 * config.pairs * Room(plan.anchors, plan.window, frames).tokens(tokens) * config.dim
        cameras = 2 * plan.rounds * config.camera_depth * (frames + 1) * 2 * config.dim
        result: int = across * (2 if half else 4) + cameras * 4
        return result

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.
        They are processed as a stream in this order; images smaller than the largest are padded with white.
        """
        return padded_prediction(self.stream, images)
