"""`lite3r merge`: two scenes that overlap become one."""

from __future__ import annotations

from .. import console
from ..config.adding import MergeConfig
from .options import command


@command(MergeConfig)
def merge_pair(config: MergeConfig) -> None:
    """Merge two overlapping scenes into a new one, in the frame and scale of the first.

    The two scenes do not change. If they do not overlap, the reason is printed and the exit code is 3.
    """
    progress = console.progress()
    with progress.stage("Start", minor=True):  # importing torch takes seconds
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
