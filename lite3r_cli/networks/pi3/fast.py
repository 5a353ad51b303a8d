"""π³ and Pi3X on the fast path: encoder, decoder and the heads' transformers over rows of tokens, then points,
confidence and cameras a few views at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.engine.fast_heads import fast_camera_head
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Product, Settings, Tokens, encode
from lite3r_cli.engine.packing import Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import FastForm, Known
from lite3r_cli.layers.buckets import pack_ropes
from lite3r_cli.layers.heads.pose import rotation_from_quaternion
from lite3r_cli.layers.vit import patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.pi3.fast_given import More, patch_places
from lite3r_cli.networks.pi3.fast_pixels import FastConvPixels
from lite3r_cli.networks.pi3.heads import CameraHead, ConvPixels, HeadTransformer, LinearPixels
from lite3r_cli.networks.pi3.network import (
    LARGEST_LOG_DEPTH,
    REGISTERS,
    Pi3,
    cam_from_first,
    intrinsics_from_points,
    with_usable_focal,
)

# squarings of a 4×4 matrix, in rounds; enough for its dominant eigenvector unless two eigenvalues agree to 1e-12
ROUNDS, SQUARINGS = 8, 5


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
        self.transformers = [
            _FastHead(head, settings) for head in (model.point_decoder, model.conf_decoder, model.camera_decoder)
        ]
        # points are an exponential of the last layers, which therefore stay float32, as on the ordinary path
        self.points, self.sure = (_pixels(head, settings) for head in (model.point_head, model.conf_head))
        self.camera = fast_camera_head(model.camera_head, settings, "res_conv")
        self.more = More(model, settings) if model.metric else None

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packing, RoPE tables, position embeddings."""
        prepared = Prepared.of(shape, self.patch_size, REGISTERS, self.settings, device, reference=False)
        head_dim = self.config.dim // self.config.heads
        ropes, embeddings = [], []
        counts = [len(bucket.views) for bucket in prepared.packing.buckets]
        for bucket in prepared.packing.buckets:
            positions = patch_positions(*bucket.grid, REGISTERS, device)
            ropes.append(rope_table(positions, head_dim, published=True))
            embeddings.append(resize_position_embedding(self.position[:, 1:], *bucket.grid, antialias=True)[0].float())
        fixed: dict[str, Any] = {"ropes": ropes, "embeddings": embeddings}
        if self.more is not None:
            fixed |= {"packed ropes": pack_ropes(ropes, counts), "places": patch_places(prepared.packing, device)}
        return prepared, fixed

    def known(self, cameras: KnownCameras, prepared: Prepared) -> Known:
        """What Pi3X is told: the encoding of rays and depth (patches of all views, C); if poses are known,
        cam_from_first (S, 4, 4) as well; and if only some are, which ones (S,).
        """
        return super().known(cameras, prepared) if self.more is None else self.more.known(cameras, prepared)

    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device."""
        with engine.stage("encoder"):
            tokens = self.patches.tokens(images, fixed["embeddings"], self.first[0], prepared)
            plain = Engine(engine.settings, engine.operators)
            encode(self.encoder, self.encoder_norm, tokens, plain)
            _place_specials(tokens, self.registers, known)
        tokens.ropes = tokens.ropes_across = fixed["ropes"]
        with engine.stage("linear layers"):
            operand = self.layers[0].start(tokens.x, engine)
        near: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            after = self.layers[i + 1].norm1 if i + 1 < len(self.layers) else None
            step = layer.across if self.config.is_global(i) else layer.within
            operand = step(tokens, operand, engine, after)
            if self.more is not None and known is not None and self.more.inject(i, tokens, known, fixed["places"]):
                operand = self.layers[i + 1].start(tokens.x, engine)  # the block before it normed other tokens
            if i == len(self.layers) - 2:
                near = [frames.clone() for frames in tokens.frames()]
        with engine.stage("heads"):
            both = torch.cat([torch.cat([n.flatten(0, 1) for n in near]), tokens.x], dim=-1)  # (T, 2C)
            del near, operand
            read = [head(both, tokens, engine) for head in self.transformers]
            buckets = prepared.packing.buckets
            found = [self._decode([b.frames(x)[:, REGISTERS:] for x in read], b.grid) for b in buckets]
            poses = _poses(self.camera, prepared.by_view([pooled for _, _, _, pooled in found]))
            K = with_usable_focal(prepared.by_view([intrinsics for _, _, intrinsics, _ in found]))
            metric = None if self.more is None else self.more.metres_per_unit(both, fixed["packed ropes"])
        with engine.stage("input and output"):
            scale = 1.0 if metric is None else metric
            decoded = [(depth * scale, confidence) for depth, confidence, _, _ in found]
            return FastOutput.of(prepared.packing, decoded, cam_from_first(poses, scale), K)

    def _decode(self, read: list[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the heads' transformers give for the patches, (S, N, C_k) each → depth and confidence (S, H, W),
        K (S, 3, 3), and the camera features (S, C).
        """
        parts = []
        for first in range(0, len(read[0]), self.settings.head_frames):
            points, sure, camera = (each[first : first + self.settings.head_frames] for each in read)
            maps = torch.cat(self.points(points, *grid), dim=1)
            z = (maps[:, 2] if self.more is None else maps[:, 2].clamp(max=LARGEST_LOG_DEPTH)).exp()
            local = torch.stack([maps[:, 0] * z, maps[:, 1] * z, z], dim=-1)
            confidence = 1 + self.sure(sure, *grid)[0][:, 0].exp()
            parts.append((z, confidence, intrinsics_from_points(local), _pooled(self.camera, camera.float())))
        depth, confidence, K, pooled = (torch.cat(column) for column in zip(*parts))
        return depth, confidence, K, pooled


