"""VGGT-Ω on the fast path: as VGGT, with rotated halves of heads, register attention and a head of 4×4 cells."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.engine.fast_heads import FastDepthHead, fast_camera_head
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings, Tokens, encode
from lite3r_cli.engine.operators import biased
from lite3r_cli.engine.packing import Bucket, Packing, Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import FastForm, Known
from lite3r_cli.engine.sparse_layers import Plans
from lite3r_cli.engine.twins import Operand
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.heads.dpt import DPTHead
from lite3r_cli.layers.vit import HalvesTable, RopeTable
from lite3r_cli.networks.vggt_omega.network import SPECIALS, VGGTOmega
from lite3r_cli.networks.vggt_omega.parts import STORAGE, PixelShuffleHead


class FastVGGTOmega(FastForm):
    """The fast form of a loaded VGGT-Ω; the original may be freed afterwards."""

    def __init__(self, model: VGGTOmega, settings: Settings):
        aggregator, encoder, config = model.aggregator, model.aggregator.patch_embed, model.config
        self.config, self.settings, self.patch_size = config, settings, model.patch_size
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.first = torch.cat([encoder.cls_token, encoder.storage_tokens], dim=1)[0].detach()  # (5, C)
        self.special = torch.cat([aggregator.camera_token, aggregator.register_token], dim=2)[0].detach()  # (2, 17, C)
        device = self.first.device
        self.encoder_rope, self.rope = (copy.deepcopy(part.rope_embed) for part in (encoder, aggregator))
        self.encoder_order, self.order = (
            HalvesTable.axial_order(config.dim // heads).to(device) for heads in (config.encoder_heads, config.heads)
        )
        self.encoder = [FastBlock(b, settings, order=self.encoder_order) for b in encoder.blocks]
        self.encoder_norm = Norm.of(encoder.norm)
        last = config.pairs - 1
        self.layers_within = [
            FastBlock(b, settings, i == last, self.order) for i, b in enumerate(aggregator.frame_blocks)
        ]
        self.between = [FastBlock(b, settings, i == last) for i, b in enumerate(aggregator.inter_frame_blocks)]
        self.layers_across = [self.between[i] for i in config.global_pairs]
        self.head = _FastCellHead(model.dense_head, settings)
        self.camera_head = fast_camera_head(model.camera_head, settings)

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packings, RoPE tables, special tokens."""
        prepared = Prepared.of(shape, self.patch_size, SPECIALS, self.settings, device)
        grids = [bucket.grid for bucket in prepared.packing.buckets]
        kinds = [[min(view, 1) for view in bucket.views] for bucket in prepared.packing.buckets]
        return prepared, {
            "encoder": Prepared.of(shape, self.patch_size, 1 + STORAGE, self.settings, device, reference=False),
            "encoder ropes": [
                _axial(self.encoder_rope.table(*grid, 1 + STORAGE), self.encoder_order) for grid in grids
            ],
            "embeddings": [torch.zeros(1, self.config.dim, device=device)] * len(grids),  # RoPE replaces them
            "ropes": [_axial(self.rope.table(*grid, SPECIALS), self.order) for grid in grids],
            "specials": [self.special[kind].to(self.settings.dtype) for kind in kinds],
            "registers": _of_specials(prepared, self.settings, device),
            "first": torch.tensor(prepared.packing.places[0], device=device),
        }

    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device."""
        with engine.stage("encoder"):
            tokens = self._encode(images, prepared, fixed, Engine(engine.settings, engine.operators))
        tokens.ropes, tokens.reference = fixed["ropes"], fixed["first"]
        maps, special = self._aggregate(tokens, fixed["registers"], engine)
        del tokens
        with engine.stage("heads"):
            vectors = self.camera_head(prepared.by_view(special).float()[None])[0]
            grids = [bucket.grid for bucket in prepared.packing.buckets]
            decoded = [self.head.decode(each, *grid) for each, grid in zip(maps, grids)]
        with engine.stage("input and output"):
            return FastOutput.of(prepared.packing, decoded, *pose.cameras(vectors, prepared.sizes))

    def _encode(self, images: Sequence[Tensor], prepared: Prepared, fixed: dict[str, Any], engine: Engine) -> Tokens:
        """Run the image encoder; the special tokens of the result are those of the aggregator."""
        inner = self.patches.tokens(images, fixed["embeddings"], self.first, fixed["encoder"])
        inner.ropes = fixed["encoder ropes"]
        encode(self.encoder, self.encoder_norm, inner, engine)
        tokens = Tokens(inner.x.new_empty(prepared.packing.tokens, inner.x.shape[1]), prepared)
        for frames, seen, specials in zip(tokens.frames(), inner.frames(), fixed["specials"]):
            frames[:, :SPECIALS], frames[:, SPECIALS:] = specials, seen[:, 1 + STORAGE :]
        return tokens

    def _aggregate(
        self, tokens: Tokens, registers: Prepared, engine: Engine
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Per bucket: the projected taps, (S_b, N, C_i) each, and the special tokens (S_b, 17, 2C) after the last
        pair.
        """
        config, last = self.config, len(self.between) - 1
        frames = tokens.frames()
        maps: list[list[Tensor]] = [[] for _ in frames]
        special: list[Tensor] = []
        with engine.stage("linear layers"):
            operand = self.layers_within[0].start(tokens.x, engine)
        for i, (within, between) in enumerate(zip(self.layers_within, self.between)):
            after = self.layers_within[i + 1].norm1 if i < last else None
            only_special = i in config.register_pairs
            # patches skip a block among special tokens: their operand is already that of the next block within views
            operand = within.within(tokens, operand, engine, after if only_special else between.norm1)
            near = [each.clone() for each in frames] if i in config.taps else None
            if only_special:
                self._among_specials(between, tokens, operand, registers, engine, after)
            else:
                operand = between.across(tokens, operand, engine, after)
            if near is not None:
                with engine.stage("heads"):
                    for found, a, b in zip(maps, near, frames):
                        found.append(self.head.project(len(found), a, b, SPECIALS, engine))
                    # the last pair is among the taps
                    special = [torch.cat([a[:, :SPECIALS], b[:, :SPECIALS]], dim=-1) for a, b in zip(near, frames)]
            del near
        return maps, special

    def _among_specials(
        self, block: FastBlock, tokens: Tokens, operand: Operand, registers: Prepared, engine: Engine,
        after: Norm | None,
    ) -> None:  # fmt: skip
        """Run a block over the special tokens of all views. Changes them in `tokens`, and their rows of `operand` to
        the output of the norm `after`.
        """
        some = Tokens(torch.cat([frames[:, :SPECIALS].flatten(0, 1) for frames in tokens.frames()]), registers)
        found = block.across(some, block.start(some.x, engine), engine, after)
        for whole, part in zip(tokens.packing.buckets, registers.packing.buckets):
            whole.frames(tokens.x)[:, :SPECIALS] = part.frames(some.x)
            for target, values in zip(operand, found):
                if after is not None and target is not None and values is not None:
                    whole.frames(target)[:, :SPECIALS] = part.frames(values)


