"""π³ on the fast path: encoder and decoder over rows of tokens, then its own heads, a few views at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import FastForm
from lite3r_cli.layers.buckets import HALF_PRECISION, cast_products, trunk_precision
from lite3r_cli.layers.heads.pose import rotation_from_quaternion
from lite3r_cli.layers.vit import RopeTable, patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.pi3.heads import CameraHead, HeadTransformer
from lite3r_cli.networks.pi3.network import REGISTERS, Pi3, cam_from_first, intrinsics_from_points

SQUARINGS = 40  # squarings of a 4×4 matrix; enough for its dominant eigenvector unless two eigenvalues agree to 1e-12


class FastPi3(FastForm):
    """The fast form of a loaded π³; the original may be freed afterwards."""

    def __init__(self, model: Pi3, settings: Settings):
        encoder = model.encoder
        self.config, self.settings, self.patch_size = model.config, settings, model.patch_size
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = torch.cat([encoder.cls_token + encoder.pos_embed[:, :1], encoder.register_tokens], dim=1).detach()
        self.registers = model.register_token[0, 0].detach()  # (5, C)
        self.encoder = [FastBlock(b, settings) for b in encoder.blocks]
        self.encoder_norm = Norm.of(encoder.norm)
        exact = model.config.depth - 2  # see `networks.family.exact_products`
        self.layers = [FastBlock(b, settings, exact_projection=i >= exact) for i, b in enumerate(model.decoder)]
        self.layers_across = [layer for i, layer in enumerate(self.layers) if model.config.is_global(i)]
        # points are an exponential of the last layers, which therefore stay float32, as on the ordinary path
        self.decoders = [
            _half(head, settings) for head in (model.point_decoder, model.conf_decoder, model.camera_decoder)
        ]
        self.points, self.sure = (copy.deepcopy(head).float().eval() for head in (model.point_head, model.conf_head))
        self.camera = copy.deepcopy(model.camera_head).float().eval()

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packing, RoPE tables, position embeddings."""
        prepared = Prepared.of(shape, self.patch_size, REGISTERS, self.settings, device, reference=False)
        head_dim = self.config.dim // self.config.heads
        ropes, embeddings = [], []
        for bucket in prepared.packing.buckets:
            positions = patch_positions(*bucket.grid, REGISTERS, device)
            ropes.append(rope_table(positions, head_dim, published=True))
            embeddings.append(resize_position_embedding(self.position[:, 1:], *bucket.grid, antialias=True)[0].float())
        return prepared, {"ropes": ropes, "embeddings": embeddings}

    def run(
        self, images: Sequence[Tensor], known: Tensor | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device."""
        with engine.stage("encoder"):
            tokens = self.patches.tokens(images, fixed["embeddings"], self.first[0], prepared)
            plain = Engine(engine.settings, engine.operators)
            operand = self.encoder[0].start(tokens.x, plain)
            for block, following in zip(self.encoder, [*self.encoder[1:], None]):
                operand = block.within(tokens, operand, plain, None if following is None else following.norm1)
            norm = self.encoder_norm
            tokens.x, _ = engine.operators.norm_quant(tokens.x, norm.weight, norm.bias, norm.eps, False)
            for frames in tokens.frames():
                frames[:, :REGISTERS] = self.registers.to(frames.dtype)
        tokens.ropes = tokens.ropes_across = fixed["ropes"]
        with engine.stage("linear layers"):
            operand = self.layers[0].start(tokens.x, engine)
        near: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            after = self.layers[i + 1].norm1 if i + 1 < len(self.layers) else None
            step = layer.across if self.config.is_global(i) else layer.within
            operand = step(tokens, operand, engine, after)
            if i == len(self.layers) - 2:
                near = [frames.clone() for frames in tokens.frames()]
        with engine.stage("heads"):
            both = [torch.cat(pair, dim=-1) for pair in zip(near, tokens.frames())]
            del near
            grids = [bucket.grid for bucket in prepared.packing.buckets]
            found = [self._decode(*each) for each in zip(both, grids, fixed["ropes"])]
            poses = prepared.by_view([cameras for _, _, _, cameras in found])
            K = prepared.by_view([intrinsics for _, _, intrinsics, _ in found])
        with engine.stage("input and output"):
            decoded = [(depth, confidence) for depth, confidence, _, _ in found]
            return FastOutput.of(prepared.packing, decoded, cam_from_first(poses), K)

    def _decode(self, tokens: Tensor, grid: tuple[int, int], rope: RopeTable) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens (S, 5 + N, 2C) → depth and confidence (S, H, W), K (S, 3, 3) and world_from_cam (S, 3, 4)."""
        parts = []
        for first in range(0, len(tokens), self.settings.head_frames):
            some = tokens[first : first + self.settings.head_frames]
            read = []
            for decoder in self.decoders:
                with trunk_precision(some.device, self.settings.dtype):
                    read.append(decoder(some, rope)[:, REGISTERS:].float())
            maps = self.points(read[0], *grid)[0]
            z = maps[:, 2].exp()
            local = torch.stack([maps[:, 0] * z, maps[:, 1] * z, z], dim=-1)
            sure = 1 + self.sure(read[1], *grid)[0][:, 0].exp()
            parts.append((z, sure, intrinsics_from_points(local), _camera(self.camera, read[2])))
        depth, sure, K, cameras = (torch.cat(column) for column in zip(*parts))
        return depth, sure, K, cameras


def _half(head: HeadTransformer, settings: Settings) -> nn.Module:
    """A copy of a head whose matrix products run in the engine's precision."""
    twin = copy.deepcopy(head).float().eval()
    if settings.dtype in HALF_PRECISION:
        cast_products(twin, settings.dtype)
    return twin


def _camera(head: CameraHead, tokens: Tensor) -> Tensor:
    """`CameraHead` without a singular value decomposition, which a CUDA graph cannot capture."""
    x = tokens
    for block in head.res_conv:
        x = block(x)
    x = head.more_mlps(x.mean(1))
    rotation = nearest_rotation_by_powers(head.fc_rot(x).unflatten(-1, (3, 3)))
    return torch.cat([rotation, head.fc_t(x)[..., None]], dim=-1)


def nearest_rotation_by_powers(matrix: Tensor) -> Tensor:
    """`heads.nearest_rotation` of (…, 3, 3) without SVD: Davenport's q-method with repeated squaring.

    The quaternion of the rotation R that maximises tr(Rᵀ A) is the dominant eigenvector of a symmetric 4×4 matrix
    (Keat, Analysis of least-squares attitude determination routine DOAOP, 1977).
    """
    A = F.normalize(matrix.double(), dim=-1, eps=1e-12)
    m = {(i, j): A[..., i, j] for i in range(3) for j in range(3)}
    x, y, z = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    a, b, c = m[0, 0], m[1, 1], m[2, 2]
    rows = (
        (a - b - c, xy, xz, x),
        (xy, b - a - c, yz, y),
        (xz, yz, c - a - b, z),
        (x, y, z, a + b + c),
    )  # scalar last, as `rotation_from_quaternion`
    Q = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = Q.abs().sum(-1).amax(-1)[..., None, None].clamp(min=1e-30)
    Q = Q / largest + torch.eye(4, dtype=Q.dtype, device=Q.device)  # eigenvalues in [0, 2], so the largest dominates
    for _ in range(SQUARINGS):
        Q = Q @ Q
        Q = Q / Q.abs().amax((-1, -2), keepdim=True)
    diagonal = Q.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]  # the column with the smallest rounding error
    quaternion = Q.gather(-1, diagonal.expand(*Q.shape[:-1], 1))[..., 0]
    return rotation_from_quaternion(quaternion).to(matrix.dtype)
