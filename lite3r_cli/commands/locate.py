"""`lite3r locate`: the cameras of new photos in an existing scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import console
from ..config.locating import LocateConfig
from ..errors import InputError
from .options import command

if TYPE_CHECKING:
    from ..pipelines.scene_finder import Located, Refused


@command(LocateConfig)
def locate(config: LocateConfig) -> None:
    """Find the cameras of new photos in a scene.

    Prints for each photo: camera position in the frame and unit of the scene, focal length in pixels,
    confidence from 0.5 to 1, spread in degrees, and the nearest photo. Nothing is written.
    Photos that do not belong to the scene are named, and the exit code is 3.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes seconds
        from ..pipelines.locate_photos import locate as run

    found = run(config, progress, console.warn)
    if console.settings.json:
        console.document(found.document())
    elif found.located:
        columns = ("photo", "x", "y", "z", "focal px", "confidence", "spread °", "nearest")
        console.table(
            columns, [_row(each) for each in found.located], title=f"{found.frame.description}, {found.frame.units}"
        )
    if found.refused:
        raise InputError(refusals(found.refused, len(found.located), "located"))


def refusals(refused: Sequence[Refused], others: int, done: str) -> str:
    """One line that names the refused photos; `others` photos were `done`, e.g. "located"."""
    said = "; ".join(f"{each.name} {each.reason}" for each in refused[:5])
    more = f"; and {len(refused) - 5} more" if len(refused) > 5 else ""
    return f"{len(refused)} of {len(refused) + others} photos could not be {done}: {said}{more}"


def _row(each: Located) -> tuple[str, ...]:
    facts = each.document()
    centre = (f"{value:.3f}" for value in facts["centre"])
    focal = f"{each.view.K[0, 0]:.0f}"
    return (
        each.name,
        *centre,
        focal,
        f"{facts['confidence']:.2f}",
        f"{each.placement.turn:.2f}",
        each.nearest[0][0].name,
    )
