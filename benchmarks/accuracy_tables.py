"""The tables of accuracy, for `figures.py`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import paper_report
from stored import load, table

DEFAULT_PARTS = 4  # of `mini`: PRESETS in attention/sparse_config.py
PHOTOGRAPHS = {"fountain-P11": 11, "herz-jesu-P8": 8, "entry-P10": 10}
INDOORS = {"rgbd-office": "indoors, small motion", "rgbd-desk": "indoors, dark, little overlap"}
PROCEDURAL = [f"proc-{i:02d}" for i in range(8)]


def accuracy() -> str:
    """`mini`, four views at a time."""
    rows = load("mini-accuracy")["models"]["mini"]["rows"]

    def cells(name: str, scenes: Sequence[str]) -> list[str]:
        def mean(key: str) -> float | None:
            values = [rows[scene][key] for scene in scenes if rows[scene][key] is not None]
            return fmean(values) if values else None

        depth = mean("absrel")
        return [
            name,
            f"{mean('auc30'):.2f}",
            f"{mean('rotation_deg'):.1f}°",
            f"{mean('translation_deg'):.1f}°",
            f"{mean('focal_pct'):.0f} %",
            "–" if depth is None else f"{depth:.2f}",
        ]

    return table(
        ("scene", "AUC@30", "rotation", "translation", "focal length", "depth: AbsRel"),
        [
            *(cells(f"{scene} (photos)", [scene]) for scene in PHOTOGRAPHS),
            *(cells(f"{scene} ({what})", [scene]) for scene, what in INDOORS.items()),
            cells("eight foreign procedural scenes, mean", PROCEDURAL),
        ],
    )


def refine() -> str:
    """`--refine` and pycolmap alone."""
    scenes = load("refine-xeon-2cores")["scenes"]

    def cells(name: str, those: Sequence[str], kinds: bool) -> list[str]:
        def mean(way: str, key: str) -> float:
            return fmean(scenes[scene][way][key] for scene in those)

        return [
            name,
            *(f"{mean(way, 'auc5'):.2f}" for way in ("network", "refine", "pycolmap")),
            f"{mean('refine', 'seconds'):.0f} s" + (", dense" if kinds else ""),
            f"{mean('pycolmap', 'seconds'):.0f} s" + (", sparse" if kinds else ""),
        ]

    return table(
        ("", "AUC@5: network", "with `--refine`", "pycolmap alone", "time", "pycolmap's"),
        [
            *(cells(f"{name}, {n} photos", [name], i == 0) for i, (name, n) in enumerate(PHOTOGRAPHS.items())),
            cells("eight procedural scenes, mean", PROCEDURAL, False),
        ],
    )


def _against_dense(row: dict) -> list[str]:
    relative = "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*(100 * x for x in row["absrel"]))
    points = ["{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * x for x in row[key])) for key in ("auc30", "auc5")]
    cells = [relative, *points, f"{row['depth']:.4f}", f"{row['rotation_median']:.2f}°"]
    return [cell.replace("-", "−") for cell in cells]


_ACCURACY_HEAD = ("skipped", "AbsRel", "AUC@30, points", "AUC@5, points", "dense: AbsRel", "rotation, median")


def packed_accuracy(name: str) -> str:
    """Packed tokens on `mini` by the fast path, FP8: the schedule that the program uses."""
    lines = []
    results = load(name)["results"]
    for row in sorted(results, key=lambda row: (round(row["skipped"], 2), row["form"] and row["form"]["parts"])):
        form = row["form"]
        if form is None:
            lines.append(["dense", "0 %", *_against_dense(row)])
        else:
            parts = f"{form['parts']:g}"
            name = f"**{parts}, the default**" if form["parts"] == DEFAULT_PARTS else parts
            lines.append([name, f"{100 * row['skipped']:.1f} %", *_against_dense(row)])
    return table(("parted blocks for each kept one", *_ACCURACY_HEAD), lines)


def many_views() -> str:
    """`mini` with hundreds of views, by the fast path."""
    lines = []
    for views, document in load("many-views").items():
        for row in document["results"]:
            if (form := row["form"]) is not None:
                count = f"{views} ({len(document['windows'])} scenes)"
                parts = f"**{DEFAULT_PARTS}**" if form["parts"] == DEFAULT_PARTS else f"{form['parts']:g}"
                lines.append([count, parts, f"{100 * row['skipped']:.0f} %", *_against_dense(row)])
    return table(("views", "parted blocks", *_ACCURACY_HEAD), lines)


def adapters() -> str:
    """What training weights of `mini` did to the distance from its teacher."""
    lines = []
    for row in load("adapters")["results"]:
        if "course" in row:
            values = [f"{measured:.3f}" for step, measured in row["course"] if step != 148]
            cost = [f"{row['trained']:,}", f"{row['lr']:g}", f"{row['seconds']:.0f} s", f"{row['peak_gib']:.0f} GiB"]
            lines.append([row["name"], *cost, *values])
    return table(("trained", "numbers", "peak rate", "time", "memory", "step 0", "37", "74", "111", "150"), lines)


CARD = {
    "auc5": "AUC@5",
    "auc15": "AUC@15",
    "auc30": "AUC@30",
    "rotation_deg": "rotation °",
    "translation_deg": "translation °",
    "focal_pct": "focal %",
    "absrel": "AbsRel",
    "delta1": "δ<1.25",
}


def card_cell(value: float | None) -> str:
    """A figure of the model card."""
    return "–" if value is None else f"{value:.3f}" if value < 1.5 else f"{value:.1f}"


def card(model: str) -> str:
    """All scenes of the model card, for one file of weights."""
    rows = load("mini-accuracy")["models"][model]["rows"]
    return table(
        ("scene", *CARD.values()), [[name, *(card_cell(row[key]) for key in CARD)] for name, row in rows.items()]
    )


def mini_lenses() -> str:
    """`mini` through other lenses, beside the weights before."""
    models = load("mini-accuracy")["models"]
    lines = []
    for name in (name for name in models["mini"]["sets"] if name.endswith("°")):
        cells = [
            f"{models[who]['sets'][name]['mean'][key][0]:.{digits}f}{unit}"
            for key, digits, unit in (("focal_pct", 1, " %"), ("auc30", 2, ""), ("absrel", 3, ""))
            for who in ("mini", "before")
        ]
        lines.append([name, *cells])
    return table(("field of view", "focal length", "before", "AUC@30", "before", "AbsRel", "before"), lines)


_SET_MEASURES = (("auc5", 1, 100), ("auc30", 1, 100), ("focal_pct", 1, 1), ("absrel", 4, 1))  # digits, factor


def mini_sets() -> str:
    """All sets on which `mini` is compared with the weights before."""
    lines = []
    for name, found in load("mini-accuracy")["models"]["mini"]["sets"].items():
        mean = "{:.3f} [{:.3f}, {:.3f}]".format(*found["mean"]["auc30"])
        lines.append([name, str(found["scenes"]), mean, *_differences(found["difference"])])
    head = ("set", "scenes", "AUC@30", "AUC@5, points", "AUC@30, points", "focal length, %", "AbsRel")
    return table(head, lines)


def mini_views() -> str:
    """What `mini` gains or loses on the same pairs of views, when it is told or shown more."""
    return table(
        ("set", "compared with", "scenes", "AUC@5, points", "AUC@30, points", "focal length, %", "AbsRel"),
        [
            [name, found["compared_with"], str(found["scenes"]), *_differences(found["against"])]
            for name, found in load("mini-accuracy")["models"]["mini"]["sets"].items()
            if "against" in found
        ],
    )


def _differences(values: dict) -> list[str]:
    cells = []
    for key, digits, factor in _SET_MEASURES:
        scaled = None if values[key] is None else [factor * x for x in values[key]]
        cell = "–" if scaled is None else "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(*scaled, d=digits)
        cells.append(cell.replace("-", "−"))
    return cells


def mini_tried(part: str) -> str:
    """AUC@5 / AUC@30 in points, and AbsRel, of networks that were tried: differences from the shipped file of then."""
    models = load("mini-run12")[part]

    def cell(found: dict) -> str:
        points = " / ".join(f"{100 * found[key][0]:+.1f}" for key in ("auc5", "auc30"))
        depth = "" if found["absrel"] is None else f", {found['absrel'][0]:+.4f}"
        return (points + depth).replace("-", "−")

    sets = next(iter(models.values()))
    return table(("set", *models), [[name, *(cell(model[name]) for model in models.values())] for name in sets])


def camera_errors() -> str:
    """What limits `mini`'s cameras: each kind with all measures."""
    means = load("camera-errors")["mean"]
    keys = ("auc5", "auc30", "auc5_rotation", "auc5_direction")
    head = ("cameras", "AUC@5", "AUC@30", "AUC@5, rotations alone", "directions alone", "focal length, %")
    return table(
        head, [[kind, *(f"{row[k]:.3f}" for k in keys), f"{row['focal_pct']:.1f}"] for kind, row in means.items()]
    )


