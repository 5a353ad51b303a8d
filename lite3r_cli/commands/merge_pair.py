"""`lite3r merge`: two scenes that overlap become one."""

from __future__ import annotations

from .. import console
from ..config.adding import MergeConfig
from .options import command


@command(MergeConfig)
def merge_pair(config: MergeConfig) -> None:
    """Make one scene of two that overlap, in the frame and at the scale of the first.

    Neither of them changes. Where nothing ties them, that is said, and the exit code is 3.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes longer than many a stage
        from ..pipelines.merge_scenes import merge as run

    done = run(config, progress, console.warn)
    if console.settings.json:
        console.document(done.document())
        return
    rows = [
        ("views", str(done.written.views)),
        ("in both scenes", str(done.both)),
        ("points", f"{done.written.points:,}"),
        ("cloud", str(done.written.cloud)),
        ("folder", f"{done.written.folder}/"),
    ]
    console.table(("", ""), rows, numbers=False)
