"""The tables of time and memory, for `figures.py`."""

from __future__ import annotations

from collections.abc import Sequence

import attention_tables
from stored import load, table

NETWORKS = {
    "VGGT-1B": ("h100-vggt-eager", "h100-vggt-2", "h100-vggt-8-32", "h100-vggt-100", "h100-vggt-long"),
    "DA3-Large": ("h100-da3-2", "h100-da3-8-32-100"),
    "`mini` (H200)": ("h200-mini-100", "h200-mini-long"),
}  # the files of each; one H100 where no other card is named
VARIANTS = {
    "dense-eager": "{}, layer by layer, bfloat16 by autocast",
    "dense": "{}, `dense`: fused kernels, exact up to rounding",
    "lite": "{}, `lite`: FP8, at least 90 % of the attention across views skipped",
}
# Milliseconds / GiB for 2, 8, 32, 100, 300, 500, 1,000 views.
VIEWS = (2, 8, 32, 100, 300, 500, 1000)
TARGETS = {
    ("VGGT-1B", "dense"): {2: (17,), 8: (55,), 32: (370,), 100: (2650,)},
    ("VGGT-1B", "lite"): {
        2: (16, 1.7), 8: (36, 2.1), 32: (130, 2.4), 100: (560, 4), 300: (2600, 8), 500: (4800, 13), 1000: (12000, 24),
    },
    ("DA3-Large", "lite"): {2: (6,), 8: (14,), 32: (58,), 100: (230,)},
    ("`mini` (H200)", "lite"): {100: (120,), 1000: (3000,)},
}  # fmt: skip
STEPS = ("ask", "summarise_blocks", "block_shares", "list_blocks", "gathered_attention")


def _speed_rows(network: str) -> dict[tuple[str, int], dict]:
    rows = [row for name in NETWORKS[network] for row in load(name)["rows"]]
    return {(row["variant"], row["views"]): row for row in rows}


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _with_flash(network: str, variant: str) -> dict[int, float]:
    """Views → ms with FlashAttention-4, measured in another session than the rest."""
    rows = load("fa4-h100")["networks"] if network == "VGGT-1B" else []
    return {row["views"]: attention_tables.with_flash(row) for row in rows if row["variant"] == variant}


def speed() -> str:
    """Time and memory on one H100, as README shows it."""
    lines = []
    for network in NETWORKS:
        rows = _speed_rows(network)
        for variant, what in VARIANTS.items():
            found = [rows.get((variant, views)) for views in VIEWS]
            if any(found):
                cells = ("–" if row is None else f"{_ms(row['median_ms'])} / {row['peak_gib']:.1f}" for row in found)
                lines.append([what.format(network), *cells])
            if flash := _with_flash(network, variant):
                cells = (_ms(flash[views]) if views in flash else "–" for views in VIEWS)
                lines.append([f"{network}, `{variant}`, with the extra `hopper`", *cells])
    return table(("one H100: ms / GiB", *(f"{n:,}" for n in VIEWS)), lines)


def targets() -> str:
    """The same beside what is aimed at; bold: reached. For `lite` also how often faster than `dense` it is."""
    lines = []
    for (network, variant), wanted in TARGETS.items():
        rows = _speed_rows(network)
        aims, found, faster = ([f"{network}, {variant}: {what}"] for what in ("target", "measured", "times as fast"))
        for views in VIEWS:
            row, goal = rows.get((variant, views)), wanted.get(views, ())
            aims.append(" / ".join(_ms(x) if i == 0 else f"{x:g}" for i, x in enumerate(goal)) or "–")
            values = (
                ()
                if row is None
                else ((_ms(row["median_ms"]), row["median_ms"]), (f"{row['peak_gib']:.2f}", row["peak_gib"]))
            )
            cells = [f"**{said}**" if i < len(goal) and x <= goal[i] else said for i, (said, x) in enumerate(values)]
            found.append(" / ".join(cells) or "–")
            dense = rows.get(("dense", views))
            faster.append(f"{dense['median_ms'] / row['median_ms']:.2f} ×" if row and dense else "–")
        flash = [f"{network}, {variant}: with FlashAttention-4"]
        for views, ms in ((views, _with_flash(network, variant).get(views)) for views in VIEWS):
            reached = ms is not None and views in wanted and ms <= wanted[views][0]
            flash.append("–" if ms is None else f"**{_ms(ms)}**" if reached else _ms(ms))
        lines += [aims, found, *([flash] if any(cell != "–" for cell in flash[1:]) else [])]
        lines += [faster] if variant == "lite" else []
    return table(("ms / GiB", *(f"{n:,} views" for n in VIEWS)), lines)


def floors() -> str:
    """The least time that the card could take, as `lite3r bench` computes it."""
    lines = []
    for network in NETWORKS:
        rows = _speed_rows(network)
        for variant in ("dense", "lite"):
            found = [rows.get((variant, views)) for views in VIEWS]
            lines.append([f"{network}, `{variant}`", *("–" if row is None else _ms(row["floor_ms"]) for row in found)])
    return table(("floor, ms", *(f"{n:,} views" for n in VIEWS)), lines)


def stages() -> str:
    """Where the time of `lite` goes, without a graph."""
    lines, names = [], []
    for network in NETWORKS:
        for (variant, views), row in sorted(_speed_rows(network).items()):
            if variant == "lite" and views >= 32:
                names = list(row["stages"])
                lines.append([f"{network}, {views:,}", *(_ms(row["stages"][name]) for name in names)])
    return table(("`lite`, ms", *names), lines)


# Channels of all layers across views; tokens of a view of 392 × 518.
ACROSS = {"VGGT-1B": (24 * 1024, 1041), "DA3-Large": (8 * 1024, 1037)}


