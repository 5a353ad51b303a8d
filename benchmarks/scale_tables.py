"""Tables of docs/scale.md: one scene on several GPUs, many scenes by several workers, training by several processes."""

from __future__ import annotations

from statistics import mean, median, stdev

from stored import duration, load, table


def scale() -> str:
    """One scene on several GPUs."""
    lines = []
    for row in [*load("h200-scale")["networks"], *load("h200-x2-scale")["networks"]]:
        words = {"vggt-1b": "VGGT-1B `lite`", "mini": "`mini` `lite`"}[row["model"]]
        together = median(row["seconds_together"])
        alone = median(row["seconds_alone"][1:]) if "seconds_alone" in row else None
        memory = row.get("peak_gib_alone")
        lines.append([
            f"{words}, {row['views']:,} views", f"{row['processes']}", duration(alone), duration(together),
            "–" if alone is None else f"{alone / together:.2f}",
            "–" if memory is None else f"{memory:.2f}", f"{max(row['peak_gib_each']):.2f}",
            "–" if memory is None else f"{max(row['peak_gib_each']) / memory:.2f}",
        ])  # fmt: skip
    head = ("", "GPUs", "one: s", "all: s", "times as fast", "one: GiB", "each: GiB", "share")
    return table(head, lines)


def workers() -> str:
    """Many scenes on one machine: scenes per minute after the start, and the share of a linear speed-up."""
    lines = []
    for machine, name in (("two cores (Xeon)", "xeon-2cores-scale"), ("H200, a GPU for each worker", "h200-x2-scale")):
        rows = load(name)["batch"]
        alone = next((row["scenes_per_minute"] for row in rows if row["workers"] == 1), None)
        for row in rows:
            share = "–" if alone is None else f"{row['scenes_per_minute'] / alone / row['workers']:.2f}"
            rate = f"{row['scenes_per_minute']:.1f}"
            lines.append([machine, f"{row['workers']}", f"{row['scenes']}", rate, f"{row['start']:.1f}", share])
    return table(("", "workers", "scenes", "scenes a minute", "start: s", "share of linear"), lines)


def training() -> str:
    """`distill` with several processes: steps per second, the share of a linear speed-up, losses."""
    rows = sorted(load("h200-scale")["distill"], key=lambda row: row["processes"])
    alone = rows[0]["steps_per_s"] / rows[0]["processes"]
    steps = (10, 20, 30, 40)
    lines = []
    for row in rows:
        losses = dict(map(tuple, row["losses"]))
        share = row["steps_per_s"] / alone / row["processes"]
        values = [*(losses[step] for step in steps), row["held_out"][-1]]
        figures = (f"{value:.4f}".replace("-", "−") for value in values)
        lines.append([f"{row['processes']}", f"{row['steps_per_s']:.2f}", f"{share:.2f}", *figures])
    return table(("GPUs", "steps/s", "share of linear", *(f"loss at {n}" for n in steps), "held out"), lines)


def seeds() -> str:
    """`distill` with several orders of the data: mean and standard deviation of the losses, by number of processes."""
    rows = load("xeon-2cores-distill")["distill"]
    lines = []
    for count in sorted({row["processes"] for row in rows}):
        own = [row for row in rows if row["processes"] == count]
        runs = [[*(loss for _, loss in row["losses"]), row["held_out"][-1]] for row in own]
        spread = (f" ± {stdev(values):.3f}" if len(runs) > 1 else "" for values in zip(*runs))
        values = [f"{mean(values):.3f}{more}" for values, more in zip(zip(*runs), spread)]
        lines.append([f"{count}", f"{len(runs)}", *values])
    steps = [f"loss at {step}" for step, _ in rows[0]["losses"]]
    return table(("processes", "seeds", *steps, "held out"), lines)
