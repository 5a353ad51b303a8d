"""MapAnything's dense head on the fast path: token maps are projected as soon as they exist, convolutions run with
channels last.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.engine.fast_heads import Fusion, convolutions
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.operators import biased, operators
from lite3r_cli.networks.map_anything.heads import RAW_CHANNELS, DenseHead


class FastDenseHead:
    """A dense head in two calls: `project` for each of its four token maps, then `decode`."""

    def __init__(self, head: DenseHead, settings: Settings):
        pyramid, regressor = copy.deepcopy(head).eval().parts()
        self.patch_size, self.settings = head.patch_size, settings
        self.operators = operators(next(head.parameters()).device, settings.kernels)
        self.projections = []
        self.levels = []
        for process in pyramid.input_process:
            first, last = process
            assert isinstance(first, torch.nn.Sequential)
            projection, *resize = first
            weight, bias = biased(projection)
            self.projections.append((weight.flatten(1).to(settings.dtype), bias.to(settings.dtype)))
            self.levels.append(convolutions(torch.nn.Sequential(*resize, last), settings.dtype))
        scratch = convolutions(pyramid.scratch, settings.dtype)
        self.fusions = [Fusion(getattr(scratch, f"refinenet{i}")) for i in (4, 3, 2, 1)]
        hidden, _relu, last = regressor.conv2
        self.before = convolutions(regressor.conv1, settings.dtype)
        weight, bias = biased(last)
        self.last = weight.flatten(1).float(), bias.float()  # float32, since depth is an exponential
        self.hidden = convolutions(hidden, settings.dtype)

    def project(self, i: int, tokens: Tensor) -> Tensor:
        """The first layer of the i-th map: tokens (S, N, C_i) → (S, N, stage)."""
        return F.linear(tokens, *self.projections[i])

    def decode(self, maps: list[Tensor], rows: int, columns: int) -> Tensor:
        """Four projected maps (S, N, stage) → raw channels (S, 6, H, W) float32."""
        ops, (coarsest, *others) = self.operators, self.fusions
        levels = [level(m.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)) for level, m in zip(self.levels, maps)]
        top = coarsest(None, levels.pop(), ops)
        size = (2 * top.shape[-2], 2 * top.shape[-1])
        top = ops.resize_map(top, size)[..., :rows, :columns]  # half of an odd side was rounded up
        for fusion in others:
            top = fusion(top.contiguous(memory_format=torch.channels_last), levels.pop(), ops)
        top = self.before(ops.resize_map(top, (8 * rows, 8 * columns)))
        top = ops.resize_map(top, (self.patch_size * rows, self.patch_size * columns))
        hidden = F.relu_(self.hidden(top))
        raw = hidden.new_empty(len(hidden), RAW_CHANNELS, *hidden.shape[-2:], dtype=torch.float32)
        weight, bias = self.last
        for target, each in zip(raw, hidden):  # one view at a time, because float32 takes twice the memory
            target.copy_((each.permute(1, 2, 0).float() @ weight.T + bias).permute(2, 0, 1))
        return raw
