"""Compares FlashAttention-4 with cuDNN for dense attention on a GPU: one layer, whole networks, and the time to load
it.

Layers: across views (16 heads × 64, bfloat16, 33,280 and 103,680 tokens), within views of 1,041 and 1,374 tokens, and
`mini`'s 6 heads. Block-sparse attention by the same library at 10 % of the pairs, with and without a second call over
means of 64 keys, beside the kernel for packed tokens (`packed_kernels.py` times its parts). Networks: VGGT-1B, dense
and lite, with and without FlashAttention-4, in one process, each with its own graph.

Every result is compared with torch's attention first. JSON is written after each part, so that a run that is cut short
keeps what it has.

    python benchmarks/dense_attention.py --json FILE [--only start layers sparse networks] [--views 2 8 32 100]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench

from lite3r_cli.attention.packed import packed_plan
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.bench.subjects import image_sets
from lite3r_cli.bench.variants import Request, build
from lite3r_cli.config.prediction import LiteConfig
from lite3r_cli.engine import packed_kernels as kernels
from lite3r_cli.layers import fa4_backend
from lite3r_cli.layers.dense import FA4, accounted, leaving_out

DEVICE, DIM, KEEP = torch.device("cuda"), 64, 0.1
LAYERS = {  # sequences that do not see one another, heads, tokens
    "across 32 views": (1, 16, 33280),
    "across 100 views": (1, 16, 103680),
    "within 32 views of 392 × 518": (32, 16, 1041),
    "within 100 views of 392 × 518": (100, 16, 1041),
    "within 2 views of 518 × 518": (2, 16, 1374),
    "mini across 32 views": (1, 6, 29632),
    "mini within 100 views": (100, 6, 926),
}
WAYS = {"fa4": None, "cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
ERROR = 1e-2  # relative, against torch in float32 on a part: bfloat16 gives 2e-3 to 4e-3


def milliseconds(run: Callable[[], object]) -> float:
    return do_bench(run, warmup=20, rep=100, return_mode="median")


def heads(sequences: int, count: int, tokens: int) -> Tensor:
    """q, k, v (3, B, H, N, D) as the fast engine has them: all tokens of a head lie together."""
    x = torch.randn(3, count, sequences * tokens, DIM, device=DEVICE, dtype=torch.bfloat16)
    return x.unflatten(2, (sequences, tokens)).transpose(1, 2)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of the last 64 queries of the first sequence and head, in float32."""
    q, k, v = (t[0, 0].float() for t in (q, k, v))
    return torch.softmax(q[-64:] @ k.T / math.sqrt(DIM), -1) @ v


def checked(found: Tensor, expected: Tensor, what: str) -> float:
    error = float((found.float() - expected).norm() / expected.norm())
    if not error < ERROR:
        raise SystemExit(f"wrong result: {what}, error {error:.2e}")
    return error


def start() -> list[dict]:
    """Seconds to import the library and for its first call, with no kernel on disk, and in a new process with it."""
    code = (
        "import time, torch; from lite3r_cli.layers import fa4_backend as f; x = torch.zeros(1, device='cuda');"
        "a = time.perf_counter(); f.load_forward(); b = time.perf_counter();"
        "r = f.refusal(torch.device('cuda'), torch.bfloat16, 64); torch.cuda.synchronize();"
        "print(b - a, time.perf_counter() - b, r)"
    )
    rows = []
    for what in ("first process", "later process"):
        words = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        if words.returncode:
            raise SystemExit(words.stderr[-2000:])
        seconds, first, reason = words.stdout.split(maxsplit=2)
        if reason.strip() != "None":
            raise SystemExit(f"the library is refused: {reason}")
        rows.append({"what": what, "import_s": float(seconds), "first_call_s": float(first)})
        print(rows[-1], flush=True)
    return rows


