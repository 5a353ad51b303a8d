"""Right before fast: what must hold before a ratio is printed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lite3r_cli.attention import dense
from lite3r_cli.bench.variants import Answer, Variant
from lite3r_cli.engine.check import OperatorCheck, Sizes, check_operators

DENSE_TOLERANCE = 0.1  # relative difference in depth between two ways to round in half precision, random weights
SMALL = Sizes(tokens=130, heads=2, blocks=9)  # enough for plain torch
SETTINGS = "keep ratio and FP8 are not judged here: lite3r eval scores them on scenes with ground truth"


def operator_checks(variants: Sequence[Variant], device: torch.device, dtype: torch.dtype) -> list[OperatorCheck]:
    """Of every fused operator that the variants use."""
    kinds = sorted({v.fp8 for v in variants if v.fast})
    sizes = Sizes() if device.type == "cuda" else SMALL
    checks = [check for fp8 in kinds for check in check_operators(device, dtype, fp8, sizes=sizes)]
    if device.type == "cpu" and dtype == torch.bfloat16 and dense.bfloat16_by_products():
        checks.append(_products())
    return checks


def _products() -> OperatorCheck:
    make = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 927, 64, generator=make).bfloat16() for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    exact = attend(*(t.double() for t in (q, k, v)))
    ours, usual = (
        float((t - exact).norm() / exact.norm()) for t in (dense.dense_by_products(q, k, v), attend(q, k, v))
    )
    return OperatorCheck("dense attention by products", ours, usual)


def complaints(variant: Variant, answer: Answer, first: Answer, shape: tuple[int, int, int]) -> list[str]:
    """What is wrong with an answer; `first` is that of the first column to the same images."""
    depth, confidence, cameras = answer
    wrong = []
    if depth.shape != shape or confidence.shape != shape or len(cameras) != shape[0]:
        wrong.append(f"{variant.name}: incomplete outputs")
    elif not all(bool(torch.isfinite(t).all()) for t in answer) or depth.dtype != torch.float32:
        wrong.append(f"{variant.name}: outputs that are not finite float32")
    elif variant.name == "dense" and not difference(depth, first[0]) <= DENSE_TOLERANCE:
        wrong.append(f"{variant.name}: depth differs by {difference(depth, first[0]):.3f} from the first column's")
    return wrong


def difference(depth: Tensor, reference: Tensor) -> float:
    """Relative, ‖a − b‖ / ‖b‖."""
    return float((depth.float() - reference.float()).norm() / reference.float().norm().clamp(min=1e-30))
