r"""One scene on several GPUs, several workers, and distillation by several processes, on one machine:

    python benchmarks/scale.py --models vggt-1b:4 mini:3 --json scale.json

One GPU and N run the same network on the same pictures: VGGT-1B with random values in its `lite` form, and `mini`. The
answers are compared first. `--alone-most` leaves out the run on one GPU for more views. `--profile` adds one run of
each under torch's profiler: seconds of the kernels of each kind (`KINDS`), and `idle`, the wall time without a kernel.
`exchange` is the all-to-all of q, k and v of one layer by itself. Distillation has the same number of scenes per step
with any number of processes. One call for each part, on a machine with four GPUs:

    python benchmarks/scale.py --models vggt-1b:4 --views 300 1000 --alone-most 300 --profile --workers --json a.json
    python benchmarks/scale.py --models --distill 1 2 4 --workers --json b.json
    python benchmarks/scale.py --models --workers 1 2 4 --scenes 96 --json c.json

The spread of the loss between orders of the data, on a CPU with gloo (`xeon-2cores-distill.json`):

    python benchmarks/scale.py --models --workers --distill 1 2 3 --distill-seeds 0 1 2 --distill-scenes 6 \
        --distill-options "--model mini --output OUT/a.safetensors --steps 40 -r 56 --views 3 --device cpu"

Every figure is printed as it comes, and the JSON file is written anew after each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.perf_counter()
GIB = 2**30
REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = {"vggt-1b": (392, 518), "mini": (350, 518)}
KINDS = {  # the first pattern that is found in the name of a kernel tells its kind
    "exchange": r"nccl",
    "attention across views": r"hopper_attention|_gathered",
    "its lists": r"list_blocks|_shares|_summarise",
    "attention within views": r"flash|fmha|sdpa|attention",
    "linear layers": r"gemm|cutlass|nvjet|xmma|_scaled|matmul",
    "convolutions": r"conv|implicit|nchw|nhwc|wgrad|dgrad",
    "copies": r"Memcpy|Memset|copy|cat|CatArray",
}


def networks(arguments: argparse.Namespace) -> None:
    """The work of one process: the first predicts alone, then all predict together."""
    import torch
    import torch.distributed as dist

    from lite3r_cli import runtime
    from lite3r_cli.bench.subjects import network
    from lite3r_cli.config import LiteConfig
    from lite3r_cli.networks.checkpoint_facts import NetworkFacts
    from lite3r_cli.networks.fast_form import fast_runner
    from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
    from lite3r_cli.pipelines.planned import fast_settings, set_attention

    rank = int(os.environ["RANK"])
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    kind = runtime.choose(f"cuda:{rank}" if gpu else "cpu", "auto" if gpu else "float32")
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    name = arguments.models[0]
    model, _ = network(name, device, 0)
    asked = Asked.of_lite(LiteConfig(), prefer_lite=True)
    plan = resolve(asked, NetworkFacts.of_model(model), Machine.of(device, kind.torch_dtype))
    set_attention(model, plan)
    runner = fast_runner(model, fast_settings(plan, graphs=False), device)
    model.to("meta")
    for views in arguments.views:
        row = {"model": name, "views": views, "processes": dist.get_world_size()}
        measure(arguments, runner, row, device)
        runner.forget()
    dist.destroy_process_group()


def measure(arguments: argparse.Namespace, runner, row: dict, device) -> None:
    """One number of views; the first process prints what it has found."""
    import torch
    import torch.distributed as dist

    from lite3r_cli.bench.subjects import image_sets
    from lite3r_cli.layers import view_shards
    from lite3r_cli.pipelines.team import divide

    gpu, views = device.type == "cuda", row["views"]
    height, width = (side // arguments.shrink // 14 * 14 for side in SIZES[row["model"]])
    rank, ranks = dist.get_rank(), dist.get_world_size()
    runs = divide([1] * views, ranks)

    def timed(pictures, repeats: int):
        """The depth of the first run, the peak of memory, and the seconds of `repeats` runs."""
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        times, depth = [], None
        for _ in range(repeats):
            if gpu:
                torch.cuda.synchronize(device)
            if view_shards.current() is not None:  # nobody's time holds what another one compiled in the run before
                dist.barrier()
            start = time.perf_counter()
            found = runner(pictures)
            if gpu:
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
            depth = found.depth[0].cpu() if depth is None else depth
            del found
        return depth, torch.cuda.max_memory_allocated(device) / GIB if gpu else 0.0, times

    alone = None
    if rank == 0:
        images = image_sets(1, views, height, width, device, 1)[0]
        if views <= arguments.alone_most:
            # the first run also compiles: more where it is short, and of 1,000 views it is not the first
            repeats = 1 if views > 500 else 1 + arguments.repeats
            alone, row["peak_gib_alone"], row["seconds_alone"] = timed(images, repeats)
            if arguments.profile and gpu:
                row["profile_alone"] = profiled(lambda: runner(images))
        print(json.dumps(row), flush=True)
        for other in range(1, ranks):
            dist.send(images[runs[other].start : runs[other].stop].cpu().contiguous(), other)
        own = images[: len(runs[0])].clone()
        del images
    else:
        received = torch.empty(len(runs[rank]), 3, height, width)
        dist.recv(received, 0)
        own = received.to(device)
    shards = view_shards.Shards(rank, runs, ((height, width),) * views, runner.form.patch_size)
    with view_shards.divided(shards):
        mine, most, times = timed(own, 1 + arguments.repeats)
        if arguments.profile and gpu and views <= arguments.alone_most:
            found = profiled(lambda: runner(own))  # in all processes: they wait for one another
            row |= {"profile_together": found} if rank == 0 else {}
    if gpu:
        row["exchange"] = exchange(len(own) * height * width // 196, device)
    gathered: list = [None] * ranks
    dist.all_gather_object(gathered, (most, times[1:]))
    if rank == 0:
        row["peak_gib_each"] = [each for each, _ in gathered]
        row["seconds_together"] = [max(each) for each in zip(*(found for _, found in gathered))]
        if alone is not None:
            first = alone[: len(runs[0])]
            row["depth_difference"] = float((mine - first).norm() / first.norm())
            quickest = statistics.median(row["seconds_alone"][1:] or row["seconds_alone"])
            row["speedup"] = quickest / statistics.median(row["seconds_together"])
        print(json.dumps(row), flush=True)


def profiled(work) -> dict[str, float]:
    """Seconds by kind of kernel during one run of `work`, the wall time, and the time without a kernel."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        wall = time.perf_counter() - start
    kinds: dict[str, float] = {}
    spans, names = [], {}
    for event in seen.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        begin, end = event.time_range.start, event.time_range.end
        kind = next((k for k, pattern in KINDS.items() if re.search(pattern, event.name, re.I)), "rest")
        kinds[kind] = kinds.get(kind, 0) + (end - begin) / 1e6
        names[event.name] = names.get(event.name, 0) + (end - begin) / 1e6
        spans.append((begin, end))
    busy, last = 0.0, float("-inf")
    for begin, end in sorted(spans):
        busy += max(0.0, end - max(begin, last)) / 1e6
        last = max(last, end)
    top = sorted(names.items(), key=lambda item: -item[1])[:12]
    rounded = {kind: round(seconds, 4) for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1])}
    longest = {name[:60]: round(seconds, 4) for name, seconds in top}
    return {"wall": round(wall, 3), "idle": round(wall - busy, 4), **rounded, "longest": longest}


