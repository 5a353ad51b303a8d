"""`lite3r bench`: time, memory and lower bound of several variants of one network, for several numbers of views."""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.networks.base import Network

from ..config.benchmark import BenchConfig
from ..console import Progress
from ..engine.packing import Shape
from ..errors import InputError, MemoryLimitError
from ..io.images import discover
from ..layers.dense import accounted
from ..networks.family import preparation_of, require_family
from ..networks.pictures import Preparation
from ..pipelines.preprocess import fit
from ..runtime import Runtime, choose, is_out_of_memory, seed_everything, versions
from . import gate
from .floor import Rates, floor_ms, rates_of, work_of
from .measure import GIB, Peak, Timer, alternate, once, spread
from .stages import with_rest
from .subjects import CHECKPOINT, image_sets
from .variants import Request, Variant, build

INPUT_SETS = 2  # sets of images that runs use alternately
ASPECT = (3, 4)  # height : width of stand-in images if only the longest side is given


@dataclass
class Row:
    """The result of one variant for one number of views."""

    model: str
    variant: str
    views: int
    height: int
    width: int
    median_ms: float
    spread_ms: float
    peak_gib: float
    reserved_gib: float
    floor_ms: float
    skipped: float  # share of the key blocks across views
    depth_difference: float  # relative to the first dense variant's output for the same images
    attention: str  # what ran: "dense", or "sparse" if any block may have been skipped
    stages: dict[str, float] = field(default_factory=dict)  # milliseconds, of one run without a CUDA graph
    speedup: float | None = None  # over the first variant; None if a check failed, or see `withheld`
    withheld: str | None = None  # why there is no speed-up although all checks passed


