"""Plot the loss curves of a run from its JSONL log."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from lite3r_cli.extras import install_line, is_installed
from lite3r_cli.io.regular import BadImage, read_regular
from lite3r_cli.io.transaction import replace_file
from lite3r_cli.training.own_files import PLOT_MARK, may_draw

LARGEST = 1e300  # of a number in the log; a longer one is damage
NOT_LOSSES = {"step", "seconds", "progress", "lr", "grad_norm"}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < LARGEST  # false for NaN


def _records(log: Path) -> list[dict[str, float]]:
    """The records of the log. Incomplete lines, left by a full disk or a power cut, are skipped."""
    try:
        lines = read_regular(log).decode("utf-8", errors="replace").splitlines()
    except BadImage:  # missing, or a pipe
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_number(record.get("seconds")):
            records.append({k: v for k, v in record.items() if _is_number(v)})
    return records


def plot_losses(log: Path, picture: Path, tell: Callable[[str], None]) -> None:
    """Plot every loss in `log` over the minutes of training (log scale) as the PNG `picture`. Does nothing for an empty
    log. Without Matplotlib, `tell` gets the install command, so that a finished run does not fail because of a plot.
    """
    if not is_installed("matplotlib"):
        tell(f"{picture.name} is not drawn without Matplotlib: {install_line('matplotlib')}")
        return
    from matplotlib.figure import Figure  # pyplot would change global state

    records = _records(log)
    if not records:
        return
    if not may_draw(picture):
        tell(f"{picture}: is not from lite3r and stays as it is; move it for a plot of the losses")
        return
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    minutes = [r["seconds"] / 60 for r in records]
    for name in sorted({k for r in records for k in r} - NOT_LOSSES):
        axes.plot(minutes, [r.get(name, float("nan")) for r in records], label=name, lw=2 if name == "total" else 1)
    axes.set(xlabel="minutes", ylabel="weighted loss", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(ncols=2, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=120, format="png", metadata=PLOT_MARK)
    replace_file(picture, content.getvalue())
