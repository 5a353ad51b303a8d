"""A network in one file, outside the package: the example of docs/adding-a-network.md.

Four transformer blocks, of which every second attends across all views; one token a view is its camera. It is far too
small to be of use, but every command runs it: `import toy_network` is all that they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import set_frames
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers import buckets
from lite3r_cli.layers.heads.camera import CameraDecoder
from lite3r_cli.layers.vit import Block, ModulesOf, PatchEmbed, patch_positions, rope_table
from lite3r_cli.networks.base import Network, Prediction, RawOutput
from lite3r_cli.networks.family import Family, Shapes, register
from lite3r_cli.networks.layer_names import alternating, last_two
from lite3r_cli.networks.mini.network import cam_from_world, intrinsics_from_log_focal
from lite3r_cli.networks.pictures import Preparation

# -- the network -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ToyConfig:
    """Numbers and tuples only: a checkpoint's metadata holds them as JSON."""

    dim: int = 32
    depth: int = 4
    heads: int = 2
    patch_size: int = 14

    def is_global(self, i: int) -> bool:
        """Whether block `i` attends across views."""
        return i % 2 == 1


class Toy(Network):
    """Images of any sizes → depth, confidence and cameras."""

    def __init__(self, config: ToyConfig, name: str = "toy"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.compute_dtype = torch.float32  # of the trunk, set by those who load the network
        self.camera_token = nn.Parameter(torch.randn(2, config.dim) * 0.02)  # first view, every other view
        self.patch_embed = PatchEmbed(config.dim, config.patch_size)
        self.blocks = ModulesOf(
            Block(config.dim, config.heads, qk_norm=True, layer_scale=0.1) for _ in range(config.depth)
        )
        self.depth_head = nn.Linear(config.dim, 2 * config.patch_size**2)  # log depth and confidence of each pixel
        self.camera_head = CameraDecoder(config.dim, config.dim)

    def tokens(self, images: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Per size one stack (B, S_b, 3, H, W) of the views `groups` → per size tokens (B, S_b, 1 + N, C)."""
        device = images[0].device
        grids = [(im.shape[-2] // self.patch_size, im.shape[-1] // self.patch_size) for im in images]
        x = [self._embed(im, views) for im, views in zip(images, groups)]
        head_dim = self.config.dim // self.config.heads
        ropes = [rope_table(patch_positions(*grid, 1, device), head_dim) for grid in grids]
        packed = buckets.pack_ropes(ropes, [len(group) for group in groups])
        # sparse-linear attention cuts tokens into blocks frame by frame; dense attention ignores this
        across = [block.attn for i, block in enumerate(self.blocks) if self.config.is_global(i)]
        frames = [Frames(b.shape[1], b.shape[2], 1, grid) for b, grid in zip(x, grids)]
        first = [i for group in groups for i in group].index(0)
        set_frames(across, frames, first, device)
        for i, block in enumerate(self.blocks):
            is_global = self.config.is_global(i)
            x = buckets.run_packed(block, x, packed) if is_global else buckets.run_each(block, x, ropes)
        return x

    def _embed(self, images: Tensor, views: Sequence[int]) -> Tensor:
        patches = self.patch_embed(buckets.normalise(images).flatten(0, 1)).unflatten(0, images.shape[:2])
        kind = torch.tensor([min(i, 1) for i in views], device=images.device)
        camera = self.camera_token[kind].expand(len(images), -1, -1)[:, :, None]
        return torch.cat([camera.to(patches.dtype), patches], dim=2)

    def decode(self, tokens: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, S, 1 + N, C) → log depth and confidence above 1, each (B, S, H, W)."""
        grid, patch = (height // self.patch_size, width // self.patch_size), (self.patch_size,) * 2
        maps = self.depth_head(tokens[:, :, 1:].float()).unflatten(-1, (2, *patch)).unflatten(2, grid)
        log_depth, confidence = maps.permute(4, 0, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
        return log_depth, 1 + confidence.exp()

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """Images (3, H, W) in [0, 1] whose sides are multiples of the patch size; they may differ in size."""
        groups = buckets.group_by_size(images)
        device = self.camera_token.device
        stacks = [torch.stack([images[i] for i in group])[None].to(device) for group in groups]
        with buckets.trunk_precision(device, self.compute_dtype):
            tokens = self.tokens(stacks, groups)
        depth, confidence = [torch.empty(0)] * len(images), [torch.empty(0)] * len(images)
        poses, intrinsics = torch.zeros(len(images), 3, 4), torch.zeros(len(images), 3, 3)
        for group, bucket, stack in zip(groups, tokens, stacks):
            log_depth, sure = self.decode(bucket, *stack.shape[-2:])
            rotation, centre, log_focal = (t[0].cpu() for t in self.camera_head(bucket[:, :, 0].float()))
            poses[group] = cam_from_world(rotation, centre)
            intrinsics[group] = intrinsics_from_log_focal(log_focal, *stack.shape[-2:])
            for i, d, c in zip(group, log_depth[0].exp().cpu(), sure[0].cpu()):
                depth[i], confidence[i] = d, c
        return Prediction(depth, confidence, poses, intrinsics)


# -- its facts ---------------------------------------------------------------------------------------------------------


def answer(network: Toy, images: Tensor, decoded: Tensor) -> RawOutput:
    """Equally sized views (B, S, 3, H, W), depth of the views `decoded` (V,); what distillation and bench read."""
    with buckets.trunk_precision(images.device, network.compute_dtype):
        (tokens,) = network.tokens([images], [range(images.shape[1])])
    log_depth, confidence = network.decode(tokens[:, decoded], *images.shape[-2:])
    rotation, centre, log_focal = network.camera_head(tokens[:, :, 0].float())
    return RawOutput(log_depth, confidence, decoded, rotation, centre, log_focal, None)


def config_from_shapes(shapes: Shapes) -> ToyConfig:
    """For checkpoints without a configuration in their metadata: KeyError says that the tensors do not tell."""
    raise KeyError("config")


FAMILY = register(
    Family(
        name="toy",
        models=(),  # none is published: `--model` takes the path of a checkpoint
        sizes={"toy": ToyConfig()},
        config_class=ToyConfig,
        build=Toy,
        name_of=lambda config: "toy",
        markers=("camera_token", "depth_head.weight"),
        config_from_shapes=config_from_shapes,
        preparation=Preparation(resolution=112),
        special_tokens=1,
        global_layers=alternating("blocks."),
        trunk="blocks",
        high_precision=("patch_embed.*", "depth_head.*", "camera_head.*", "*.proj_lin.*"),
        last_projections=last_two("blocks."),
        encoder="patch_embed",
        heads=("depth_head", "camera_head"),
        answer=answer,
        scale="mean depth",
    )
)