def _place_specials(tokens: Tokens, registers: Tensor, known: Known | None) -> None:
    """Replace the encoder's special tokens by `registers` (5, C), and add the encoding of rays and depth to patches."""
    start = 0
    for frames in tokens.frames():
        frames[:, :REGISTERS] = registers.to(frames.dtype)
        if known is not None:
            count = frames.shape[0] * (frames.shape[1] - REGISTERS)
            frames[:, REGISTERS:] += known[0][start : start + count].view_as(frames[:, REGISTERS:]).to(frames.dtype)
            start += count


class _FastHead:
    """The transformer of a head over the rows of all views; its products are never FP8."""

    def __init__(self, head: HeadTransformer, settings: Settings):
        self.settings = replace(settings, fp8=False)
        self.first, self.last = Product(head.projects, self.settings), Product(head.linear_out, self.settings)
        self.blocks = [FastBlock(block, self.settings) for block in head.blocks]

    def __call__(self, x: Tensor, tokens: Tokens, engine: Engine) -> Tensor:
        """x (T, 2C) → (T, out). `tokens` has the packing and the RoPE tables."""
        inner = Engine(self.settings, engine.operators)
        own = replace(tokens, x=self.first((x, None)) + self.first.bias.to(x.dtype))
        operand = self.blocks[0].start(own.x, inner)
        for block, after in zip(self.blocks, [*self.blocks[1:], None]):
            operand = block.within(own, operand, inner, None if after is None else after.norm1)
        return self.last((own.x, None)) + self.last.bias.to(x.dtype)


def _pixels(head: LinearPixels | ConvPixels, settings: Settings) -> LinearPixels | FastConvPixels:
    """The last layers of a head."""
    return FastConvPixels(head, settings) if isinstance(head, ConvPixels) else copy.deepcopy(head).float().eval()


def _pooled(head: CameraHead, tokens: Tensor) -> Tensor:
    """Patch tokens (S, N, C) → the features of each view's camera (S, C)."""
    for block in head.res_conv:
        tokens = block(tokens)
    return tokens.mean(1)


def _poses(head: CameraHead, pooled: Tensor) -> Tensor:
    """The features of all cameras → world_from_cam (S, 3, 4), as `CameraHead`, but without a singular value
    decomposition, which a CUDA graph cannot capture.
    """
    x = head.more_mlps(pooled)
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
    for _ in range(ROUNDS):
        Q = Q / Q.abs().amax((-1, -2), keepdim=True)  # a round then ends between 1 and 2**62
        for _ in range(SQUARINGS):
            Q = Q @ Q
    diagonal = Q.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]  # the column with the smallest rounding error
    quaternion = Q.gather(-1, diagonal.expand(*Q.shape[:-1], 1))[..., 0]
    return rotation_from_quaternion(quaternion).to(matrix.dtype)
