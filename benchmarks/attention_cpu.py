"""Times sparse-linear and dense attention on a CPU: the operator alone, with block map, reordering of tokens and mix.

Default: `mini` at 518×350 pixels (926 tokens a view, 6 heads × 64), two threads, 75 % of the keys skipped, packed
tokens as `sparsify` gives them; `--form blocks` is the form of blocks, `--form plain` the published one. Dense is what
the program runs: in bfloat16 without AMX products of matrices (`layers/dense.py`), otherwise the fused attention.
Correctness first: with every key kept the output must be that of dense attention. Measure on idle cores; the load
average is printed because other work slows the threads of torch far out of proportion. The two operators take turns, so
that a change of load meets both, and the factor of processor time is given beside that of wall time: with --threads 1
it hardly depends on the load. A table, then one JSON line; --json also writes it to a file. The crossover is the least
number of tokens from which on sparse attention was the faster one at every length that was measured: the figure that
CROSSOVERS of `pipelines/engine_choice.py` holds. ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 in the environment keeps oneDNN's
products off the matrix units of a processor with AMX; dense attention is still chosen as for one with AMX.

    python benchmarks/attention_cpu.py [--views 1 2 4 8 16] [--keep-ratio 0.25] [--dtype float32 bfloat16]
                                       [--form packed] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.block_map import SCORES
from lite3r_cli.attention.dispatch import sparse_linear
from lite3r_cli.attention.packed import GROUPS, packed_attention, packed_plan
from lite3r_cli.attention.sparse_config import PRESETS, Formula
from lite3r_cli.attention.tiling import Frames, TokenTiling, frame_tiling
from lite3r_cli.layers.dense import dense, has_amx

FORMS = ("packed", "blocks", "plain")  # plain: runs of tokens, one size of block, no summaries, pooled scores
GRID = (25, 37)  # patches of a view of 518×350 pixels
HEADS, WIDTH = 6, 64


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--keep-ratio", type=float, default=0.25)
    parser.add_argument("--linear-over", choices=("all", "rest"), default="rest")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--key-block", type=int, default=16)
    parser.add_argument("--scores", choices=SCORES, default="mass")
    parser.add_argument(
        "--form", choices=FORMS, default="packed", help="what the program uses; the form of blocks; the published one"
    )
    parser.add_argument(
        "--group", type=int, choices=GROUPS, default=GROUPS[-1], help="packed: queries that share a list"
    )
    parser.add_argument("--parts", type=float, default=PRESETS["shallow"].get("parts", 0.0), help="of each kept block")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def check(q: Tensor, k: Tensor, v: Tensor, layout: TokenTiling) -> None:
    """Check that the result equals dense attention when every block is kept."""
    tokens = min(q.shape[2], 4 * layout.index.numel())
    q, k, v = (t[:, :1, :tokens].float() for t in (q, k, v))
    out, _ = sparse_linear(q, k, v, Formula(1.0, linear_over="rest"), layout=layout)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-4)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time of all threads."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(views: int, dtype: torch.dtype, o: argparse.Namespace) -> dict[str, object]:
    plain = o.form == "plain"
    frames = Frames(views, 1 + GRID[0] * GRID[1], 1, None if plain else GRID)
    make = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, views * frames.tokens, WIDTH, generator=make).to(dtype)
    if o.form == "packed":
        plan = packed_plan((frames,), None, o.group, o.parts)
        skipped = plan.skipped(o.keep_ratio)
        if views <= 2:
            x = [t.float() for t in (q, k, v)]
            expected = F.scaled_dot_product_attention(*x)
            torch.testing.assert_close(packed_attention(*x, plan, 1.0), expected, atol=1e-5, rtol=1e-4)

        def sparse() -> object:
            return packed_attention(q, k, v, plan, o.keep_ratio)

        sparse()
    else:
        layout = frame_tiling((frames,), o.block, None, key_block=None if plain else o.key_block)
        if views <= 2:
            check(q, k, v, layout)
        scores = "pooled" if plain else o.scores
        formula = Formula(o.keep_ratio, linear_over=o.linear_over, summaries=not plain, scores=scores)
        weight = torch.zeros(WIDTH, WIDTH, dtype=dtype)

        def sparse() -> object:
            return sparse_linear(q, k, v, formula, weight, layout=layout)[1]

        skipped = float(sparse().skipped)
    times = [seconds(lambda: dense(q, k, v)) + seconds(sparse) for _ in range(o.repeats)]
    slow, slow_cpu, fast, fast_cpu = (statistics.median(t) for t in zip(*times))
    return {
        "views": views, "tokens": q.shape[2], "dtype": str(dtype).split(".")[1], "skipped": skipped,
        "dense_s": slow, "sparse_s": fast, "factor": slow / fast,
        "dense_cpu_s": slow_cpu, "sparse_cpu_s": fast_cpu, "factor_cpu": slow_cpu / fast_cpu,
        "load": os.getloadavg()[0],
    }  # fmt: skip


def crossover(rows: Sequence[dict[str, object]]) -> int | None:
    """The smallest number of tokens above which sparse attention always took less processor time; None if there is
    none.
    """
    found = None
    for row in sorted(rows, key=lambda row: -row["tokens"]):
        if row["factor_cpu"] <= 1:
            break
        found = row["tokens"]
    return found


@torch.inference_mode()
def main() -> None:
    o = options()
    torch.set_num_threads(o.threads)
    columns = ("views", "tokens", "skipped", "dense", "sparse", "factor", "CPU", "load")
    print(f"{'dtype':9} {'{:>5} {:>7} {:>8} {:>9} {:>9} {:>7} {:>7} {:>6}'.format(*columns)}")
    rows = []
    for dtype in o.dtype:
        for views in o.views:
            r = measure(views, getattr(torch, dtype), o)
            rows.append(r)
            print(
                f"{r['dtype']:9} {views:5} {r['tokens']:7} {r['skipped']:8.1%} {r['dense_s'] * 1e3:6.0f} ms "
                f"{r['sparse_s'] * 1e3:6.0f} ms {r['factor']:6.2f}× {r['factor_cpu']:6.2f}× "
                f"{r['load']:6.2f}",
                flush=True,
            )
    machine = {
        "processor": platform.processor(), "cores": os.cpu_count(), "threads": o.threads, "amx": has_amx(),
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }  # fmt: skip
    crossovers = {dtype: crossover([row for row in rows if row["dtype"] == dtype]) for dtype in o.dtype}
    asked = {name: value for name, value in vars(o).items() if name != "json"}
    document = {"benchmark": "attention_cpu", "torch": torch.__version__, **machine, "options": asked}
    document |= {"crossover_tokens": crossovers, "results": rows}
    for dtype, tokens in crossovers.items():
        print(
            f"{dtype}: sparse is faster " + ("at no length measured" if tokens is None else f"from {tokens} tokens on")
        )
    print(json.dumps(document))
    if o.json is not None:
        o.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
