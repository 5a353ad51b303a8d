"""How much memory a prediction by N processes needs in each, counted on a CPU with gloo:

    python benchmarks/shard_memory.py --json benchmarks/results/shard-memory.json

One encoder block and four pairs of blocks of VGGT at their real width with random values, dense attention, float32. All
that torch's CPU allocator gives out while the engine predicts counts, without the weights, which every process has: the
peak in the blocks, and that of the depth head. A share of 1 / N means that nothing is held in full.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MIB = 2**20


def rank(views: int, height: int, width: int) -> None:
    """One process: predicts its share, and prints the peak of its memory if it is the first."""
    import torch
    import torch.distributed as dist
    from torch.profiler import ProfilerActivity, profile

    from lite3r_cli.engine.layers import Settings
    from lite3r_cli.layers import view_shards
    from lite3r_cli.networks import fast_form, standin
    from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
    from lite3r_cli.pipelines.team import divide

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    number, count = dist.get_rank(), dist.get_world_size()
    config = VGGTConfig(1024, 4, 16, 1, 16, (0, 1, 2, 3), camera_depth=1, point_head=False)
    model = VGGT(config)
    standin.fill(model, 1)
    runner = fast_form.fast_runner(model.eval(), Settings(dtype=torch.float32, query_tiles=1), torch.device("cpu"))
    runs = divide([1] * views, count)
    images = standin.image_batch(len(runs[number]), height, width, number)[0]
    shards = view_shards.Shards(number, runs, ((height, width),) * views, runner.form.patch_size)
    with view_shards.divided(shards):
        runner(images)  # tables and plans are kept from the first call on
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            runner(images)
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held, peak, part = 0, {"blocks": 0, "head": 0}, "blocks"
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            peak[part] = max(peak[part], held)
        elif event.name() == "aten::upsample_bilinear2d":  # of the depth head alone
            part = "head"
    if number == 0:
        print(json.dumps({"processes": count, "peak_mib": {part: round(most / MIB, 2) for part, most in peak.items()}}))
    dist.destroy_process_group()


def together(arguments: argparse.Namespace, count: int) -> dict:
    """The line of the first of `count` processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", __file__, "--rank", "--views", str(arguments.views)]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    common |= {"PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(command, env={**common, "RANK": str(k)}, stdout=subprocess.PIPE, text=True)
        for k in range(count)
    ]
    said = [process.communicate()[0] for process in started]
    return json.loads(said[0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--json")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        return rank(arguments.views, 224, 308)
    report: dict = {"views": arguments.views, "command": " ".join(sys.argv), "rows": []}
    for count in arguments.processes:
        row = together(arguments, count)
        report["rows"].append(row)
        print(row, flush=True)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
