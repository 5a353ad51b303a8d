"""The loss curves of a run as a PNG, from its JSONL log."""

from __future__ import annotations

import json
from pathlib import Path

NOT_LOSSES = {"step", "seconds", "progress", "lr", "grad_norm"}


def plot_losses(log: Path, picture: Path) -> None:
    """Draw every loss of `log` over the minutes of training, logarithmic; nothing happens for an empty log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not records:
        return
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    minutes = [r["seconds"] / 60 for r in records]
    for name in sorted({k for r in records for k in r} - NOT_LOSSES):
        axes.plot(minutes, [r.get(name, float("nan")) for r in records], label=name, lw=2 if name == "total" else 1)
    axes.set(xlabel="minutes", ylabel="weighted loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
