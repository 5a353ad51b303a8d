"""Plot time and memory over the number of views, one line per variant."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import require
from ..io.names import printable
from ..io.transaction import replace_file

if TYPE_CHECKING:
    from .run import Row


def label_of(rows: Sequence[Row]) -> str:
    """The label of a variant's line: its name, and for `lite` up to how many views it ran dense attention."""
    name, dense = rows[0].variant, [row.views for row in rows if row.attention == "dense"]
    if name != "lite" or not dense:
        return name
    return f"{name} (dense attention)" if len(dense) == len(rows) else f"{name} (dense to {max(dense)} views)"


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Write the plot as a PNG. Raises OutputError, or BackendError if Matplotlib is not installed."""
    require("matplotlib", "--plot")
    from matplotlib.figure import Figure  # pyplot would change global state

    figure = Figure(figsize=(10, 4), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for name in dict.fromkeys(row.variant for row in rows):
        mine = [row for row in rows if row.variant == name]
        views = [row.views for row in mine]
        label = label_of(mine)
        (line,) = time.plot(views, [row.median_ms for row in mine], "o-", label=label)
        time.plot(views, [row.floor_ms for row in mine], ":", color=line.get_color(), label=f"{name}, floor")
        memory.plot(views, [row.peak_gib for row in mine], "o-", label=label)
    for axes, label in ((time, "milliseconds"), (memory, "GiB at the peak")):
        axes.set(xlabel="views", ylabel=label, xscale="log", yscale="log")
        axes.grid(True, which="both", alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(printable(title), parse_math=False)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font has no letter for a name: the plot shows a box
        figure.savefig(content, dpi=120, format="png")
    replace_file(path, content.getvalue())
