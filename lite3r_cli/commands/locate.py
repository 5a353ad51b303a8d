"""`lite3r locate`: where new photos were taken in a scene that is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import console
from ..config.locating import LocateConfig
from ..errors import InputError
from .options import command

if TYPE_CHECKING:
    from ..pipelines.scene_finder import Located


@command(LocateConfig)
def locate(config: LocateConfig) -> None:
    """Tell where new photos were taken in a scene: camera, focal length, and the nearest photographs.

    Nothing is written. Photos that do not belong to the scene are named, and the exit code is 3.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes longer than many a stage
        from ..pipelines.locate_photos import locate as run

    found = run(config, progress, console.warn)
    if console.settings.json:
        console.document(found.document())
    elif found.located:
        columns = ("photo", "x", "y", "z", "focal", "confidence", "spread °", "nearest")
        console.table(
            columns, [_row(each) for each in found.located], title=f"{found.frame.description}, {found.frame.units}"
        )
    if found.refused:
        said = "; ".join(f"{each.name} {each.reason}" for each in found.refused[:5])
        more = f"; and {len(found.refused) - 5} more" if len(found.refused) > 5 else ""
        total = len(found.refused) + len(found.located)
        raise InputError(f"{len(found.refused)} of {total} photos could not be located: {said}{more}")


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