def exchange(tokens: int, device, channels: int = 1024, repeats: int = 10) -> dict[str, float]:
    """The all-to-all before attention: q, k and v (bfloat16) of this process's tokens, by itself."""
    import torch
    import torch.distributed as dist

    ranks = dist.get_world_size()
    sent = torch.zeros(tokens // ranks * ranks, 3 * channels, dtype=torch.bfloat16, device=device)
    found = torch.empty_like(sent)
    for k in range(2 + repeats):
        if k == 2:
            torch.cuda.synchronize(device)
            start = time.perf_counter()
        dist.all_to_all_single(found.view(torch.uint8), sent.view(torch.uint8))
    torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / repeats
    gigabytes = sent.numel() * 2 * (ranks - 1) / ranks / 1e9  # that leave this GPU
    return {"ms": round(1e3 * seconds, 3), "gb_per_s": round(gigabytes / seconds, 1)}


def together(arguments: argparse.Namespace, name: str, count: int, report: dict) -> None:
    """Start `count` processes of `networks` and collect their lines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--part", "networks", "--repeats", str(arguments.repeats)]
    command += ["--views", *map(str, arguments.views), "--models", name, "--shrink", str(arguments.shrink)]
    command += ["--alone-most", str(arguments.alone_most), *(["--profile"] if arguments.profile else [])]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    common["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    others = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stdout=sys.stderr) for rank in range(1, count)
    ]
    first = subprocess.Popen(command, env={**common, "RANK": "0"}, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        print(line, end="", flush=True)
        if line.startswith("{"):
            row = json.loads(line)
            told = report["networks"]
            if told and all(told[-1][key] == row[key] for key in ("model", "views", "processes")):
                told.pop()  # the same row, told before its run on several GPUs
            told.append(row)
            keep(arguments, report)
    for process in (first, *others):
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def batches(arguments: argparse.Namespace, report: dict) -> None:
    """Scenes per minute by 1, 2, … workers, each on fresh output; the start is told apart by batch.json."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        for scene in range(arguments.scenes):
            (root / f"s{scene:03d}").mkdir(parents=True)
            for i, path in enumerate(sorted((REPOSITORY / "sample_scenes/desk/images").iterdir())[:8]):
                os.symlink(path, root / f"s{scene:03d}" / f"{i}{path.suffix}")
        for workers in arguments.workers:
            if time.perf_counter() - BEGAN > arguments.seconds:
                return print("no time left for more workers", flush=True)
            out = Path(folder, f"out{workers}")
            command = [sys.executable, "-m", "lite3r_cli", "batch", str(root), "-o", str(out), "-q", "--keep-unrelated"]
            start = time.perf_counter()
            done = subprocess.run([*command, "--workers", str(workers)], capture_output=True, text=True)
            wall = time.perf_counter() - start
            if done.returncode:
                print(done.stderr[-2000:], flush=True)
                continue
            document = json.loads((out / "batch.json").read_text())
            after = document["wall_seconds"] - document["start_seconds"]
            row = {"workers": workers, "scenes": arguments.scenes, "wall": wall, "start": document["start_seconds"]}
            row["scenes_per_minute"] = 60 * arguments.scenes / after
            print(json.dumps(row), flush=True)
            report["batch"].append(row)
            keep(arguments, report)


def distillations(arguments: argparse.Namespace, report: dict) -> None:
    """Steps per second and losses of `lite3r distill` under torchrun, with the same scenes per step in all runs."""
    scenes = [str(REPOSITORY / "sample_scenes" / name) for name in ("desk", "facade")]
    for count, seed in itertools.product(arguments.distill, arguments.distill_seeds):
        if time.perf_counter() - BEGAN > arguments.seconds:
            return print("no time left for distillation", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command = [sys.executable, *(torchrun if count > 1 else []), "-m", "lite3r_cli", "distill"]
            command += ["--batch", str(arguments.distill_scenes // count), "--validate-every", "100000"]
            command += ["--seed", str(seed), *arguments.distill_options.replace("OUT", folder).split(), *scenes]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True)
            row = {"processes": count, "seed": seed, "wall": time.perf_counter() - start, "exit": done.returncode}
            if done.returncode:
                row["error"] = done.stderr[-1500:]
            else:
                row |= of_log(Path(folder, "a", "log.jsonl"), arguments.distill_scenes)
            print(json.dumps(row), flush=True)
            report["distill"].append(row)
            keep(arguments, report)


def of_log(log: Path, scenes: int) -> dict:
    """Steps and scenes per second from the first logged step to the last, and the losses."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [record for record in records if "total" in record]
    first, last = steps[0], steps[-1]
    rate = (last["step"] - first["step"]) / max(1e-9, last["seconds"] - first["seconds"])
    distances = [record["measured"] for record in records if "measured" in record]
    return {
        "steps_per_s": round(rate, 3), "scenes_per_s": round(rate * scenes, 3),
        "losses": [[record["step"], record["total"]] for record in steps], "held_out": distances,
    }  # fmt: skip


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import torch

    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    device = f"{len(names)} × {names[0]}, one host" if names else "CPU"
    return {"device": device, "torch": torch.__version__, "command": " ".join(sys.argv)}


def keep(arguments: argparse.Namespace, report: dict) -> None:
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["vggt-1b:4", "mini:3"], help="MODEL:PROCESSES")
    parser.add_argument("--seconds", type=float, default=120, help="begin nothing after so many")
    parser.add_argument("--views", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--shrink", type=int, default=1, help="divide the pictures' sides: to try the script")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--alone-most", type=int, default=1000, help="more views are not tried on one GPU")
    parser.add_argument("--profile", action="store_true", help="seconds by kind of kernel")
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--distill", nargs="*", type=int, default=[])
    parser.add_argument("--distill-seeds", nargs="+", type=int, default=[0], help="of the data's order, each runs")
    parser.add_argument("--distill-scenes", type=int, default=4, help="scenes per step, of all processes together")
    parser.add_argument("--distill-options", default="--model mini --output OUT/a.safetensors --steps 40")
    parser.add_argument("--json")
    parser.add_argument("--part", default="all")
    arguments = parser.parse_args()
    if arguments.part == "networks":
        return networks(arguments)
    report: dict = {**machine(), "networks": [], "batch": [], "distill": []}
    for model in arguments.models:
        name, _, count = model.partition(":")
        together(arguments, name, int(count), report)
    distillations(arguments, report)
    batches(arguments, report)
    keep(arguments, report)


if __name__ == "__main__":
    main()