def layers() -> list[dict]:
    rows = []
    for what, (sequences, count, tokens) in LAYERS.items():
        q, k, v = heads(sequences, count, tokens)
        work = 4e-9 * sequences * count * tokens**2 * DIM
        expected = exact(q, k, v)
        row = {"what": what, "sequences": sequences, "heads": count, "tokens": tokens}
        ways = {
            "fa4": (fa4_backend.attend, None),
            "cudnn": (F.scaled_dot_product_attention, SDPBackend.CUDNN_ATTENTION),
        }
        ways["flash"] = (F.scaled_dot_product_attention, SDPBackend.FLASH_ATTENTION)
        for name, (attend, backend) in ways.items():
            with nullcontext() if backend is None else sdpa_kernel(backend):
                row[f"{name}_error"] = checked(attend(q, k, v)[0, 0, -64:], expected, f"{what}, {name}")
                row[f"{name}_ms"] = milliseconds(partial(attend, q, k, v))
            row[f"{name}_tflops"] = work / row[f"{name}_ms"]
        row["fa4_host_us"] = 1e3 * host(partial(fa4_backend.attend, q, k, v))
        row["torch_host_us"] = 1e3 * host(partial(F.scaled_dot_product_attention, q, k, v))
        rows.append(row)
        print("  ".join(f"{n} {x:.4g}" if isinstance(x, float) else f"{n} {x}" for n, x in row.items()), flush=True)
    return rows


