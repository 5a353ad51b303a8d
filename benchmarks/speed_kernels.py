"""The kernels of the fast path on a GPU, each beside what it replaces: attention, linear layers, rows of tokens.

Correctness first: every operator against plain torch (`engine/check.py`). Then a table, then one JSON line. Events,
medians, random data; operands are larger than the cache or alternate.

    python benchmarks/speed_kernels.py [--tokens 8328 33312 104100] [--keep 0.1] [--sweep] [--json FILE]

--sweep times sparse attention alone, in other launches than the default, and the parts of what a layer computes for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from lite3r_cli.attention.tiling import Frames, frame_tiling
from lite3r_cli.engine import attend_kernels, block_kernels, row_kernels, twins
from lite3r_cli.engine.attend_kernels import DEFAULT, NARROW, Launch
from lite3r_cli.engine.check import FACTOR, SLACK, check_operators
from lite3r_cli.engine.sparse_layers import SparsePlan, from_layout
from lite3r_cli.engine.twins import LinearBranch, Summaries
from lite3r_cli.quant.fp8 import quantize_rows

HEADS, DIM, GRID, VIEW = (
    16,
    64,
    (28, 37),
    1041,
)  # VGGT at 392 × 518: patches, and tokens of a view, five of them special
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


class Sparse:
    """Sparse attention of random heads, and what a forward pass computes for it; `full`: tiles left count as
    one token.
    """

    def __init__(self, plan: SparsePlan, keep: float, full: bool, heads: int = HEADS):
        self.plan, self.tiles, self.count, self.full = plan, plan.tiles, plan.count(keep), full
        self.heads = torch.randn(3, heads, plan.slots, DIM, device=DEVICE).bfloat16()
        free = torch.ones(plan.slots, dtype=torch.bool, device=DEVICE)
        free[plan.place.long()] = False
        self.heads[:, :, free] = 0
        self.weight = torch.randn(DIM, DIM, device=DEVICE) / DIM
        self.prepare()

    def moments(self) -> None:
        moments = block_kernels.block_moments(self.heads.flatten(0, 1), self.tiles.lengths, self.tiles.width)
        self.means, self.spreads = (t.unflatten(0, (3, -1)) for t in moments)

    def score(self) -> None:
        padded = F.pad(self.means[0], (0, 0, 0, -self.plan.blocks % self.tiles.group))
        self.scores = padded.unflatten(1, (-1, self.tiles.group)).sum(2) @ self.means[1].transpose(1, 2)

    def select(self) -> None:
        self.listed, self.left = block_kernels.select_blocks(self.scores, self.plan.protected, self.tiles, self.count)

    def sums(self) -> None:
        self.square, self.norm = block_kernels.linear_sums(*self.heads[1:], self.tiles.lengths, self.tiles.width)

    def pack(self) -> None:
        _, bias, _ = attend_kernels.pack_summaries(self.summaries, self.tiles.log2_lengths, 64, torch.bfloat16)
        attend_kernels.pack_bits(self.left, bias.shape[1])

    def prepare(self) -> None:
        self.moments()
        self.score()
        self.select()
        self.sums()

    @property
    def summaries(self) -> Summaries | None:
        return Summaries(self.means[1], self.spreads[1], self.means[2]) if self.full else None

    def attend(self, launch: Launch | None = None) -> torch.Tensor:
        branch = LinearBranch(self.square, self.norm, False, self.weight, None)
        return attend_kernels.sparse_attention(
            *self.heads, self.listed, self.left, self.tiles, branch, self.summaries, launch
        )

    def everything(self) -> None:
        self.prepare()
        self.attend()

    def wrong(self, launch: Launch) -> str | None:
        """What is wrong with a launch's result, by the measure of `engine/check.py`."""
        branch = LinearBranch(self.square, self.norm, False, self.weight, None)
        exact, usual = (
            twins.sparse_attention(
                *self.heads.to(kind), self.listed, self.left, self.tiles, branch, self.summaries
            ).float()
            for kind in (torch.float32, torch.bfloat16)
        )
        at = self.plan.place.long()
        found = self.attend(launch).float()
        away, allowed = (float((t - exact)[:, at].norm() / exact[:, at].norm()) for t in (found, usual))
        return None if away <= FACTOR * allowed + SLACK else f"error {away:.2e}, plain torch {allowed:.2e}"


def plan_of(views: int, group: int, grid: tuple[int, int] = GRID) -> SparsePlan:
    layout = frame_tiling((Frames(views, 5 + grid[0] * grid[1], 5, grid),), 64, None, walk=True)
    return from_layout(layout, group, layout.most_protected, DEVICE)


