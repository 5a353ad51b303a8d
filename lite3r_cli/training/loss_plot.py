"""The loss curves of a run as a PNG, from its JSONL log."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lite3r_cli.extras import install_line, is_installed

NOT_LOSSES = {"step", "seconds", "progress", "lr", "grad_norm"}


def plot_losses(log: Path, picture: Path, tell: Callable[[str], None]) -> None:
    """Draw every loss of `log` over the minutes of training, logarithmic; nothing happens for an empty log. Without
    Matplotlib `tell` hears how to get it: a run does not fail at its end for a picture.
    """
    if not is_installed("matplotlib"):
        tell(f"{picture.name} is not drawn without Matplotlib: {install_line('matplotlib')}")
        return
    from matplotlib.figure import Figure  # without pyplot, which has a state of its own

    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if not records:
        return
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    minutes = [r["seconds"] / 60 for r in records]
    for name in sorted({k for r in records for k in r} - NOT_LOSSES):
        axes.plot(minutes, [r.get(name, float("nan")) for r in records], label=name, lw=2 if name == "total" else 1)
    axes.set(xlabel="minutes", ylabel="weighted loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(ncols=2, fontsize=8)
    figure.savefig(picture, dpi=120)
