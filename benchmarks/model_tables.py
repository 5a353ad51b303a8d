"""The tables about networks and their files, for `figures.py`: differences from the authors' code, goals, intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
from stored import load, table

# Network → (how its parity fixtures are called, licence of the weights, what it takes, published AUC@30 on ETH3D,
# 7-Scenes and TUM-dynamics as the reproduction report of VGGT-Ω's authors has it)
NETWORKS = {
    "`vggt-1b`": (("vggt_1b_", "vggt_small_"), "non-commercial", "images", "62.1, 74.4, 61.2"),
    "`vggt-omega`": (
        ("vggt_omega_",),
        "non-commercial, outputs too",
        "images",
        "88.5, 83.1, 82.3 (`-416`: 88.9, 82.4, 82.8)",
    ),
    "`pi3`": (("pi3_",), "non-commercial", "images", "79.6, 77.0, 59.2"),
    "`pi3x`": (("pi3x_",), "non-commercial", "images, cameras, depth → metres", "not in that report"),
    "`map-anything`": (("map_anything_",), "Apache-2.0", "images, cameras, depth → metres", "not in that report"),
    "`lingbot-map`": (
        ("lingbot_",),
        "Apache-2.0 by its readme",
        "a stream",
        "Oxford Spires: cameras off by 6.42 m over 320 frames, 7.11 m over 3,840 (its paper)",
    ),
    "Depth-Anything-3": (("da3_",), "by size, above", "images, cameras", "87.0, 78.2, 62.7 (the size is not said)"),
}


def comparison() -> str:
    """Licence, inputs, difference from the authors' code over all parity fixtures, speed and memory of each network."""
    results, speeds = load("parity")["results"], load("h200-networks")["rows"]
    stream = load("h200-streaming")["runs"][0]["forms"]["fp8"]
    lines = []
    for network, (marks, licence, takes, published) in NETWORKS.items():
        those = {name: errors for name, errors in results.items() if name.startswith(marks)}
        largest = max(value for errors in those.values() for value in errors.values())
        lite = {r["views"]: r for r in speeds if (f"`{r['model']}`", r["variant"]) == (network, "lite")}
        speed = f"{lite[32]['ms']:.0f} ms, {lite[100]['peak_gib']:.1f} GiB" if lite else "–"
        if network == "`lingbot-map`":
            speed = f"{steady_rate(stream['rows']):.1f} frames/s, {stream['rows'][-1]['memory'] / 2**30:.1f} GiB in all"
        lines.append([network, licence, takes, f"{largest:.1e} ({len(those)})", speed, published])
    head = ("network", "licence", "takes", "largest difference from the authors' code (fixtures)")
    return table((*head, "32 images, memory for 100", "AUC@30 on ETH3D, 7-Scenes, TUM-dynamics"), lines)


def steady_rate(rows: Sequence[dict]) -> float:
    """Frames a second after the first 100, in which kernels are compiled and graphs are captured."""
    seconds, before = 0.0, rows[0]["frame"]
    for row in rows:
        if row["frame"] > 100:
            seconds += (row["frame"] - before) / row["frames_per_second"]
        before = row["frame"]
    return (before - 100) / seconds


GOALS_HEAD = ("scenes, four views", "goal", "mean", "")


def goals() -> str:
    """The goals of `mini`, and the means of the scenes that they are about."""
    return table(GOALS_HEAD, goal_lines(load("mini-accuracy")["models"]["mini"]["rows"]))


def goal_lines(rows: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """What each goal is about, the goal, what `rows` (scene → measures) reach, and whether that is enough. Raises
    KeyError if a scene is missing.
    """

    def line(what: str, scenes: Sequence[str], key: str, goal: float) -> list[str]:
        value = fmean(rows[scene][key] for scene in scenes)
        reached = value >= goal if key.startswith("auc") else value <= goal
        digits, unit = (1, " %") if key == "focal_pct" else (3, "")
        return [what, f"{goal:g}{unit}", f"{value:.{digits}f}{unit}", "reached" if reached else "missed"]

    photos, drawn = ("fountain-P11", "herz-jesu-P8", "entry-P10"), [f"proc-{i:02d}" for i in range(8)]
    return [
        line("three sets of photos: AUC@30", photos, "auc30", 0.96),
        line("AUC@5", photos, "auc5", 0.75),
        line("focal length", photos, "focal_pct", 3),
        line("rgbd-desk: AUC@30", ["rgbd-desk"], "auc30", 0.9),
        line("AbsRel", ["rgbd-desk"], "absrel", 0.08),
        line("rgbd-office: AUC@30", ["rgbd-office"], "auc30", 0.65),
        line("AbsRel", ["rgbd-office"], "absrel", 0.06),
        line("proc-00 … 07: AUC@30", drawn, "auc30", 0.88),
        line("AbsRel", drawn, "absrel", 0.06),
        line("focal length", drawn, "focal_pct", 2),
    ]


def card_means() -> str:
    """Means over the scenes with 95 % intervals of a bootstrap over scenes, and the differences paired by scene."""
    models = load("mini-accuracy")["models"]
    present, before = models["mini"]["rows"], models["before"]["rows"]
    rng = np.random.default_rng(0)

    def cell(values: np.ndarray, digits: int, sign: str) -> str:
        drawn = values[rng.integers(len(values), size=(10_000, len(values)))].mean(axis=1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        return f"{values.mean():{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]".replace("-", "−")

    lines = []
    for key, name, digits in (
        ("auc5", "AUC@5", 3), ("auc30", "AUC@30", 3), ("focal_pct", "focal length, %", 1), ("absrel", "AbsRel", 3)
    ):  # fmt: skip
        scenes = [scene for scene, row in present.items() if row[key] is not None and "mean" not in scene]
        new, old = (np.array([rows[scene][key] for scene in scenes]) for rows in (present, before))
        means = [cell(values, digits, sign) for values, sign in ((new, ""), (old, ""), (new - old, "+"))]
        lines.append([name, str(len(scenes)), *means])
    return table(("", "scenes", "present file", "previous file", "difference"), lines)


def training_runs() -> str:
    """The runs that made `mini`'s weights, one after another."""

    def line(run: dict) -> list[str]:
        minutes, steps = f"{run['minutes']} min", f"{run['steps']:,}"
        if "planned_minutes" in run:
            minutes = f"the first {run['minutes']} of {run['planned_minutes']} planned minutes"
        if run.get("steps_are_estimated"):
            steps = f"about {steps}"
        shapes = run["shapes"]
        if run["start"]:
            shapes += f"; warm start from {run['start']}"
        rate = f"{run['rate']:.1e}".replace(".0e-0", "e-").replace("e-0", "e-")
        end = run.get("rate_at_the_end")
        return [
            str(run["run"]),
            f"{run['gpus']} × {run['gpu']}",
            minutes,
            steps,
            shapes,
            f"{rate}, cosine{', ' + end if end else ' to 2 %'}",
        ]

    runs = load("mini-runs")["runs"]
    head = ("", "hardware", "time", "steps", "shapes", "learning rate")
    return table(head, [line(run) for run in runs])
