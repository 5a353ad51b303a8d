"""`lite3r add`: new photos into an existing scene."""

from __future__ import annotations

from .. import console
from ..config.adding import AddConfig
from ..errors import InputError
from .options import command


@command(AddConfig)
def add(config: AddConfig) -> None:
    """Add new photos to a scene and rewrite all of its outputs.

    New cameras and depth have the frame and scale of the scene. Old cameras do not change, except with --adjust.
    All files change together or none does.
    Photos that do not belong to the scene are named and left out, and the exit code is 3.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes seconds
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
