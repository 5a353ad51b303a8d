"""The lower bound of the time on the hardware: FLOP / peak rate + bytes / bandwidth.

Bytes: every weight once, the images, the outputs. Skipped attention is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lite3r_cli.attention.module import attention_modules
from lite3r_cli.bench.measure import once
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.layers.vit import Block
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import global_layers_of, require_family
from lite3r_cli.quant.fp8 import quantize_rows
from lite3r_cli.quant.linear import quantize_tokens
from lite3r_cli.quant.swap import scaled_mm_reason

# Measured rates of matrix products on random data and of copies (bytes read and written), per second.
KNOWN = {"H200": (790e12, 1470e12, 4.2e12)}
COUNTED_VIEWS = 2
TRIALS, SIDE, COPY_BYTES = 3, {"cuda": 8192, "cpu": 2048}, {"cuda": 2**30, "cpu": 2**26}


@dataclass(frozen=True)
class Rates:
    """The peak rates of a device."""

    half: float  # FLOP/s in bfloat16, or in float32 if that is used
    fp8: float  # FLOP/s in FP8
    bandwidth: float  # bytes/s
    source: str  # where the values come from


@dataclass(frozen=True)
class Work:
    """FLOP and bytes of one prediction."""

    linear: float  # linear layers of the transformer blocks, which may run in FP8
    across: float  # attention across views, if nothing is skipped
    rest: float  # patches, attention within views, heads
    image_bytes: float  # images and output maps


def rates_of(device: torch.device, dtype: torch.dtype) -> Rates:
    """The rates of a device: from KNOWN, or measured now."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, values in KNOWN.items():
            if part in name:
                return Rates(*values, f"measured on an {part} before")
    side = SIDE.get(device.type, 2048)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    products = min(once(device, lambda: a @ b) for _ in range(TRIALS))
    source = torch.zeros(COPY_BYTES.get(device.type, 2**26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copies = min(once(device, lambda: target.copy_(source)) for _ in range(TRIALS))
    rate = 2 * side**3 / (products / 1e3)
    fp8 = 2 * side**3 / (_fp8_product_ms(a, b, device) / 1e3) if scaled_mm_reason(device) is None else rate
    return Rates(rate, fp8, 2 * len(source) / (copies / 1e3), "measured now")


def _fp8_product_ms(a: torch.Tensor, b: torch.Tensor, device: torch.device) -> float:
    """Milliseconds of an FP8 product as on the fast path, without the rounding of the operands."""
    (x, tokens), (weight, rows) = quantize_tokens(a), quantize_rows(b)
    scales = {"scale_a": tokens, "scale_b": rows[None].contiguous()}

    def product() -> torch.Tensor:
        return torch._scaled_mm(x, weight.T, **scales, out_dtype=torch.bfloat16, use_fast_accum=True)

    return min(once(device, product) for _ in range(TRIALS))


def work_of(model: Network, views: int, height: int, width: int) -> Work:
    """The work of a prediction of `views` views. It is counted in a forward pass of two views on the meta device;
    everything except attention across views is linear in the number of views.
    """
    family = require_family(model)
    with unfilled():
        twin = family.build(model.config, model.name)
    twin.requires_grad_(False)
    images = torch.empty(1, COUNTED_VIEWS, 3, height, width, device="meta")
    heads = {id(module) for name in family.heads for module in twin.get_submodule(name).modules()}
    blocks = [block for block in twin.modules() if isinstance(block, Block) and id(block) not in heads]
    used: dict[nn.Linear, None] = {}  # a network may have blocks for what was not given, such as depth
    for block in blocks:
        for layer in block.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(lambda layer, _: used.setdefault(layer))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        family.answer(twin, images, torch.arange(COUNTED_VIEWS, device="meta"))
    grid = (height // model.patch_size) * (width // model.patch_size)
    tokens = grid + family.special_tokens  # of a view
    attention = attention_modules(twin)
    width = sum(attention[name].qkv.in_features for name in global_layers_of(twin))  # channels of all global layers

    def across(count: int) -> float:
        return width * 4.0 * (count * tokens) ** 2

    linear = sum(2.0 * tokens * layer.weight.numel() for layer in used)  # of a view
    rest = (counter.get_total_flops() - across(COUNTED_VIEWS)) / COUNTED_VIEWS - linear
    return Work(views * linear, across(views), views * max(0.0, rest), views * height * width * 4.0 * (3 + 2))


def floor_ms(work: Work, rates: Rates, weight_bytes: int, fp8: bool, skipped: float) -> float:
    """The lower bound in milliseconds; `skipped` is the share of attention across views that is not computed."""
    operations = work.linear / (rates.fp8 if fp8 else rates.half)
    operations += (work.rest + work.across * (1 - skipped)) / rates.half
    return 1e3 * (operations + (work.image_bytes + weight_bytes) / rates.bandwidth)
