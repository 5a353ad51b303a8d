"""The convolutions of Pi3X's heads on the fast path: channels last, biases and positions folded into what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.operators import Operators, biased, operators
from lite3r_cli.networks.pi3.heads import ConvPixels, ResidualConv, with_position

WHOLE = 64  # channels: for fewer outputs cuDNN chose a kernel without tensor cores, 8 of 197 ms at 32 views on an H200


class _Norm:
    """Group norm as a scale and a shift (B, C), from the sums of a map whose bias has not been added yet."""

    def __init__(self, norm: nn.GroupNorm, bias: Tensor):
        self.groups, self.bias = norm.num_groups, bias
        self.norm = norm.weight.detach().float(), norm.bias.detach().float(), norm.eps

    def __call__(self, sums: Tensor, pixels: int, ops: Operators) -> tuple[Tensor, Tensor]:
        """Sums of `add_sums` → scale and shift."""
        return ops.group_affine(sums, self.norm, self.bias, self.groups, pixels)


class _Residual:
    """x + conv(relu(norm(conv(relu(norm(x)))))), where x lacks its bias `before`, and the result its bias `after`."""

    def __init__(self, block: nn.Sequential, before: Tensor, dtype: torch.dtype):
        first, _, conv, second, _, last = block
        assert isinstance(first, nn.GroupNorm) and isinstance(second, nn.GroupNorm)
        (weight, self.inner), (last_weight, bias) = _convolution(conv, dtype), _convolution(last, dtype)
        self.weights = weight, last_weight
        self.norms = _Norm(first, before), _Norm(second, self.inner)
        self.after = before + bias

    def __call__(self, x: Tensor, sums: Tensor, ops: Operators) -> Tensor:
        """x (B, C, h, w) and its sums → what is to be added to x."""
        pixels = x.shape[-2] * x.shape[-1]
        inner = F.conv2d(ops.norm_relu_pad(x, self.norms[0](sums, pixels, ops)), self.weights[0])
        affine = self.norms[1](ops.add_sums(inner, None, self.inner), pixels, ops)
        return F.conv2d(ops.norm_relu_pad(inner, affine), self.weights[1])


class _Stage:
    """A transposed convolution that doubles the size, a convolution, and two residual blocks. The input lacks its bias
    `before`, the output its bias `after`.
    """

    def __init__(self, stage: nn.Module, before: Tensor, dtype: torch.dtype):
        double, blocks = stage.get_submodule("0.0"), list(stage.children())[1:]
        assert isinstance(double, nn.ConvTranspose2d) and double.bias is not None
        weight = double.weight.detach().float()  # (C + 2, out, 2, 2); the last two inputs are the position
        cells = weight[:-2].permute(2, 3, 1, 0).flatten(0, 2)  # (4 out, C)
        constant = double.bias.detach().float().repeat(4) + cells @ before
        self.cells = cells.to(dtype)
        self.table = torch.stack([*weight[-2:].permute(0, 2, 3, 1).flatten(1), constant])  # (3, 4 out)
        self.weight, self.bias = _convolution(stage.get_submodule("0.1"), dtype)
        self.after = self.bias
        self.blocks: list[_Residual] = []
        for block in blocks:
            assert isinstance(block, ResidualConv)
            self.blocks.append(_Residual(block.layers, self.after, dtype))
            self.after = self.blocks[-1].after

    def __call__(self, cells: Tensor, spans: tuple[float, float], ops: Operators) -> Tensor:
        """(B, h, w, C) → (B, out, 2 h, 2 w)."""
        x = F.conv2d(ops.double_pad(F.linear(cells, self.cells), self.table, spans), self.weight)
        sums = ops.add_sums(x, None, self.bias)
        for block in self.blocks[:-1]:
            sums = ops.add_sums(x, block(x, sums, ops), block.after)
        return x.add_(self.blocks[-1](x, sums, ops))


class FastConvPixels:
    """The fast form of `ConvPixels`."""

    def __init__(self, head: ConvPixels, settings: Settings):
        self.patch_size, self.dtype = head.patch_size, settings.dtype
        first = head.upsample_blocks[0].get_submodule("0.0")
        assert isinstance(first, nn.ConvTranspose2d)
        bias = first.weight.new_zeros(first.in_channels - 2).float()
        self.operators = operators(bias.device, settings.kernels)
        self.stages: list[_Stage] = []
        for stage in head.upsample_blocks:
            self.stages.append(_Stage(stage, bias, self.dtype))
            bias = self.stages[-1].after
        hidden, last = ([biased(output[i]) for output in head.output_block] for i in (0, -1))
        weight = torch.cat([w.float() for w, _ in hidden])  # all outputs together
        added = -len(weight) % WHOLE
        weight = F.pad(weight, (0, 0) * 3 + (0, added))
        self.weight = weight[:, :-2].to(self.dtype).contiguous(memory_format=torch.channels_last)
        self.place = weight[:, -2:]
        self.bias = F.pad(torch.cat([b.float() for _, b in hidden]), (0, added)) + weight[:, :-2].sum((2, 3)) @ bias
        values = torch.block_diag(*(w.float().flatten(1) for w, _ in last))
        self.last = F.pad(values, (0, added)), torch.cat([b.float() for _, b in last])
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def __call__(self, tokens: Tensor, rows: int, columns: int) -> list[Tensor]:
        """Patch tokens (B, N, C) → one map (B, all channels, H, W) float32."""
        ops, aspect = self.operators, columns / rows
        x = tokens.to(self.dtype).unflatten(1, (rows, columns))
        spans = aspect / (1 + aspect**2) ** 0.5, 1 / (1 + aspect**2) ** 0.5
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else x.permute(0, 2, 3, 1), spans, ops)
        x = ops.enlarge_pad(x, (rows * self.patch_size, columns * self.patch_size))
        x = F.conv2d(x, self.weight)
        return [ops.pixel_values(x, self._table(rows, columns), *self.last)]

    def _table(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """What the position and the biases add to the last convolutions: by column (W, C) and by row (H, C), because
        one of its two channels depends on the column only, the other on the row. Cached, because it must exist before a
        graph is captured.
        """
        if (rows, columns) not in self._tables:
            nothing = self.bias.new_zeros(1, 0, rows * self.patch_size, columns * self.patch_size)
            place = with_position(nothing, columns / rows)
            u, v = (F.pad(t, (1, 1), mode="replicate") for t in (place[:, :1, 0], place[:, 1:, :, 0]))  # (1, 1, n + 2)
            across = F.conv1d(u, self.place[:, :1].sum(2), self.bias)[0].T  # the same in all rows
            down = F.conv1d(v, self.place[:, 1:].sum(3))[0].T
            self._tables[rows, columns] = across.contiguous(), down.contiguous()
        return self._tables[rows, columns]


def _convolution(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight, channels last, and bias, float32."""
    weight, bias = biased(layer)
    return weight.to(dtype).contiguous(memory_format=torch.channels_last), bias.float()
