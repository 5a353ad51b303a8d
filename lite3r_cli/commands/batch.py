"""`lite3r batch`: one scene per folder of photos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import console
from ..config import ReconstructConfig
from ..config.option import INPUT, OUTPUT, Argument, Option
from ..config.worker_pool import PoolConfig
from ..errors import InputError
from .options import command
from .sentences import sentence

if TYPE_CHECKING:
    from ..batch.job import Outcome
    from ..batch.work import BatchReport

ROWS = 40  # scenes that the table shows; of more, those that failed
INSTEAD: dict[str, Option] = {
    "inputs": Argument(
        None, "A folder of scenes, several folders or videos, or a text file with one path per line.", metavar="ROOT"
    ),
    "output": Option(
        OUTPUT, "Output folder; each scene goes to OUT/SCENE/, the report to OUT/batch.json.", ("--output", "-o"), "OUT"
    ),
    "masks": Option(INPUT, "Folder with the masks of each scene in DIR/SCENE.", metavar="DIR"),
    "strict": Option(INPUT, "Stop after the first scene that fails; a scene fails at its first unusable image."),
    "overwrite": Option(OUTPUT, "Make complete scenes again. Files that lite3r did not write are not touched."),
}


OF_ONE_SCENE = ("cameras", "depth", "depth_scale", "chunk", "loops", "resume", "gpus")


@command(ReconstructConfig, PoolConfig, without=OF_ONE_SCENE, instead=INSTEAD, required=("output",))
def batch(config: ReconstructConfig, pool: PoolConfig) -> None:
    """Reconstruct many scenes with one or several processes.

    [bold]lite3r batch ROOT -o OUT[/bold] makes one scene of every folder in ROOT that has images.
    Folders without images are searched for scenes.

    Complete scenes are skipped: run the same command again to continue.
    Several processes may work on one OUT at a time.
    A scene that fails is recorded in OUT/batch.json and does not stop the others; the exit code is then 3.
    """
    from ..batch.work import run_batch

    report = run_batch(config, console.progress(), console.warn, pool)
    if console.settings.json:
        console.document(report.document())
    else:
        _show(report)
    if report.failed:
        names = ", ".join(outcome.name for outcome in report.failed[:3])
        more = ", …" if len(report.failed) > 3 else ""
        few = f"{len(report.failed)} of {len(report.outcomes)} scenes failed"
        raise InputError(f"{few}: {names}{more}; {report.output / 'batch.json'} says why")


def _show(report: BatchReport) -> None:
    from ..batch.job import MEANINGS

    shown = report.outcomes if len(report.outcomes) <= ROWS else report.failed[:ROWS]
    if shown:
        console.table(("scene", "views", "points", "seconds", ""), [_row(outcome) for outcome in shown])
    counts = report.counts
    made, facts = counts.get("done", 0), report.facts
    rows = [(MEANINGS[status], str(counts[status])) for status in MEANINGS if status in counts]
    rows.append(("seconds", f"{facts['wall_seconds']:.1f}{_rate(made, facts)}"))
    rows += [(what.replace("_", " "), sentence(choice)) for what, choice in facts.get("runtime", {}).items()]
    console.table(("", ""), [*rows, ("report", str(report.output / "batch.json"))], numbers=False)


def _rate(made: int, facts: dict[str, float]) -> str:
    if not made:
        return ""
    start = facts["start_seconds"]
    return f", {start:.1f} until the network was there, then {made / (facts['wall_seconds'] - start):.2f} scenes/s"


def _row(outcome: Outcome) -> tuple[str, str, str, str, str]:
    from ..batch.job import MEANINGS

    return (
        outcome.name,
        "" if outcome.views is None else str(outcome.views),
        "" if outcome.points is None else f"{outcome.points:,}",
        "" if outcome.wall_seconds is None else f"{outcome.wall_seconds:.1f}",
        MEANINGS[outcome.status],
    )
