"""Every network on the fast engine beside VGGT-1B: milliseconds, and arithmetic operations a second, dense and lite.

    python benchmarks/networks_speed.py --json FILE [--models vggt-1b pi3 …] [--views 8 32 100 300] [--seconds 220]

Weights are random; all networks get as many patches a view (37 × 28). Operations are counted on the meta device; pairs
of query and key that the lite form skips do not count. Up to 32 views the median of five graphs counts, beyond them the
last of two passes without a graph (one for dense attention, which is not run at 300 views). Before a network is timed,
its fast form in bfloat16 is compared with its ordinary form in float32 on four small pictures; the ordinary form's own
error in bfloat16 stands beside it. The JSON is written after each row. `--small` tries the script on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import traceback
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from lite3r_cli.bench.floor import Rates, Work, floor_ms, rates_of, work_of
from lite3r_cli.bench.measure import GIB, Peak, Timer, once
from lite3r_cli.bench.subjects import image_sets, network
from lite3r_cli.config.prediction import LiteConfig
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.layers.vit import Block
from lite3r_cli.networks import fast_form
from lite3r_cli.networks.arithmetic import set_precision
from lite3r_cli.networks.base import Network, Prediction
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
from lite3r_cli.pipelines.planned import fast_settings, set_attention

MODELS = ("vggt-1b", "vggt-omega", "pi3", "pi3x", "map-anything", "map-anything-v1")
GRID = (28, 37)  # patches of a view
GRAPHS_UP_TO, DENSE_UP_TO = 32, 100  # views
BASE = MODELS[0]


def settings_of(model: Network, keep: float | None, device: torch.device) -> Settings:
    """The fast engine's settings: dense (`keep` None), or the lite form with this share of the keys."""
    lite = LiteConfig("dense", None) if keep is None else LiteConfig("sla", keep)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    asked = Asked.of_lite(lite, prefer_lite=keep is not None)
    if keep is None:
        asked = replace(asked, fp8_backend="off")
    plan = resolve(asked, NetworkFacts.of_model(model), Machine.of(device, dtype))
    set_attention(model, plan)
    return fast_settings(plan)


def differences(found: Prediction, expected: Prediction) -> dict[str, float]:
    """Relative differences where both have depth; rounding may move single pixels across a network's mask threshold."""
    a, b = (torch.stack(p.depth).float().to(expected.depth[0].device) for p in (found, expected))
    both = (a > 0) & (b > 0)
    return {
        "depth": float((a - b)[both].norm() / b[both].norm().clamp(min=1e-9)),
        "cameras": float(
            (found.cam_from_world.cpu() - expected.cam_from_world.cpu()).norm() / expected.cam_from_world.cpu().norm()
        ),
    }


def check(model: Network, device: torch.device) -> dict[str, dict[str, float]]:
    """Errors of the fast form and of the ordinary form in bfloat16, against float32. Leaves the network in float32."""
    (images,) = image_sets(1, 4, 8 * model.patch_size, 10 * model.patch_size, device, 1)
    exact = model.predict(list(images))
    runner = fast_form.fast_runner(model, settings_of(model, None, device), device)
    found = {"fast": differences(fast_form.predict(runner, images), exact)}
    del runner
    model.compute_dtype = torch.bfloat16  # by autocast: the weights stay float32
    found["ordinary"] = differences(model.predict(list(images)), exact)
    set_precision(model, torch.float32)
    return found


def trunk_bytes(model: Network, fp8: bool) -> int:
    blocks = sum(p.numel() for part in model.modules() if isinstance(part, Block) for p in part.parameters())
    rest = sum(p.numel() for p in model.parameters()) - blocks
    return blocks * (1 if fp8 else 2) + 2 * rest


