"""The kernels of the fast path on a GPU, each beside what it replaces: attention, linear layers, rows of tokens.

Correctness first: every operator against plain torch (`fast/check.py`). Then a table, then one JSON line. Events,
medians, random data; operands are larger than the cache or alternate.

    python benchmarks/speed_kernels.py [--tokens 8328 33312 104100] [--keep 0.1] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lite3r_cli.attention.layout import Frames, frame_layout
from lite3r_cli.fast import block_kernels, row_kernels
from lite3r_cli.fast.check import check_operators
from lite3r_cli.fast.sparse import SparsePlan, from_layout
from lite3r_cli.fast.twins import Far, LinearBranch
from lite3r_cli.quant.fp8 import quantize_rows

HEADS, DIM, VIEW = 16, 64, 1041  # VGGT at 392 × 518: tokens of a view, five of them special
CHANNELS = HEADS * DIM
DEVICE = torch.device("cuda")


def milliseconds(run: Callable[[], object], repeats: int = 10) -> float:
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).bfloat16()


def sparse(plan: SparsePlan, keep: float, stages: int, full: bool) -> dict[str, Callable[[], object]]:
    """Sparse attention by itself and with everything that a forward pass computes for it; `full`: tiles left count."""
    tiles, count = plan.tiles, plan.count(keep)
    q, k, v = heads = torch.randn(3, HEADS, plan.slots, DIM, device=DEVICE).bfloat16()
    free = torch.ones(plan.slots, dtype=torch.bool, device=DEVICE)
    free[plan.place.long()] = False
    heads[:, :, free] = 0
    weight = torch.randn(DIM, DIM, device=DEVICE) / DIM

    def prepare():
        moments = block_kernels.block_moments(heads.flatten(0, 1), tiles.lengths, tiles.width)
        means, spreads = (t.unflatten(0, (3, -1)) for t in moments)
        wanted = F.pad(means[0], (0, 0, 0, -plan.blocks % tiles.group)).unflatten(1, (-1, tiles.group)).sum(2)
        listed = block_kernels.select_blocks(wanted @ means[1].transpose(1, 2), plan.protected, tiles, count)
        branch = LinearBranch(*block_kernels.linear_sums(k, v, tiles.lengths, tiles.width), full, weight, None)
        return listed, branch, Far(means[1], spreads[1], means[2]) if full else None

    listed, branch, far = prepare()

    def attend(listed=listed, branch=branch, far=far):
        return block_kernels.sparse_attention(q, k, v, *listed, tiles, branch, far, stages=stages)

    return {"kernel": attend, "everything": lambda: attend(*prepare())}


def attention(tokens: int, keep: float) -> list[dict]:
    q, k, v = (random(1, HEADS, tokens, DIM) for _ in range(3))
    rows = []
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        with sdpa_kernel(backend):
            rows.append({"what": f"dense, {name}", "ms": milliseconds(lambda: F.scaled_dot_product_attention(q, k, v), 5)})
        rows[-1]["tflops"] = 4 * tokens**2 * CHANNELS / rows[-1]["ms"] / 1e9
    del q, k, v
    layout = frame_layout((Frames(tokens // VIEW, VIEW, 5, (28, 37)),), 64, None)
    for group in (1, 2):
        plan = from_layout(layout, group, layout.most_protected, DEVICE)
        kept = 1 - plan.skipped(keep)
        for full in (False, True):
            for stages in (2, 3, 4):
                for part, run in sparse(plan, keep, stages, full).items():
                    if part == "everything" and stages != 3:
                        continue
                    took = milliseconds(run, 5)
                    left = "tiles left count" if full else "sums over all"
                    what = f"sparse {part}, {group} query tiles, {stages} stages, {left}"
                    rate = 4 * tokens**2 * CHANNELS * kept / took / 1e9
                    rows.append({"what": what, "ms": took, "tflops": rate, "kept": kept})
    return [{"tokens": tokens, **row} for row in rows]


def linear(tokens: int) -> list[dict]:
    x, rows = random(tokens, CHANNELS), []
    norm = [torch.randn(CHANNELS, device=DEVICE) for _ in range(4)]
    for name, out in (("1024 → 3072", 3072), ("1024 → 4096", 4096), ("4096 → 1024", 1024)):
        width = 4096 if name.startswith("4096") else 1024
        given, weight = random(tokens, width), random(out, width)
        operand, scales = row_kernels.quant(given, True)
        values, scale = quantize_rows(weight)
        fp8 = lambda: torch._scaled_mm(  # noqa: E731
            operand, values.T, scale_a=scales, scale_b=scale[None], out_dtype=torch.bfloat16, use_fast_accum=True
        )
        for kind, run in (("bf16", lambda: F.linear(given, weight)), ("fp8", fp8)):
            took = milliseconds(run)
            rows.append({"what": f"linear {name}, {kind}", "ms": took, "tflops": 2 * tokens * width * out / took / 1e9})
    y, hidden, qkv = random(tokens, CHANNELS), random(tokens, 4 * CHANNELS), random(tokens, 3 * CHANNELS)
    out = torch.empty(3, HEADS, tokens, DIM, device=DEVICE, dtype=torch.bfloat16)
    wide, bias = torch.randn(4 * CHANNELS, device=DEVICE), torch.randn(3 * CHANNELS, device=DEVICE)
    affine = tuple(torch.randn(DIM, device=DEVICE) for _ in range(4))
    rope = (torch.randn(VIEW, DIM, device=DEVICE), torch.randn(VIEW, DIM, device=DEVICE))
    fused = {
        "add_norm_quant": (lambda: row_kernels.add_norm_quant(x, y, *norm, 1e-6, True), 7 * CHANNELS),
        "gelu_quant": (lambda: row_kernels.gelu_quant(hidden, wide, True), 12 * CHANNELS),
        "split_heads": (lambda: row_kernels.split_heads(qkv, bias, affine, 1e-5, rope, None, None, out), 12 * CHANNELS),
        "merge_heads": (lambda: row_kernels.merge_heads(out[0], None, tokens, True), 3 * CHANNELS),
    }
    for name, (run, moved) in fused.items():
        took = milliseconds(run)
        rows.append({"what": name, "ms": took, "gb_s": tokens * moved / took / 1e6})
    return [{"tokens": tokens, **row} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8328, 33312, 104100])
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    failed = [c for fp8 in (False, True) for c in check_operators(DEVICE, torch.bfloat16, fp8) if not c.passed]
    if failed:
        sys.exit(f"wrong results: {failed}")
    rows = [row for tokens in arguments.tokens for row in attention(tokens, arguments.keep) + linear(tokens)]
    for row in rows:
        rate = f"{row['tflops']:7.0f} TF/s" if "tflops" in row else f"{row['gb_s']:7.0f} GB/s"
        print(f"{row['tokens']:7} {row['ms']:9.3f} ms {rate}  {row['what']}")
    summary = {"benchmark": "speed_kernels", "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
    text = json.dumps(summary)
    print(text) if arguments.json is None else arguments.json.write_text(text)


if __name__ == "__main__":
    main()
