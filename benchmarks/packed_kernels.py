"""The kernels of sparse attention over packed tokens on a GPU, step by step, at the shape of VGGT (16 heads × 64,
bfloat16, views of 392 × 518) or of `mini` (6 heads, 350 × 518), with 128 or 64 queries a list.

Correctness first: every operator against plain torch (`engine/check.py`). Then the median of each step by events, at
90 % skipped, and dense attention by the same kernel and by cuDNN.

    python benchmarks/packed_kernels.py [--shapes vggt mini] [--groups 128 64] [--views 32 100] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench

from lite3r_cli.attention.packed import GROUPS, packed_plan
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.engine import packed_kernels as kernels
from lite3r_cli.engine.check import check_operators

DIM = 64
SHAPES = {"vggt": (16, (28, 37), 5), "mini": (6, (25, 37), 1)}  # heads, patches of a view, its special tokens
DEVICE = torch.device("cuda")


def milliseconds(run) -> float:
    return do_bench(run, warmup=20, rep=100, return_mode="median")


def steps(shape: str, group: int, views: int, keep: float, parts: float) -> dict[str, float]:
    heads, grid, specials = SHAPES[shape]
    plan = packed_plan((Frames(views, specials + grid[0] * grid[1], specials, grid),), DEVICE, group, parts)
    table = torch.zeros(3, heads, plan.slots, DIM, device=DEVICE, dtype=torch.bfloat16)
    table[:, :, plan.place.long()] = torch.randn(3, heads, plan.tokens, DIM, device=DEVICE).bfloat16()
    q, k, v = table
    count = plan.count(keep)
    asked, squares = kernels.ask(q, plan)
    spreads = kernels.summarise_blocks(k, v, squares, plan)
    shares = kernels.block_shares(asked, k, spreads, plan)
    lists = kernels.list_blocks(shares, plan, count)
    bare = replace(lists, lengths=torch.zeros_like(lists.lengths))
    work = 4 * plan.tokens**2 * heads * DIM / 1e9
    dense = torch.randn(3, 1, heads, plan.tokens, DIM, device=DEVICE).bfloat16()
    found = {
        "ask": milliseconds(lambda: kernels.ask(q, plan)),
        "summarise_blocks": milliseconds(lambda: kernels.summarise_blocks(k, v, squares, plan)),
        "block_shares": milliseconds(lambda: kernels.block_shares(asked, k, spreads, plan)),
        "list_blocks": milliseconds(lambda: kernels.list_blocks(shares, plan, count)),
        "gathered_attention": milliseconds(lambda: kernels.gathered_attention(q, k, v, lists, plan)),
        "without means": milliseconds(lambda: kernels.gathered_attention(q, k, v, bare, plan)),
        "dense by this kernel": milliseconds(lambda: kernels.gathered_attention(q, k, v, None, plan)),
    }
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        found["dense by cuDNN"] = milliseconds(lambda: F.scaled_dot_product_attention(*dense))
    kept = 1 - plan.skipped(keep)
    return {
        "shape": shape,
        "queries": group,
        "parts": parts,
        "tokens": plan.tokens,
        "kept": kept,
        **found,
        "tflops of kept pairs": work * kept / found["without means"],
        "tflops dense": work / found["dense by this kernel"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["vggt"])
    parser.add_argument("--groups", type=int, nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--views", type=int, nargs="+", default=[32, 100])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.1])
    parser.add_argument("--parts", type=float, nargs="+", default=[0.0], help="parted blocks for each chosen one")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    failed = [check for check in check_operators(DEVICE, torch.bfloat16, False) if not check.passed]
    if failed:
        sys.exit(f"wrong results: {failed}")
    rows = [steps(s, g, v, k, p) for s, g, v, k, p in product(o.shapes, o.groups, o.views, o.keep, o.parts)]
    for row in rows:
        print("  ".join(f"{k} {v}" if isinstance(v, str) else f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    document = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    if o.json:
        o.json.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
