"""Depth-Anything-3 on the fast path: equally sized views, cameras from the camera tokens, no rays."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from lite3r_cli.engine.heads import FastDepthHead
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Settings
from lite3r_cli.engine.outputs import FastOutput, Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.sparse import plan_for
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.vit import patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.da3.network import DA3, POSITION_OFFSET
from lite3r_cli.networks.da3.reference_view import choose_reference


class FastDA3:
    """What a loaded Depth-Anything-3 becomes; the original may be freed afterwards."""

    def __init__(self, model: DA3, settings: Settings):
        encoder = model.trunk
        self.config, self.settings, self.patch_size = model.config, settings, model.patch_size
        self.reference_view = model.reference_view
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = (encoder.cls_token + encoder.pos_embed[:, :1])[0].detach()
        self.camera_token = encoder.camera_token[0].detach()  # (2, C)
        self.blocks = [
            FastBlock(b, settings, f"block {i}", exact_projection=i >= len(encoder.blocks) - 2)
            for i, b in enumerate(encoder.blocks)
        ]
        self.norm = Norm.of(encoder.norm)
        self.head = FastDepthHead(model.head, settings)
        self.camera = copy.deepcopy(model.cam_dec).float().eval()

    def prepare(self, shape: Shape, device: torch.device) -> dict:
        """What a shape needs and no image changes."""
        rows, columns = shape.grid(self.patch_size)
        head_dim = self.config.dim // self.config.heads
        positions = patch_positions(rows, columns, 1, device)
        embedding = resize_position_embedding(self.position[:, 1:], rows, columns, offset=POSITION_OFFSET)
        tokens, sparse = rows * columns + 1, self._sparse()
        plan = None
        if sparse is not None and shape.views * tokens >= self.settings.crossover:
            plan = plan_for(sparse.config, shape.views, tokens, 1, (rows, columns), self.settings.query_tiles, device)
        return {
            "within": rope_table(positions, head_dim, published=True),
            "across": rope_table(positions.clamp(max=1), head_dim, published=True),
            "embedding": embedding[0].float(),
            "views": torch.arange(shape.views, device=device),
            "size": torch.tensor([shape.height, shape.width], device=device).float().expand(shape.views, 2),
            "plan": plan,
        }

    def _sparse(self):
        return next((block.sparse for block in self.blocks if block.sparse is not None), None)

    def keep_ratios(self) -> list[float]:
        across = [block for i, block in enumerate(self.blocks) if self.config.is_global(i)]
        return [1.0 if block.sparse is None else block.sparse.keep_ratio for block in across]

    def run(self, images: Tensor, fixed: dict, engine: Engine) -> FastOutput:
        """Images (S, 3, H, W) float32 in [0, 1] on the device."""
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        with engine.stage("encoder"):
            tokens = self.patches(images, fixed["embedding"], self.first)
        maps, camera = self._blocks(tokens, fixed, engine)
        del tokens
        with engine.stage("heads"):
            vectors = self.camera(camera.float())
            depth, confidence = self.head.decode(maps, rows, columns)
        with engine.stage("input and output"):
            poses = pose.invert_rigid(pose.rotation_from_quaternion(vectors[:, 3:7]), vectors[:, :3])
            return FastOutput(depth, confidence, poses, pose.usable_intrinsics(vectors[:, 7:], fixed["size"]))

    def _blocks(self, frames: Tensor, fixed: dict, engine: Engine) -> tuple[list[Tensor], Tensor]:
        """Projected taps, each (S, N, C_i), and camera features (S, 2C)."""
        config, maps, near = self.config, [], frames
        x, views, last = frames.flatten(0, 1), len(frames), len(self.blocks) - 1
        reference = torch.zeros((), dtype=torch.long, device=x.device)
        operand = self.blocks[0].start(x, engine)
        for i, block in enumerate(self.blocks):
            if i == config.alternate_from - 1:
                reference = choose_reference(frames[None, :, 0], self.reference_view)[0]
            if i == config.alternate_from:  # the block before has not gone through this one's norm
                frames[:, 0] = torch.where((fixed["views"] == reference)[:, None], *self.camera_token).to(x.dtype)
                operand = block.start(x, engine)
            across = config.is_global(i)
            if block.sparse is not None:
                block.sparse.reference = reference if block.sparse.config.protect == "reference" else None
            rope = None if i < config.alternate_from else fixed["across" if across else "within"]
            after = None if i in (last, config.alternate_from - 1) else self.blocks[i + 1].norm1
            operand = block.run(
                x, operand, engine, views=views, across=across, rope=rope, plan=fixed["plan"], after=after
            )
            if not across and (i + 1 in config.taps or i in config.taps):
                near = frames.clone()
            if i in config.taps:
                with engine.stage("heads"):
                    maps.append(self._project(len(maps), near, frames, engine))
        return maps, torch.cat([near[:, 0], frames[:, 0]], dim=-1)

    def _project(self, i: int, near: Tensor, frames: Tensor, engine: Engine) -> Tensor:
        norm = self.norm
        far, _ = engine.operators.norm_quant(frames.flatten(0, 1), norm.weight, norm.bias, norm.eps, False)
        return self.head.project(i, near, far.view_as(frames), 1, engine)
