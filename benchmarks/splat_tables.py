"""The table that `figures.py` makes of `splats.py`'s measurements."""

from __future__ import annotations

from statistics import fmean

from stored import load, table

SETS = ("facade", "fountain-P11", "herz-jesu-P8")
MEAN = {"steps": "1200", "degree_every": "400", "average": "0.99"}
SETTINGS = (  # name, key of the runs, start, variant beside MEAN; None: the runs have none
    ("**the command's settings**", "runs", "refined", None),
    ("the same from the points and cameras of pycolmap alone", "runs", "pycolmap", None),
    ("2,000 steps, no running mean, all Gaussians drawn", "without_mean", "refined", None),
    ("1,200 steps, running mean, all Gaussians drawn", "all_drawn", "refined", {}),
    ("the row above, no Gaussians added", "tries", "refined", {"grow": "false"}),
    ("all drawn, SSIM with a weight of 0.4", "tries", "refined", {"ssim_weight": "0.4"}),
    (
        "all drawn, opacity and scale regularised", "tries", "refined",
        {"opacity_weight": "0.01", "scale_weight": "0.01"},
    ),
)  # fmt: skip


def splats() -> str:
    """Quality of held-out photos by settings: PSNR in dB and SSIM, means over the seeds, by starts."""
    document, rows = load("splats-h200"), []
    for name, key, start, variant in SETTINGS:
        wanted = {} if variant is None else MEAN | variant
        runs = [run for run in document[key] if run["start"] == start and run.get("variant", {}) == wanted]
        each = [[run for run in runs if run["scene"] == scene] for scene in SETS]
        cells = [_quality(fmean(r["psnr"] for r in one), fmean(r["ssim"] for r in one)) if one else "–" for one in each]
        whole = "–"
        if all(each):
            means = [[fmean(run[key] for run in one) for one in each] for key in ("psnr", "ssim")]
            whole = _quality(*map(fmean, means))
        rows.append([name, str(max(map(len, each))), *cells, whole])
    return table(("settings", "seeds", *SETS, "mean"), rows)


def _quality(psnr: float, ssim: float) -> str:
    return f"{psnr:.2f} / {ssim:.3f}".replace(" 0.", " .")