def attention(tokens: int, keep: float) -> list[dict]:
    q, k, v = (random(1, HEADS, tokens, DIM) for _ in range(3))
    rows = []
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
        with sdpa_kernel(backend):
            time = milliseconds(partial(F.scaled_dot_product_attention, q, k, v), 5)
            rows.append({"what": f"dense, {name}", "ms": time})
        rows[-1]["tflops"] = 4 * tokens**2 * CHANNELS / rows[-1]["ms"] / 1e9
    del q, k, v
    for group in (1, 2):
        plan = plan_of(tokens // VIEW, group)
        kept = 1 - plan.skipped(keep)
        for full in (False, True):
            sparse = Sparse(plan, keep, full)
            for part, run in (("kernel", sparse.attend), ("everything", sparse.everything)):
                took = milliseconds(run, 5)
                what = f"sparse {part}, {group} query tiles, {'tiles left count' if full else 'sums over all'}"
                rate = 4 * tokens**2 * CHANNELS * kept / took / 1e9
                rows.append({"what": what, "ms": took, "tflops": rate, "kept": kept})
    return [{"tokens": tokens, **row} for row in rows]


LAUNCHES = (  # those that an offline compilation for sm_90 promises most of: no spills, at least two programs at a time
    DEFAULT,
    replace(DEFAULT, stages=2),
    replace(DEFAULT, stages=4),
    replace(DEFAULT, far_stages=2),
    replace(DEFAULT, quarter=False, summaries=64),
    EIGHT := replace(DEFAULT, warps=8, registers=128, quarter=False, summaries=64),
    replace(EIGHT, stages=4),
    NARROW,
    replace(NARROW, stages=2, registers=128, summaries=32),
)


def sweep(tokens: int, keep: float, checked: dict[Launch, str | None]) -> list[dict]:
    """Sparse attention alone, launch by launch, each checked first; then the parts of everything. Prints as it goes."""
    small, large = Sparse(plan_of(3, 2, (14, 23)), 0.3, True, heads=3), Sparse(plan_of(tokens // VIEW, 2), keep, True)
    work = 4 * tokens**2 * CHANNELS * (1 - large.plan.skipped(keep)) / 1e9
    rows = []

    def timed(what: str, run: Callable[[], object], **more) -> None:
        row = {"tokens": tokens, "what": what, "ms": milliseconds(run, 5), **more}
        rows.append(row | {"tflops": work / row["ms"]} if "launch" in more else row)
        rate = f"{rows[-1]['tflops']:6.0f} TF/s" if "launch" in more else " " * 11
        print(f"{tokens:7} {row['ms']:9.3f} ms {rate}  {what}", flush=True)

    for launch in LAUNCHES:
        what = ", ".join(f"{name} {value}" for name, value in asdict(launch).items() if value not in (None, False))
        try:
            if launch not in checked:
                checked[launch] = small.wrong(launch)
            if checked[launch]:
                print(f"skipped, {checked[launch]}: {what}", flush=True)
                continue
            timed(what, lambda launch=launch: large.attend(launch), launch=asdict(launch))
        except Exception as error:  # of Triton's or the driver's: registers, shared memory, a pass that fails
            checked[launch] = f"{type(error).__name__} {str(error).splitlines()[:1]}"
            print(f"skipped, {checked[launch]}: {what}", flush=True)
    for part in ("moments", "score", "select", "sums", "pack", "attend", "everything"):
        timed(f"part: {part}", getattr(large, part))
    return rows


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
    parser.add_argument("--sweep", action="store_true", help="launches of sparse attention, and its parts")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    if arguments.sweep:
        checked = {}
        rows = [row for tokens in arguments.tokens for row in sweep(tokens, arguments.keep, checked)]
        return report(rows, arguments.json)
    failed = [c for fp8 in (False, True) for c in check_operators(DEVICE, torch.bfloat16, fp8) if not c.passed]
    if failed:
        sys.exit(f"wrong results: {failed}")
    rows = [row for tokens in arguments.tokens for row in attention(tokens, arguments.keep) + linear(tokens)]
    for row in rows:
        rate = f"{row['tflops']:7.0f} TF/s" if "tflops" in row else f"{row['gb_s']:7.0f} GB/s"
        print(f"{row['tokens']:7} {row['ms']:9.3f} ms {rate}  {row['what']}")
    report(rows, arguments.json)


def report(rows: list[dict], file: Path | None) -> None:
    summary = {
        "benchmark": "speed_kernels",
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "rows": rows,
    }
    text = json.dumps(summary)
    print(text) if file is None else file.write_text(text)


if __name__ == "__main__":
    main()