def host(run: Callable[[], object]) -> float:
    """Milliseconds that a call keeps the host busy."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(5):
        run()
    taken = time.perf_counter() - begin
    torch.cuda.synchronize()
    return 200 * taken


def sparse() -> list[dict]:
    from flash_attn.cute.block_sparsity import BlockSparseTensorsTorch

    rows, forward = [], fa4_backend.load_forward()
    for views in (32, 100):
        plan = packed_plan((Frames(views, 1041, 5, (28, 37)),), DEVICE, 128)
        rows.append(packed(plan, views))
        n = plan.tokens
        q, k, v = (t.transpose(1, 2) for t in heads(1, 16, n))
        means = [t[:, : n // 64 * 64].unflatten(1, (-1, 64)).float().mean(2).bfloat16() for t in (k, v)]
        for rows_q, keys, tile in ((192, 64, (192, 64)), (128, 16, None), (128, 64, None)):
            lists, share, listed = random_lists(n, rows_q, keys, BlockSparseTensorsTorch)
            more = {"block_sparse_tensors": lists, "return_lse": True} | ({"tile_mn": tile} if tile else {})
            run = partial(forward, q, k, v, **more)
            out = run()
            some = (listed[5].long()[:, None] * keys + torch.arange(keys, device=DEVICE)).flatten()
            some = some[some < n]
            part = q[0, 5 * rows_q : 5 * rows_q + 64, 0].float() @ k[0, some, 0].float().T / math.sqrt(DIM)
            expected = part.softmax(-1) @ v[0, some, 0].float()
            error = checked(out[0][0, 5 * rows_q : 5 * rows_q + 64, 0], expected, f"{rows_q} × {keys}")
            took = milliseconds(run)
            both = milliseconds(lambda: merged(run(), forward(q, *means, return_lse=True)))
            rate = 4e-9 * 16 * n * n * DIM * share / took
            row = {"what": f"FlashAttention-4, {rows_q} × {keys}", "tokens": n, "kept": share, "ms": took}
            rows.append({**row, "ms_with_means": both, "tflops": rate, "error": error})
            print(rows[-1], flush=True)
    return rows


def random_lists(tokens: int, queries: int, keys: int, record: Callable[..., object]) -> tuple[object, float, Tensor]:
    """A tenth of the key blocks for each block of queries, all of them full: the lists, their share, the indices."""
    rows, blocks = math.ceil(tokens / queries), tokens // keys
    count = max(1, round(blocks * KEEP))
    listed = torch.rand(rows, blocks, device=DEVICE).argsort(1)[:, :count].sort(1).values.int()
    indices = listed[None, None].expand(1, 16, rows, count).contiguous()
    counts = torch.full((1, 16, rows), count, device=DEVICE, dtype=torch.int32)
    none = torch.zeros_like(counts), torch.zeros(1, 16, rows, 1, device=DEVICE, dtype=torch.int32)
    lists = record(
        mask_block_cnt=none[0], mask_block_idx=none[1], full_block_cnt=counts, full_block_idx=indices,
        block_size=(queries, keys),
    )  # fmt: skip
    return lists, count * keys / tokens, listed


def merged(near: tuple, means: tuple) -> Tensor:
    """Attention over two sets of keys from the attention and log-sum-exp of each; each mean counts 64 times."""
    share = torch.sigmoid(near[1] - means[1] - math.log(64))[..., None].transpose(1, 2).bfloat16()  # (B, N, H, 1)
    return torch.lerp(means[0], near[0], share)


def packed(plan, views: int) -> dict:
    """The kernel for packed tokens on lists that it made itself."""
    table = torch.zeros(3, 16, plan.slots, DIM, device=DEVICE, dtype=torch.bfloat16)
    table[:, :, plan.place.long()] = torch.randn(3, 16, plan.tokens, DIM, device=DEVICE).bfloat16()
    q, k, v = table
    asked, squares = kernels.ask(q, plan)
    spreads = kernels.summarise_blocks(k, v, squares, plan)
    lists = kernels.list_blocks(kernels.block_shares(asked, k, spreads, plan), plan, plan.count(KEEP))
    bare = replace(lists, lengths=torch.zeros_like(lists.lengths))
    took, both = (milliseconds(partial(kernels.gathered_attention, q, k, v, x, plan)) for x in (bare, lists))
    kept = 1 - plan.skipped(KEEP)
    rate = 4e-9 * 16 * plan.tokens**2 * DIM * kept / took
    row = {"what": "packed tokens, 128 × 16", "tokens": plan.tokens, "kept": kept, "ms": took, "ms_with_means": both}
    print(row | {"tflops": rate}, flush=True)
    return row | {"tflops": rate}


def networks(views: list[int]) -> list[dict]:
    rows = []
    for name in ("lite", "dense"):
        request = Request("vggt-1b", DEVICE, torch.bfloat16, 0, LiteConfig("sla", KEEP))
        variant, _, _ = build(name, request)
        for count in views:
            size = (518, 518) if count < 8 else (392, 518)
            sets = image_sets(2, count, *size, DEVICE, 0)
            row, answers = {"model": "vggt-1b", "variant": name, "views": count}, []
            for way, left_out in (("fa4", ()), ("cudnn", (FA4,)), ("fa4_again", ())):
                variant.forget()  # the graph holds the other kernel
                with leaving_out(*left_out), accounted() as account:
                    answers.append(variant.run(sets[0])[0].float().clone())
                chosen = max(account, key=account.__getitem__).chosen
                if (chosen == FA4) == bool(left_out):
                    raise SystemExit(f"{name}, {count} views: {chosen} computed it: {list(account)}")
                times = [event(partial(variant.run, sets[i % 2])) for i in range(1, 5 if count < 100 else 3)]
                row[f"{way}_ms"] = sorted(times)[len(times) // 2]
            row["depth_apart"] = float((answers[0] / answers[1]).log().abs().median())
            rows.append(row)
            print(row, flush=True)
        variant.forget()
        del variant
        torch.cuda.empty_cache()
    return rows


def event(run: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"start": start, "layers": layers, "sparse": sparse, "networks": None}
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--views", type=int, nargs="+", default=[32, 100, 2, 8])
    parser.add_argument("--json", type=Path, required=True)
    o = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    if (reason := fa4_backend.device_reason(DEVICE)) is not None:
        sys.exit(f"no FlashAttention-4: {reason}")
    fa4_backend.load_at_once()
    document = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    document["flash-attn-4"] = version(fa4_backend.PACKAGE)
    begin = time.monotonic()
    for name in o.only:
        with torch.inference_mode():
            document[name] = networks(o.views) if name == "networks" else parts[name]()
        o.json.write_text(json.dumps(document) + "\n")
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
