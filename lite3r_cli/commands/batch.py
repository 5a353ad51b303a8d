"""`lite3r batch`: many folders of photographs in, one scene each out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import console
from ..config import ReconstructConfig
from ..config.crew import CrewConfig
from ..config.option import INPUT, OUTPUT, Argument, Option
from ..errors import InputError
from .options import command
from .sentences import sentence

if TYPE_CHECKING:
    from ..batch.job import Outcome
    from ..batch.work import BatchReport

ROWS = 40  # scenes that the table shows; of more, those that failed
INSTEAD: dict[str, Option] = {
    "inputs": Argument(
        None, "A folder of scenes, several folders or videos, or a text file that lists them.", metavar="ROOT"
    ),
    "output": Option(OUTPUT, "The folder of all outputs: OUT/SCENE/ each, and batch.json.", ("--output", "-o"), "OUT"),
    "masks": Option(INPUT, "A folder with a folder of masks for each scene, DIR/SCENE.", metavar="DIR"),
    "strict": Option(INPUT, "Begin no other scene once one has failed; and fail a scene at its first bad image."),
    "overwrite": Option(OUTPUT, "Make scenes anew that are there already; files that lite3r has not written stay."),
}


OF_ONE_SCENE = ("cameras", "depth", "depth_scale", "chunk", "loops", "resume", "gpus")


@command(ReconstructConfig, CrewConfig, without=OF_ONE_SCENE, instead=INSTEAD, required=("output",))
def batch(config: ReconstructConfig, crew: CrewConfig) -> None:
    """Reconstruct many scenes by one process that loads the network once, or by several.

    [bold]lite3r batch ROOT -o OUT[/bold] makes a scene of every folder in ROOT.
    A folder with pictures is one scene; a folder without stands for what is in it.

    Scenes that are complete are left out: run again, it does what is missing.
    Several processes may work on one OUT at a time.
    A scene that fails is recorded in OUT/batch.json, and the rest goes on; the
    exit code is then 3.
    """
    from ..batch.work import run_batch

    report = run_batch(config, console.progress(), console.warn, crew)
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
