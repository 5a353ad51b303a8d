"""`lite3r add`: new photos into a scene that is there."""

from __future__ import annotations

from .. import console
from ..config.adding import AddConfig
from ..errors import InputError
from .options import command


@command(AddConfig)
def add(config: AddConfig) -> None:
    """Add new photos to a scene: cameras and depth in its frame and scale, and all of its outputs anew.

    The old cameras stay as they are, to the bit (--adjust moves them, too). All files change together or none does.
    Photos that do not belong to the scene are named, the others are added all the same, and the exit code is 3.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes longer than many a stage
        from ..pipelines.add_photos import add as run
        from .locate import refusals

    done = run(config, progress, console.warn)
    if console.settings.json:
        console.document(done.document())
    elif done.written is not None:
        rows = [
            ("added", ", ".join(each.name for each in done.added[:5]) + (", …" if len(done.added) > 5 else "")),
            ("views", str(done.written.views)),
            ("points", f"{done.written.points:,}"),
            ("cloud", str(done.written.cloud)),
            ("folder", f"{done.written.folder}/"),
        ]
        console.table(("", ""), rows, numbers=False)
    if done.refused:
        raise InputError(refusals(done.refused, len(done.added), "added"))