@dataclass
class Bench:
    """The result of a benchmark."""

    environment: dict[str, Any]
    gate: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The result as a document for JSON."""
        return {"environment": self.environment, "gate": self.gate, "rows": [asdict(row) for row in self.rows]}


def run(config: BenchConfig, progress: Progress | None = None) -> Bench:
    """Run the benchmark. Raises UsageError, InputError, WeightsError, BackendError or MemoryLimitError."""
    progress = progress or Progress()
    if config.images is not None:
        discover([config.images])  # a wrong folder is told before networks are loaded
    runtime = choose(config.device, config.dtype)
    seed_everything(config.seed)
    device = runtime.torch_device
    request = Request(config.model, device, runtime.torch_dtype, config.seed, config.lite)
    built = []
    for name in config.compare:
        with progress.stage(f"Load {name}"):
            built.append(build(name, request))
    variants, (_, sizes, origin) = [variant for variant, _, _ in built], built[-1]
    progress.note(f"weights: {origin}")
    with progress.stage("Check operators"):
        checks = gate.operator_checks(variants, device, runtime.torch_dtype)
        rates = rates_of(device, runtime.torch_dtype)
    failed = [c for c in checks if not c.passed]
    wrong = [f"{c.operator}: error {c.error:.2g}, plain torch {c.usual:.2g}" for c in failed]
    bench = Bench(_environment(runtime, rates, variants, origin), {})
    for views in config.views:
        with progress.stage(f"{views} views", total=len(variants) * config.repeats) as step:
            stand_in = origin != CHECKPOINT or config.images is None
            rows, complaints = _measure(config, device, variants, sizes, rates, views, stand_in, step)
        bench.rows += rows
        wrong += complaints
    bench.environment["variants"] = _descriptions(variants)
    operators = [asdict(check) for check in checks]
    bench.gate = {"passed": not wrong, "complaints": wrong, "operators": operators, "settings": gate.SETTINGS}
    if not wrong:
        for views in config.views:
            group = [row for row in bench.rows if row.views == views]
            for row in group:
                if row.withheld is None:
                    row.speedup = group[0].median_ms / row.median_ms
    return bench


def _measure(
    config: BenchConfig, device: torch.device, variants: list[Variant], sizes: Network, rates: Rates, views: int,
    stand_in: bool, step: Callable[[], None],
) -> tuple[list[Row], list[str]]:  # fmt: skip
    try:
        images = _images(config, sizes, views, device)
        height, width = images[0].shape[-2:]
        peaks, differences, wrong = _first_answers(variants, images, device)
        runs: dict[str, Callable[[int], object]] = {v.name: partial(_turn, v, images) for v in variants}
        times = alternate(device, runs, config.repeats, step)
        stages = {v.name: _stages(v, images[0], device) for v in variants}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(f"out of memory on {device} at {views} views: leave them out of --views") from error
    work, rows = work_of(sizes, views, height, width), []
    tokens = views * (height * width // sizes.patch_size**2 + require_family(sizes).special_tokens)
    for v in variants:
        skipped = v.skipped(Shape.equal(views, height, width))
        least = floor_ms(work, rates, v.weight_bytes, v.fp8, skipped)
        peak = peaks[v.name]
        rows.append(
            Row(
                config.model, v.name, views, height, width, statistics.median(times[v.name]), spread(times[v.name]),
                peak.allocated / GIB, peak.reserved / GIB, least, skipped, differences[v.name],
                "sparse" if v.sparse and tokens >= v.crossover else "dense", stages[v.name],
                withheld=gate.reason_against_ratio(v.name, differences[v.name], skipped, stand_in),
            )
        )  # fmt: skip
        v.forget()
    return rows, wrong


def _first_answers(
    variants: list[Variant], images: list[Tensor], device: torch.device
) -> tuple[dict[str, Peak], dict[str, float], list[str]]:
    """Run every variant once per image set, which also warms up. Returns peak memory and depth difference from the
    first dense variant by name, and what is wrong.
    """
    peaks: dict[str, Peak] = {}
    answers: dict[str, gate.Answer] = {}
    for variant in variants:
        peak = peaks[variant.name] = Peak(device)
        own = variant.held + images[0].nbytes
        with accounted() as account:
            for given in reversed(
                images
            ):  # the first set comes last, so that on a GPU its output is from a graph replay
                with peak.watch(own):
                    answer = variant.run(given)
        if account:
            most = max(account, key=account.__getitem__)
            variant.choices[f"dense attention, {len(images[0])} views"] = f"{most.chosen}: {most.reason}"
        depth, confidence, cameras = answer
        answers[variant.name] = depth.cpu(), confidence.cpu(), cameras.cpu()
    reference = answers[next((v.name for v in variants if not v.sparse), variants[0].name)]
    differences = {name: gate.difference(answer[0], reference[0]) for name, answer in answers.items()}
    shape = (len(images[0]), *images[0].shape[-2:])
    wrong = [text for v in variants for text in gate.complaints(v, answers[v.name], reference, shape)]
    return peaks, differences, wrong


def _turn(variant: Variant, images: list[Tensor], turn: int) -> None:
    variant.run(images[turn % len(images)])


def _stages(variant: Variant, images: Tensor, device: torch.device) -> dict[str, float]:
    variant.staged(images, Timer(device))  # warm-up: some kernels only run without a graph
    timer = Timer(device)
    whole = once(device, lambda: variant.staged(images, timer))
    return with_rest(timer.totals(), whole)


def _images(config: BenchConfig, sizes: Network, views: int, device: torch.device) -> list[Tensor]:
    patch = sizes.patch_size
    preparation = preparation_of(sizes)
    side = config.size or (preparation.resolution, None)
    if config.images is not None:
        return _pictures(config.images, preparation, side, patch, views, device)
    tall, wide = side
    lengths = (tall * ASPECT[0] / ASPECT[1], tall) if wide is None else (tall, wide)
    height, width = (max(1, round(length / patch)) * patch for length in lengths)
    return image_sets(INPUT_SETS, views, height, width, device, config.seed)


def _pictures(
    folder: Path, preparation: Preparation, side, patch: int, views: int, device: torch.device
) -> list[Tensor]:
    """Sets of `views` photographs of one size, repeated cyclically; the second set starts one image later."""
    found = discover([folder])
    fitted = [fit(found.read(i), preparation, max(s for s in side if s), patch, False).rgb for i in range(len(found))]
    if any(rgb.shape != fitted[0].shape for rgb in fitted):
        raise InputError(f"{folder}: bench needs images of one shape")
    stack = torch.stack([torch.from_numpy(rgb) for rgb in fitted]).to(device).permute(0, 3, 1, 2).float() / 255
    return [stack[[(i + first) % len(stack) for i in range(views)]] for first in range(INPUT_SETS)]


def _environment(runtime: Runtime, rates: Rates, variants: list[Variant], origin: str) -> dict[str, Any]:
    device = runtime.torch_device
    found: dict[str, Any] = {
        **versions(),
        "device": runtime.device.chosen,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": runtime.dtype.chosen,
        "weights": origin,
        "rates": asdict(rates),
        "variants": _descriptions(variants),
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, **_driver(device)}
        for package in ("triton", "transformer_engine", "flash-attn-4"):
            found[package] = _version(package)
    return found


def _descriptions(variants: list[Variant]) -> dict[str, dict[str, str]]:
    return {v.name: {"description": v.description, **v.choices} for v in variants}


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _driver(device: torch.device) -> dict[str, str]:
    fields = "driver_version,clocks.sm,clocks.mem,power.draw"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        values = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return {"driver": f"unknown: {error}"}
    return dict(zip(("driver", "clock_sm", "clock_memory", "power"), values.split(", ")))