def missed() -> str:
    """What `lite` would need at the least where it misses its target: everything but attention across views as it was
    measured, and the kept pairs at the best rate that any kernel reached on the same card.
    """
    rate = max(row["fa4_tflops"] for row in load("fa4-h100")["layers"])
    lines = []
    for network, (channels, tokens) in ACROSS.items():
        for views, (target, *_) in TARGETS[network, "lite"].items():
            row = _speed_rows(network)["lite", views]
            if views >= 32 and row["median_ms"] > target:
                attention = row["stages"]["global attention"]
                rest = row["median_ms"] - attention
                kept = 4e-9 * channels * (tokens * views) ** 2 * (1 - row["skipped"]) / rate
                times = (target, row["median_ms"], attention, rest, kept, rest + kept)
                lines.append([f"{network}, {views:,} views", *map(_ms, times)])
    head = "target", "measured", "attention across views", "everything else", f"kept pairs at {rate:.0f} TF/s", "both"
    return table(("`lite`, ms", *head), lines)


# Kinds of kernels in a profile, by what their names contain; the first that fits
KERNELS = {
    "linear layers": ("nvjet",),
    "attention across views": ("_attend",),
    "its block maps and sums": ("_sums", "_select", "_moments"),
    "attention within views": ("sdpa",),
    "norms, GELU, FP8": ("_rows",),
    "heads split and merged": ("_split", "_merge"),
    "convolutions": ("implicit_gemm", "cudnn::Kernel", "cutlass__5x_cudnn"),
}


def profile() -> str:
    """The kernels of one replay of the graph, by kind."""
    lines = []
    for run in load("h100-profile")["runs"]:
        ms = dict.fromkeys(KERNELS, 0.0)
        for kernel in run["kernels"]:
            own = kernel["kernel"].startswith("_")  # names of ours are compared whole
            for kind, marks in KERNELS.items():
                if kernel["kernel"] in marks if own else any(mark in kernel["kernel"] for mark in marks):
                    ms[kind] += kernel["ms"]
                    break
        cells = {kind: f"{value:.1f}" if value else "–" for kind, value in ms.items()}
        if not ms["attention across views"]:  # one kernel does both: the profile cannot part them
            cells["attention across views"] = f"{ms['attention within views']:.1f} with that within views"
            cells["attention within views"] = ""
        rest, between = run["kernels_ms"] - sum(ms.values()), run["replay_ms"] - run["kernels_ms"]
        lines.append([f"{run['views']} views, `{run['variant']}`", *cells.values(), f"{rest:.1f}", f"{between:.1f}"])
    return table(("VGGT-1B", *KERNELS, "rest", "between kernels"), lines)


def kernels() -> str:
    """One layer of sparse attention over packed tokens, step by step."""
    rows = load("packed-h100")["rows"]
    head = [f"{row['shape']}, {row['tokens']:,} tokens, {row['queries']} queries a list" for row in rows]

    def line(name: str, values: Sequence[float], digits: int = 2) -> list[str]:
        return [name, *(f"{x:.{digits}f}" if x < 10 else f"{x:.1f}" for x in values)]

    lines = [line(f"`{step}`", [row[step] for row in rows]) for step in STEPS]
    lines.append(line("together", [sum(row[step] for step in STEPS) for row in rows]))
    lines.append(line("`gathered_attention` without means", [row["without means"] for row in rows]))
    lines.append(["its rate, TF/s", *(f"{row['tflops of kept pairs']:.0f}" for row in rows)])
    lines.append(line("dense attention by cuDNN", [row["dense by cuDNN"] for row in rows]))
    return table(("ms", *head), lines)


def attention_cpu() -> str:
    """Sparse against dense attention on two quiet cores."""
    lines = []
    rows = [(run, row) for run in load("attention-cpu")["runs"] for row in run["results"]]
    for _, row in sorted(rows, key=lambda each: (each[1]["dtype"], round(each[1]["skipped"], 2), each[1]["views"])):
        factor = row["dense_s"] / row["sparse_s"]
        cells = [row["dtype"], f"{100 * row['skipped']:.0f} %", f"{row['views']}", f"{row['tokens']:,}"]
        lines.append([*cells, f"{1e3 * row['dense_s']:,.0f} ms", f"{1e3 * row['sparse_s']:,.0f} ms", f"{factor:.2f} ×"])
    return table(("arithmetic", "skipped", "views", "tokens", "dense", "sparse", "dense / sparse"), lines)


def int8_cpu() -> str:
    """A linear layer of `mini` in int8 beside bfloat16."""
    names = {"attn.qkv": "`qkv`", "attn.proj": "`proj`", "mlp.fc1": "`fc1`", "mlp.fc2": "`fc2`"}
    kinds = {
        "bfloat16": "bfloat16",
        "int8 by token and row": "int8, a scale a token and a row (`torch._int_mm`)",
        "int8, the product alone": "the product of that alone",
        "int8, dynamic": "int8, one scale for all activations (torch's dynamic layer, oneDNN)",
        "FP8, emulated": "FP8, emulated",
    }
    rows = {(row["kind"], row["layer"]): row for row in load("int8-cpu")["results"]}
    lines = []
    for kind, words in kinds.items():
        times = [f"{1e3 * rows[kind, layer]['cpu_s']:.0f} ms" for layer in names]
        errors = [100 * rows[kind, layer]["error"] for layer in names]
        lines.append([words, *times, f"{min(errors):.1f} to {max(errors):.1f} %"])
    return table(("arithmetic", *names.values(), "error of the output"), lines)