def picture_size() -> str:
    """Small photographs at their own size and enlarged."""
    rows = {(row["pictures"], row["inside"], row["scene"]): row for row in load("picture-size")["rows"]}
    lines = []
    for pixels in (336, 420):
        for inside, how in (("own size", "own size"), (518, "enlarged to 518")):
            mean, desk, office = (rows[pixels, inside, scene] for scene in ("mean", "rgbd-desk", "rgbd-office"))
            depth = [f"{row['absrel']:.3f}" for row in (desk, office)]
            lines.append([f"{pixels} px, {how}", f"{mean['auc30']:.3f}", f"{mean['focal_pct']:.1f}", *depth])
    return table(("", "AUC@30", "focal %", "AbsRel: rgbd-desk", "rgbd-office"), lines)


def sparse_loss() -> str:
    """What each setting of sparse attention costs `mini`, without training."""
    results = load("sparse-loss")["results"]
    rows = {(row["setting"], row["keep_ratio"]): row for row in results}
    lines = []
    for setting in dict.fromkeys(row["setting"] for row in results if row["keep_ratio"] < 1):
        cells = []
        for keep in (0.25, 0.1):
            row = rows[setting, keep]
            fewer = f" ({100 * row['skipped']:.0f} %)" if row["skipped"] < 0.98 * (1 - keep) else ""
            cells += [f"{row['depth']:.3f}{fewer}", f"{row['rotation_deg']:.2f}°", f"{row['shift']:.3f}"]
        default = setting.endswith("(the default)")
        name = f'**{setting.removesuffix(" (the default)")} ("the default" of these rows)**' if default else setting
        lines.append([name, *cells])
    return table(("setting", "75 % skipped: depth", "rotation", "shift", "90 %: depth", "rotation", "shift"), lines)


