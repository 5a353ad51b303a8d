"""Every way to launch sparse attention gives what its twin does: under Triton's interpreter, or on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from lite3r_cli.engine import attend_kernels, twins
from lite3r_cli.engine.attend_kernels import DEFAULT
from lite3r_cli.engine.twins import LinearBranch, Summaries, Tiles

CUDA = torch.cuda.is_available()
LAUNCHES = {
    "default": DEFAULT,
    "parts": replace(DEFAULT, rows=64 if CUDA else 16),
    "summaries": replace(DEFAULT, summaries=64, quarter=False, stages=2),
}
CASES = [(name, blocks, count, "sum") for name in LAUNCHES for blocks, count in ((6, 3), (5, 1))]
CASES += [("default", blocks, count, mix) for blocks, count in ((6, 3), (3, 5)) for mix in ("rest", "convex")]
CASES += [("default", 39, 2, "sum"), ("summaries", 39, 2, "sum")]


@pytest.mark.kernel
@pytest.mark.parametrize("name, blocks, count, mix", CASES)
def test_a_launch(name, blocks, count, mix):
    width, heads, dim = (64, 4, 64) if CUDA else (16, 2, 16)
    device, dtype = (torch.device("cuda"), torch.bfloat16) if CUDA else (torch.device("cpu"), torch.float32)
    make = torch.Generator(device).manual_seed(blocks)
    lengths = torch.tensor(([16, 13, 1, 16, 7, 16] * 7)[:blocks], dtype=torch.int32, device=device) * width // 16
    occupied = (torch.arange(width, device=device) < lengths[:, None]).flatten()
    q, k, v = torch.randn(3, heads, blocks * width, dim, generator=make, device=device)
    q, k, v = (t.masked_fill(~occupied[:, None], 0).to(dtype) for t in (q, k, v))
    groups = -(-blocks // 2)
    tiles = Tiles.of(width, 2, lengths, torch.arange(groups, device=device) < (blocks > 5))
    scores = torch.randn(heads, groups, blocks, generator=make, device=device)
    chosen = twins.select_blocks(scores, lengths < 0, tiles, min(count, blocks))
    (means, spreads), (values, _) = (twins.block_moments(t.float(), lengths, width) for t in (k, v))
    weight, alpha = torch.randn(dim, dim, device=device) / dim, torch.rand(heads, device=device)
    mixes = (None, alpha) if mix == "convex" else (weight, None)
    branch = LinearBranch(*twins.linear_sums(k.float(), v.float(), lengths, width), mix == "rest", *mixes)
    for summaries in (None, Summaries(means, spreads, values))[blocks > 6 :]:
        expected = twins.sparse_attention(q.float(), k.float(), v.float(), *chosen, tiles, branch, summaries)
        found = attend_kernels.sparse_attention(q, k, v, *chosen, tiles, branch, summaries, LAUNCHES[name])
        close = 2e-2 if CUDA else 1e-4
        torch.testing.assert_close(found[:, occupied].float(), expected[:, occupied], rtol=close, atol=close)