def _axial(table: HalvesTable, order: Tensor) -> RopeTable:
    """The table for channels in the order of `rope_table`."""
    cos, sin = (each[:, order].contiguous() for each in table)
    return cos, sin


def _of_specials(prepared: Prepared, settings: Settings, device: torch.device) -> Prepared:
    """The packing of the special tokens alone."""
    buckets, start = [], 0
    for bucket in prepared.packing.buckets:
        buckets.append(Bucket(bucket.views, (0, 0), SPECIALS, start))
        start += len(bucket.views) * SPECIALS
    packing = Packing(tuple(buckets), SPECIALS)
    plans = Plans(packing, settings.query_tiles, settings.crossover, device, False)
    numbers = torch.arange(packing.tokens, device=device, dtype=torch.int32)
    return replace(prepared, packing=packing, whole=packing, plans=plans, numbers=numbers)


class _FastCellHead(FastDepthHead):
    """The dense head in two calls, see `FastDepthHead`."""

    def _keep_end(self, head: DPTHead) -> None:
        if not isinstance(head, PixelShuffleHead):
            raise TypeError(f"the fast path of VGGT-Ω needs its own dense head, not {type(head).__name__}")
        (weight, bias), (weight_conf, bias_conf) = biased(head.proj), biased(head.proj_conf)
        self.cell = head.CELL
        self.last = torch.cat([weight, weight_conf]).flatten(1).float(), torch.cat([bias, bias_conf]).float()

    def _last_position(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return self._position(self.last[0].shape[1], self.finest * rows, self.finest * columns, columns / rows)

    def _end(self, top: Tensor, position: tuple[Tensor, Tensor], depth: Tensor, confidence: Tensor) -> None:
        size = (depth.shape[1] // self.cell, depth.shape[2] // self.cell)
        top = self.operators.resize_map(top, size, position)
        weight, bias = self.last
        raw = (top.permute(0, 2, 3, 1).float() @ weight.T + bias).permute(0, 3, 1, 2)  # (B, 2 · 16, h, w)
        values = F.pixel_shuffle(raw, self.cell)  # (B, 2, H, W)
        depth.copy_(values[:, 0].exp())
        confidence.copy_(values[:, 1].exp() + 1)