def rows_of(model: Network, work: Work, asked: argparse.Namespace, rates: Rates, device: torch.device, deadline: float):
    """The rows of one network, as they come."""
    height, width = (side * model.patch_size for side in GRID)
    keeps = {"dense": None, "lite": asked.keep}
    for variant in asked.variants:
        keep = keeps[variant]
        settings = settings_of(model, keep, device)
        runner = fast_form.fast_runner(model, settings, device)
        weights = trunk_bytes(model, settings.fp8)
        for views in asked.views:
            if time.monotonic() > deadline or (variant == "dense" and views > DENSE_UP_TO):
                continue
            (images,) = image_sets(1, views, height, width, device, 0)
            graph = views <= GRAPHS_UP_TO
            peak, timer = Peak(device), Timer(device)
            with peak.watch(0):
                run = partial(runner if graph else runner.eager, images)
                turns = 5 if graph else 1 if variant == "dense" else 2
                if graph:
                    run()
                times = [once(device, run) for _ in range(turns)]
            ms = statistics.median(times) if graph else times[-1]
            if graph:
                runner.eager(images, timer.span)  # where the time goes
            shape = Shape.equal(views, height, width)
            skipped = runner.skipped(shape) if settings.sparse else 0.0
            done = views * (work.linear + work.rest) + views**2 * work.across * (1 - skipped)
            whole = Work(views * work.linear, views**2 * work.across, views * work.rest, views * work.image_bytes)
            yield {
                "model": model.name, "variant": variant, "views": views, "height": height, "width": width, "ms": ms,
                "tera_operations": done / 1e12, "tera_per_second": done / ms / 1e9, "skipped": skipped,
                "floor_ms": floor_ms(whole, rates, weights, settings.fp8, skipped), "peak_gib": peak.allocated / GIB,
                "stages": timer.totals() if graph else {},
            }  # fmt: skip
            runner.forget()
            del images, run
        del runner
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def beside_base(rows: list[dict]) -> None:
    """Add to each row how many times VGGT-1B's time per operation it takes."""
    base = {(r["variant"], r["views"]): r["tera_per_second"] for r in rows if r["model"] == BASE}
    for row in rows:
        rate = base.get((row["variant"], row["views"]))
        row["time_per_operation"] = None if rate is None else rate / row["tera_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--views", nargs="+", type=int, default=[8, 32, 100, 300])
    parser.add_argument("--variants", nargs="+", choices=("dense", "lite"), default=["dense", "lite"])
    parser.add_argument("--no-checks", action="store_true", help="do not compare the fast forms with the ordinary ones")
    parser.add_argument("--keep", type=float, default=0.1, help="share of the keys that the lite form keeps")
    parser.add_argument("--seconds", type=float, default=220, help="nothing is started later than this")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks and pictures, to try the script")
    asked = parser.parse_args()
    deadline = time.monotonic() + asked.seconds
    device = torch.device(asked.device)
    if asked.small:
        make_small()
    rates = rates_of(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    document = {
        "benchmark": "networks_speed", "gpu": name, "torch": torch.__version__, "rates": asdict(rates),
        "keep_ratio": asked.keep, "weights": "random", "checks": {}, "rows": [],
    }  # fmt: skip

    def write() -> None:
        beside_base(document["rows"])
        asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    for which in asked.models:
        if time.monotonic() > deadline:
            print(f"{which}: no time left", flush=True)
            continue
        try:
            model, _origin = small(which) if asked.small else network(which, device, 0)
            work = work_of(model, 1, GRID[0] * model.patch_size, GRID[1] * model.patch_size)
            if not asked.no_checks:
                document["checks"][which] = check(model, device)
                print(which, document["checks"][which], flush=True)
            for row in rows_of(model, work, asked, rates, device, deadline):
                document["rows"].append(row)
                write()
                print(
                    f"{which:16} {row['variant']:5} {row['views']:4} {row['ms']:9.1f} ms {row['tera_per_second']:7.1f} "
                    f"TF/s  floor {row['floor_ms']:8.1f}  x {row['time_per_operation'] or 0:.2f}  "
                    f"{row['peak_gib']:.1f} GiB " + " ".join(f"{k} {v:.1f}" for k, v in row["stages"].items()),
                    flush=True,
                )
        except Exception:  # the other networks still count
            traceback.print_exc()
        finally:
            model = None
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    write()


# -- to try the script -------------------------------------------------------------------------------------------------


def make_small() -> None:
    """Use fewer patches, to try the script on a CPU."""
    global GRID
    GRID = (4, 6)


def small(name: str) -> tuple[Network, str]:
    """A tiny network of a family."""
    from lite3r_cli.networks import standin
    from lite3r_cli.networks.family import family_named

    family = family_named(name)
    assert family is not None
    config = family.sizes[name]
    less = {"depth": 6, "pairs": 4, "encoder_depth": 2, "taps": (2, 4), "dim": 128, "heads": 2, "encoder_dim": 128,
            "encoder_heads": 2, "head_depth": 1, "head_dim": 128, "head_heads": 2, "head_out": 32, "camera_out": 32,
            "conv_channels": (32, 32, 32), "conv_last": 8, "metric_dim": 64, "metric_heads": 1, "metric_out": 16,
            "inject_after": (1,), "head_features": 16, "head_stages": (8, 8, 8, 8), "camera_depth": 1,
            "camera_heads": 2, "register_pairs": (1,), "dense_widths": (8, 8, 8),
            "global_widths": (8, 8, 8)}  # fmt: skip
    if hasattr(config, "pairs"):
        less["taps"] = (0, 1, 2, 3)
    made = family.build(replace(config, **{k: v for k, v in less.items() if hasattr(config, k)}), name)
    standin.fill(made, 0, made.constants())
    return made.eval(), "tiny"


if __name__ == "__main__":
    main()
