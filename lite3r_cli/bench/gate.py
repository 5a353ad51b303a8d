"""Correctness checks that must pass before `lite3r bench` prints a speed-up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lite3r_cli.bench.variants import Answer, Variant
from lite3r_cli.engine.check import OperatorCheck, Sizes, check_operators
from lite3r_cli.layers import dense

DENSE_TOLERANCE = 0.1  # relative depth difference between two dense variants in half precision, with random weights
# Largest relative depth difference of a lite variant from the dense output for the same images: LITTLE_LIMIT if at most
# the share LITTLE of the blocks is skipped, else MUCH_LIMIT. These are the accuracy limits of the lite form.
LITTLE, LITTLE_LIMIT, MUCH_LIMIT = 0.8, 0.03, 0.08
# Random weights and stand-in images amplify rounding (FP8 alone gives 0.10): this limit only detects wrong code.
STAND_IN_LIMIT = 0.2
SMALL = Sizes(tokens=130, heads=2, blocks=9)  # enough for plain torch
SETTINGS = "how accurate keep ratio and FP8 are on scenes with ground truth, lite3r eval tells"


def operator_checks(variants: Sequence[Variant], device: torch.device, dtype: torch.dtype) -> list[OperatorCheck]:
    """The checks of every fused operator that the variants use."""
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
    exact = attend(q.double(), k.double(), v.double())
    ours, usual = (
        float((t - exact).norm() / exact.norm()) for t in (dense.dense_by_products(q, k, v), attend(q, k, v))
    )
    return OperatorCheck("dense attention by products", ours, usual)


def complaints(variant: Variant, answer: Answer, reference: Answer, shape: tuple[int, int, int]) -> list[str]:
    """What is wrong with the output of a variant. `reference` is the output of the first dense variant for the same
    images; `shape` is (S, H, W).
    """
    depth, confidence, cameras = answer
    wrong = []
    if depth.shape != shape or confidence.shape != shape or len(cameras) != shape[0]:
        wrong.append(f"{variant.name}: incomplete outputs")
    elif not all(bool(torch.isfinite(t).all()) for t in answer) or depth.dtype != torch.float32:
        wrong.append(f"{variant.name}: outputs that are not finite float32")
    elif variant.name == "dense" and not difference(depth, reference[0]) <= DENSE_TOLERANCE:
        wrong.append(f"{variant.name}: depth differs by {difference(depth, reference[0]):.3f} from the first column's")
    return wrong


def reason_against_ratio(variant: str, depth_difference: float, skipped: float, stand_in: bool) -> str | None:
    """Why no speed-up is reported for a variant although all checks passed; None if it is reported."""
    limit = STAND_IN_LIMIT if stand_in else LITTLE_LIMIT if skipped <= LITTLE else MUCH_LIMIT
    if variant != "lite" or depth_difference <= limit:
        return None
    return f"no speed-up for {variant}: its depth differs by {depth_difference:.3f} from dense, {limit} is the limit"


def difference(depth: Tensor, reference: Tensor) -> float:
    """The relative difference ‖depth − reference‖ / ‖reference‖."""
    return float((depth.float() - reference.float()).norm() / reference.float().norm().clamp(min=1e-30))
