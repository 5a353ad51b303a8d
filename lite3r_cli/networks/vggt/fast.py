"""VGGT on the fast path: one set of equally sized views, tokens as rows (S·P, C) that every block changes in place."""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.engine.heads import FastDepthHead, fast_camera_head
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Settings
from lite3r_cli.engine.outputs import FastOutput, Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.sparse import SparsePlan, plan_for
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.vit import patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.vggt.network import SPECIALS, VGGT


class FastVGGT:
    """What a loaded VGGT becomes; the original may be freed afterwards."""

    def __init__(self, model: VGGT, settings: Settings):
        aggregator, encoder = model.aggregator, model.aggregator.patch_embed
        self.config, self.settings, self.patch_size = model.config, settings, model.patch_size
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = torch.cat([encoder.cls_token + encoder.pos_embed[:, :1], encoder.register_tokens], dim=1).detach()
        self.special = torch.cat([aggregator.camera_token, aggregator.register_token], dim=2)[0].detach()  # (2, 5, C)
        self.encoder = [FastBlock(b, settings, f"encoder block {i}") for i, b in enumerate(encoder.blocks)]
        self.encoder_norm = Norm.of(encoder.norm)
        self.within, self.across = (
            [
                FastBlock(b, settings, f"{kind} block {i}", exact_projection=b is blocks[-1])
                for i, b in enumerate(blocks)
            ]
            for kind, blocks in (("frame", aggregator.frame_blocks), ("global", aggregator.global_blocks))
        )
        self.head = FastDepthHead(model.depth_head, settings)
        self.camera_head = fast_camera_head(model.camera_head, settings)

    def prepare(self, shape: Shape, device: torch.device) -> dict:
        """What a shape needs and no image changes."""
        rows, columns = shape.grid(self.patch_size)
        head_dim = self.config.dim // self.config.heads
        positions = patch_positions(rows, columns, SPECIALS, device)
        embedding = resize_position_embedding(self.position[:, 1:], rows, columns, antialias=True)
        specials = self.special[[0] + [1] * (shape.views - 1)]
        plan = self._plan(shape, rows * columns + SPECIALS, (rows, columns), device)
        dtype = self.settings.dtype
        return {
            "rope": rope_table(positions, head_dim, published=True),
            "embedding": embedding[0].float(),
            "specials": specials.to(dtype),
            "size": torch.tensor([shape.height, shape.width], device=device).float().expand(shape.views, 2),
            "plan": plan,
        }

    def _plan(self, shape: Shape, tokens: int, grid: tuple[int, int], device: torch.device) -> SparsePlan | None:
        sparse = next((block.sparse for block in self.across if block.sparse is not None), None)
        if sparse is None or shape.views * tokens < self.settings.crossover:
            return None
        plan = plan_for(sparse.config, shape.views, tokens, SPECIALS, grid, self.settings.query_tiles, device)
        zero = torch.zeros((), dtype=torch.long, device=device) if sparse.config.protect == "reference" else None
        for block in self.across:
            if block.sparse is not None:
                block.sparse.reference = zero
        return plan

    def keep_ratios(self) -> list[float]:
        return [1.0 if block.sparse is None else block.sparse.keep_ratio for block in self.across]

    def run(self, images: Tensor, fixed: dict, engine: Engine) -> FastOutput:
        """Images (S, 3, H, W) float32 in [0, 1] on the device."""
        views = len(images)
        rows, columns = (side // self.patch_size for side in images.shape[-2:])
        with engine.stage("encoder"):
            x = self._encode(images, fixed, Engine(engine.settings, engine.operators))
        maps, camera = self._aggregate(x, views, fixed, engine)
        del x
        with engine.stage("heads"):
            vectors = self.camera_head(camera.float()[None])[-1][0]
            depth, confidence = self.head.decode(maps, rows, columns)
        with engine.stage("input and output"):
            poses = torch.cat([pose.rotation_from_quaternion(vectors[:, 3:7]), vectors[:, :3, None]], dim=-1)
            return FastOutput(depth, confidence, poses, pose.usable_intrinsics(vectors[:, 7:], fixed["size"]))

    def _encode(self, images: Tensor, fixed: dict, engine: Engine) -> Tensor:
        """Tokens (S·P, C), the encoder's special ones already replaced by the aggregator's."""
        x = self.patches(images, fixed["embedding"], self.first[0])
        shape, x = x.shape, x.flatten(0, 1)
        operand = self.encoder[0].start(x, engine)
        for block, after in zip(self.encoder, [*self.encoder[1:], None]):
            operand = block.run(
                x, operand, engine, views=shape[0], across=False, rope=None, plan=None,
                after=None if after is None else after.norm1,
            )  # fmt: skip
        norm = self.encoder_norm
        x, _ = engine.operators.norm_quant(x, norm.weight, norm.bias, norm.eps, False)
        x.view(shape)[:, :SPECIALS] = fixed["specials"]
        return x

    def _aggregate(self, x: Tensor, views: int, fixed: dict, engine: Engine) -> tuple[list[Tensor], Tensor]:
        """Projected taps, each (S, N, C_i), and camera tokens (S, 2C) after the last pair."""
        config, maps, last = self.config, [], len(self.within) - 1
        frames = x.unflatten(0, (views, -1))
        with engine.stage("linear layers"):
            operand = self.within[0].start(x, engine)
        common = {"views": views, "rope": fixed["rope"]}
        for i, (within, across) in enumerate(zip(self.within, self.across)):
            operand = within.run(x, operand, engine, across=False, plan=None, after=across.norm1, **common)
            near = frames.clone() if i in config.taps else None
            after = self.within[i + 1].norm1 if i < last else None
            operand = across.run(x, operand, engine, across=True, plan=fixed["plan"], after=after, **common)
            if near is not None:
                with engine.stage("heads"):
                    maps.append(self.head.project(len(maps), near, frames, SPECIALS, engine))
                    camera = torch.cat([near[:, 0], frames[:, 0]], dim=-1)  # the last pair is among the taps
            del near
        return maps, camera
