"""The tables of forms of sparse attention, of masks and of single scenes, for `figures.py`."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median

from accuracy_tables import INDOORS, PHOTOGRAPHS, PROCEDURAL
from stored import duration, load, table

STUDENT = ("student", "skipped", "AbsRel against dense", "AUC@30, points", "teacher: AbsRel")


def _percent(three: list[float]) -> str:
    """Mean and interval of shares → per cent."""
    return "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*(100 * x for x in three)).replace("-", "−")


def _points(three: list[float]) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * x for x in three)).replace("-", "−")


def _student(name: str, row: dict) -> list[str]:
    angles = [f"{row['rotation']:.2f}°", f"{row['rotation_median']:.2f}°"]
    skipped = f"{100 * row['skipped']:.1f} %"
    return [name, skipped, _percent(row["absrel"]), _points(row["auc30"]), f"{row['depth']:.4f}", *angles]


# Skipped share → what a student of it shall reach, in the columns after the first.
STUDENTS_REACH = {
    75: ("≥ 75 %", "≤ +3 %", "≥ −1", "≤ 0.01", "≤ 0.3°", "≤ 0.3°"),
    90: ("≥ 90 %", "≤ +8 %", "≥ −3", "", "", ""),
}


def students() -> str:
    """`mini` distilled, beside its targets."""
    rows = {round(100 * row["skipped"]): row for row in load("distill-mini")["results"]}
    lines = []
    for share, reach in STUDENTS_REACH.items():
        lines += [_student(f"{share} %", rows[share]), ["target", *reach]]
    return table((*STUDENT, "rotation, mean", "median"), lines)


def trained_forms() -> str:
    """`mini` under sparse attention without training and after it: what it loses, and what the training costs."""
    lines = []
    measured = load("adapters-90")["results"] + [row for row in load("adapters")["results"] if row["trained"]]
    courses = {row["name"]: [distance for _, distance in row["course"]] for row in measured if "course" in row}
    for row in sorted(measured, key=lambda row: round(row["skipped"], 2)):
        if row["skipped"] > 0.85:
            cost, better = ["–"] * 3, ["–"] * 2
            if row["trained"]:
                course = courses[row["name"]]
                peak = f"{row['trained']:,}, {row['lr']:g}"
                cost = [
                    peak,
                    f"{row['seconds']:.0f} s, {row['peak_gib']:.0f} GiB",
                    f"{course[0]:.4f} → {min(course):.4f}",
                ]
                better = [_percent(row["absrel_untrained"]), _points(row["auc30_untrained"])]
            cells = [_percent(row["absrel"]), _points(row["auc30"]), *better, *cost]
            lines.append([row["name"], f"{100 * row['skipped']:.1f} %", *cells])
    measures = "AbsRel", "AUC@30, points"
    head = (
        *measures,
        *(f"than without training: {what}" for what in measures),
        "numbers, rate",
        "training",
        "held out",
    )
    return table(("trained", "skipped", *head), lines)


def ablations() -> str:
    """Single settings of the sparse form changed."""
    results = load("distill-mini-ablations")["results"]
    return table((*STUDENT, "rotation", "median"), [_student(row["name"], row) for row in results])


# Words → a result of benchmarks/sparse_forms.py, without "90 % skipped: ".
PACKED_FORMS = {
    "**128 queries a list**": "queries 128, scores scalar, coarse, summary -1",
    "exact divisor of the shares": "queries 128, scores scalar, summary -1",
    "and 32 queries asked": "queries 128, scores scalar, asked 32, summary -1",
    "shares with variances channel by channel": "queries 128, scores mass, summary -1",
    "shares without variances": "queries 128, summary -1",
    "asked: means of 16 queries, 8 a group": "queries 128, scores submean, asked 8, summary -1",
}
BLOCK_FORMS = (
    (("64 queries × 16 keys", "queries 64"), ("128 × 16, means of 64 only", "queries 128, summary 64")),
    (
        ("64 × 32", "queries 64, keys 32"),
        ("128 × 16, spread in the means' weight", "queries 128, scores mass, summaries spread"),
    ),
    (("64 × 64", "queries 64, keys 64"), ("128 × 16, half of it", "queries 128, summaries 0.5")),
    (("128 × 16", "queries 128"), ("128 × 16, bands of eight rows", "queries 128, order walk8")),
    (("128 × 32", "queries 128, keys 32"), ("128 × 16, chosen by the true shares", "queries 128, scores true")),
    (("128 × 64", "queries 128, keys 64"), ("128 × 16, 8 queries asked", "queries 128, asked 8")),
    (("192 × 16", "the default"), ("192 × 32", "keys 32")),
    (("192 × 64", "keys 64"), ("192 × 128", "keys 128")),
)


def packed_forms() -> str:
    """How the packed form chooses, 90 % skipped, before training."""
    results = {row["name"].removeprefix("90 % skipped: "): row for row in load("sparse-forms")["results"]}
    forms = {"FP8 alone, nothing skipped": "dense, FP8", **PACKED_FORMS}
    lines = [
        [words, _percent(row["absrel"]), _points(row["auc30"]), f"{row['depth']:.4f}", f"{row['rotation_median']:.2f}°"]
        for words, row in ((words, results[name]) for words, name in forms.items())
    ]
    return table(("form, 90 % skipped", "AbsRel", "AUC@30, points", "teacher: AbsRel", "rotation, median"), lines)


def block_forms() -> str:
    """Sizes of groups and blocks, and other ways to choose blocks; each line has two forms."""
    results = {row["name"].removeprefix("90 % skipped: "): row for row in load("sparse-forms")["results"]}

    def cells(words: str, name: str) -> list[str]:
        row = results[name]
        change, points = f"{100 * row['absrel'][0]:+.1f} %", f"{100 * row['auc30'][0]:+.2f}"
        return [words, change.replace("-", "−"), points.replace("-", "−"), f"{row['depth']:.4f}"]

    lines = [[cell for form in pair for cell in cells(*form)] for pair in BLOCK_FORMS]
    columns = ("AbsRel", "AUC@30", "teacher: AbsRel")
    return table(("90 % skipped", *columns, "", *columns), lines)


MASKS = {
    "absent": "without the object",
    "seen": "with it, no mask",
    "black": "masked, its pixels black",
    "plain": "masked, its pixels of one mean colour",
    "left out": "masked, no keys of attention (what `--masks` does)",
}
MASKED_SCENES = {"facade": "facade", "desk": "desk", "proc-00": "a procedural room"}


def masks() -> str:
    """A foreign object in every picture: poses, depth beside it, points before the scene."""
    scenes = load("masked-keys")["scenes"]
    head = [""]
    for name, words in MASKED_SCENES.items():
        head += [f"{words}, {scenes[name]['resolution']} px", "", ""]
    lines = []
    for how, words in MASKS.items():
        means = [scenes[name]["mean"][how] for name in MASKED_SCENES]
        lines.append(
            [words, *(c for m in means for c in (f"{m['auc5']:.2f}", f"{m['absrel']:.3f}", f"{m['ghosts']:,}"))]
        )
    return table(head, lines)


NOT_COMPARED = (*INDOORS, *PROCEDURAL)  # so small that the start of a process decides the time


def refined_scenes() -> str:
    """`--refine` scene by scene."""
    scenes = load("refine-xeon-2cores")["scenes"]
    lines = []
    for name in (*PHOTOGRAPHS, *sorted(INDOORS), *PROCEDURAL):
        alone, network, refined = (scenes[name][way] for way in ("pycolmap", "network", "refine"))
        times = "–" if name in NOT_COMPARED else f"{refined['seconds'] / alone['seconds']:.1f}"
        depth = ["–", "–", "–"]
        if refined["absrel"] is not None:
            depth = [
                f"{network['absrel']:.3f} → {refined['absrel']:.3f}",
                f"{network['delta105']:.2f} → {refined['delta105']:.2f}",
                f"{refined['absrel_two_views']:.3f}, {refined['median_two_views']:.3f}",
            ]
        runs = [f"{run['seconds']:.1f}, {run['auc5']:.3f}" for run in (alone, network, refined)]
        lines.append([name, *runs[:2], f"{runs[2]}, {refined['images']}", times, *depth])
    return table(
        (
            "scene", "pycolmap: s, AUC@5", "network: s, AUC@5", "`--refine`: s, AUC@5, verified", "times pycolmap",
            "AbsRel: network → refined", "δ<1.05", "seen twice: AbsRel, median",
        ),
        lines,
    )  # fmt: skip


def refine_targets() -> str:
    """What `--refine` reaches of its targets, over the scenes that each is about."""
    scenes = load("refine-xeon-2cores")["scenes"]

    def of(names: Iterable[str], key: str) -> list[float]:
        return [scenes[name]["refine"][key] for name in names]

    def line(what: str, target: str, reached: bool, value: str) -> list[str]:
        return [what, target, value, "reached" if reached else "missed"]

    auc5, drawn, depth = of(PHOTOGRAPHS, "auc5"), of(PROCEDURAL, "auc5"), of(PROCEDURAL, "absrel_two_views")
    times = [scenes[name]["refine"]["seconds"] / scenes[name]["pycolmap"]["seconds"] for name in PHOTOGRAPHS]
    absrel, delta = of(INDOORS, "absrel"), of(INDOORS, "delta105")
    return table(
        ("", "target", "", ""),
        [
            line("photos: least AUC@5", "≥ 0.97", min(auc5) >= 0.97, f"{min(auc5):.3f}"),
            line("time, pycolmap's", "≤ 3 ×", max(times) <= 3, f"{min(times):.1f} to {max(times):.1f} ×"),
            line(
                "drawn scenes: mean AUC@5",
                "≥ 0.85",
                fmean(drawn) >= 0.85,
                f"{fmean(drawn):.3f}, least {min(drawn):.3f}",
            ),
            line(
                "mean AbsRel where seen twice",
                "≤ 0.025",
                fmean(depth) <= 0.025,
                f"{fmean(depth):.3f}, largest {max(depth):.3f}",
            ),
            line(
                "rgbd-office, rgbd-desk: AbsRel", "≤ 0.04", max(absrel) <= 0.04, ", ".join(f"{x:.3f}" for x in absrel)
            ),
            line("δ<1.05", "≥ 0.80", min(delta) >= 0.8, ", ".join(f"{x:.2f}" for x in delta)),
        ],
    )


def camera_times() -> str:
    """Network and cameras of `--refine` beside pycolmap alone on the same two cores, one after the other: seconds and
    AUC@5. The processor time is the median of all runs."""
    lines = []
    for name, row in load("same-bytes")["sets"].items():
        ours, other = row["refine"], row["pycolmap"]
        network, cameras = (ours[0]["seconds"][stage] for stage in ("Predict", "Refine cameras"))
        alone = other[0]["seconds"]
        used = (median(one["processor_seconds"] for one in ours), median(one["processor_seconds"] for one in other))
        lines.append([
            f"{name}, {row['images']}", f"{alone:.0f}, {other[0]['auc5']:.3f}, {other[0]['images']}",
            f"{network:.0f} + {cameras:.0f}, {ours[0]['auc5']:.3f}, {ours[0]['refined']}",
            f"{(network + cameras) / alone:.2f}", f"{cameras / alone:.2f}", f"{used[0] / used[1]:.2f}",
        ])  # fmt: skip
    columns = (
        "set, images", "pycolmap alone: s, AUC@5, images", "network + cameras: s, AUC@5, images", "times pycolmap",
        "cameras alone", "processor time, times pycolmap",
    )  # fmt: skip
    return table(columns, lines)


CPU_TARGETS = {8: "5 s", 32: "30 s"}


def cpu_views() -> str:
    """`mini` on two cores."""
    lines = []
    for row in load("xeon-2cores-mini")["rows"]:
        seconds, floor = row["median_ms"] / 1e3, row["floor_ms"] / 1e3
        cells = [f"{row['views']}", CPU_TARGETS[row["views"]], f"**{seconds:#.3g} s**"]
        lines.append([*cells, f"{row['peak_gib']:.2f} GiB", f"{floor:.2g} s"])
    return table(("views", "target", "model time", "peak memory", "floor"), lines)


STAGES = ("load", "predict", "fuse", "write", "wall", "beyond")
END_TO_END_TARGETS = {  # seconds of load, predict without the network, fuse, write, and beyond base and network
    "mini, 8": (0.3, 0.5, 0.1, 0.2, 1.5),
    "mini, 100": (0.3, 0.5, 0.3, 0.8, 2.5),
    "mini, 300": (0.3, 0.5, 1.0, 2.5, 5),
    "vggt-lite, 8": (1.0, 0.5, 0.1, 0.2, 3),
    "vggt-lite, 100": (1.0, 1.0, 0.3, 0.8, 4),
    "vggt-lite, 300": (1.0, 1.0, 1.0, 2.5, 6),
}


def end_to_end() -> str:
    """`lite3r reconstruct` in fresh processes: stages before, now, and their targets."""
    now = {row["name"]: row["median"] for row in load("h200-end-to-end")["rows"]}
    earlier = load("h100-end-to-end")["before"]
    lines = []
    for name, (*stages, beyond) in END_TO_END_TARGETS.items():
        model, views = name.split(", ")
        words = {"mini": "`mini`", "vggt-lite": "VGGT-1B `lite`"}[model]
        wanted = dict(zip(STAGES, (*stages, None, beyond)))
        before, seconds = earlier[name], dict(now[name])
        seconds["predict"] -= seconds["network"]
        if "network" in before:
            before = before | {"predict": before["predict"] - before["network"]}
        else:
            before = before | {"predict": None}
        lines.append([f"{words}, {views} views: before, H100", *(duration(before.get(stage)) for stage in STAGES)])
        reached = {stage: wanted[stage] is not None and seconds[stage] <= wanted[stage] for stage in STAGES}
        cells = [f"**{seconds[s]:.2f}**" if reached[s] else duration(seconds[s]) for s in STAGES]
        lines.append(["now, H200", *cells])
        lines.append(["target", *("–" if wanted[stage] is None else f"{wanted[stage]:g}" for stage in STAGES)])
    head = ("", "load", "predict without network", "fuse", "write", "wall", "beyond base and network")
    return table(head, lines)