def paper() -> str:
    """The paper's comparison: what was measured here, beside what its authors published."""
    return paper_report.markdown(load("paper-tables-mini"))


def lenses() -> str:
    """Scenes seen through lenses with k1, with the lens to be found."""

    def cells(scene: str, k1: str, rows: dict) -> list[str]:
        ours, other = rows["refine"], rows["pycolmap"]
        found = "pinhole" if ours["model"] == "pinhole" else f"{ours['distortion'][0]:.3f}"

        def off(row: dict) -> str:
            return (
                "failed"
                if row["focal_error"] is None or row["focal_error"] > 1
                else f"{100 * row['focal_error']:.2f} %"
            )

        return [scene, k1, found, off(ours), f"{ours['auc5']:.3f}", f"{off(other)}, {other['auc5']:.3f}"]

    return table(
        ("scene", "k1", "k1 found", "focal length off by", "AUC@5", "pycolmap, told SIMPLE_RADIAL"),
        [cells(scene, k1, row) for scene, each in load("refine-lenses")["scenes"].items() for k1, row in each.items()],
    )


def located() -> str:
    """AUC of images that were left out of a scene and located in it, and of one reconstruction of all."""

    def foreign(row: dict) -> str:
        return "–" if row["foreign"] is None else f"{row['accepted']} of {row['foreign']}"

    lines = [
        [row["scene"], str(row["images"]), f"{row['auc5']:.3f}", f"{row['auc5_joint']:.3f}", f"{row['auc30']:.3f}",
         f"{row['auc30_joint']:.3f}", str(row["refused"]), foreign(row), f"{row['seconds']:.2f}"]
        for row in load("locate")["scenes"]
    ]  # fmt: skip
    head = ("set", "images", "AUC@5", "jointly", "AUC@30", "jointly", "refused", "foreign accepted", "s/photo")
    return table(head, lines)


def living() -> str:
    """A scene that grows, is searched, is merged and is filmed: goals and what was reached."""

    def shown(value: float | str) -> str:
        return value if isinstance(value, str) else f"{value:.3f}"

    holds = {True: "yes", False: "**no**", None: ""}
    return table(
        ("set", "what", "goal", "value", "holds"),
        [
            [row["set"], row["what"], row["goal"], shown(row["value"]), holds[row["holds"]]]
            for name in ("living-scene", "living-scene-walk")
            for row in load(name)["rows"]
        ],
    )


def _walk_cells(row: dict) -> list[str]:
    verdicts = row.get("found")
    loops = "–" if verdicts is None else str(verdicts.count("loop"))
    return [f"{row['ate_percent']:.2f} %", f"{row['auc5']:.2f}", f"{row['auc30']:.2f}", loops]


def long_walks() -> str:
    """Walks of rendered streets, in chunks, from images to files."""
    rows = []
    for name, device in (("long-walk-gpu", "H200"), ("long-walk-small", "CPU")):
        document = load(name)
        for row in document["rows"]:
            if row["row"] == "walk" and row["frames"] >= 200:
                height, width = row.get("size") or document["size"]
                street = f"{'1.25' if row['loops'] else '0.8'} rounds, seed {row.get('seed', document.get('seed'))}"
                what = [str(row["frames"]), street, f"{width} × {height}, {device}", str(row["chunk"])]
                host = f"{row['host_gib']:.1f} GiB"
                rows.append([*what, *_walk_cells(row), host, f"{row['disk_mb_per_frame']:.2f} MB"])
    head = ("frames", "street", "images", "chunk", "drift", "AUC@5", "AUC@30", "loops", "host memory", "disk/frame")
    return table(head, rows)


def loop_descriptors() -> str:
    """How often each form of descriptor finds the place that a walk returns to."""
    return table(
        ("descriptor", "place found", "right ones among the six"),
        [[row["form"], f"{row['found']:.0%}", f"{row['right']:.0%}"] for row in load("loop-descriptors")["rows"]],
    )


def long_parts() -> str:
    """The drift of the small walk of 1,000 frames without one part each."""
    parts = [row for row in load("long-walk-small")["rows"] if row["row"] == "part" and row["frames"] == 1000]
    return table(
        ("changed", "drift", "AUC@5", "AUC@30"),
        [[row["part"], f"{row['ate_percent']:.2f} %", f"{row['auc5']:.2f}", f"{row['auc30']:.2f}"] for row in parts],
    )
