"""`lite3r view`: writes a scene as one HTML page."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..config.viewing import ViewConfig
from ..console import Tell
from ..errors import OutputError
from ..io.html_page import page
from ..io.locks import in_the_way
from ..io.names import printable
from ..io.regular import BadImage, open_regular
from ..io.scene_export import SceneExport
from ..io.transaction import recover, replace_file
from .written_scene import WrittenScene

MARK = b'<meta name="generator" content="lite3r">'


def view_scene(config: ViewConfig, warn: Tell = lambda text: None) -> Path:
    """Write the page of a scene and return its path.

    Raises InputError without such a scene, OutputError if a foreign file is in the way.
    """
    scene = WrittenScene.at(config.scene)
    layout = scene.layout
    target = config.output or layout.root / f"{Path(layout.cloud).stem}.html"
    if os.path.isdir(target):  # false, not an error, in a folder that may not be looked into
        target = target / f"{Path(layout.cloud).stem}.html"
    scene.require_not_in(target)
    recover(target.parent, target.name, lambda name: name == target.name)
    _require_ours(target, config.overwrite)
    views, pictures = scene.views(), scene.photographs()
    lost = [view.name for view in views if not pictures.has(view)]
    scene.tell_fault(warn)
    if lost and scene.fault is None:
        why = pictures.why_missing(lost)
        warn(f"{len(lost)} of {len(views)} cameras are shown without their photo ({printable(lost[0])}): {why}")
    sizes = {view.name: view for view in views}
    export = SceneExport(
        scene.folder,
        views,
        scene.cloud(warn),
        frame=scene.frame,
        up=scene.up,
        title=layout.title,
        read_picture=lambda name: pictures.read(sizes[name]),
    )
    replace_file(target, page(export))
    return target


def _require_ours(target: Path, overwrite: bool) -> None:
    """A page of lite3r may be replaced; another file only on request; a link, a pipe or a device never."""
    if not os.path.lexists(target):
        return
    if not stat.S_ISREG(target.lstat().st_mode):
        raise in_the_way(target)
    if overwrite:
        return
    try:
        with open_regular(target) as stream:
            ours = MARK in stream.read(1000)
    except (BadImage, OSError):
        ours = False
    if not ours:
        raise OutputError(f"{target}: exists and is no page of lite3r's; --overwrite replaces it, -o names another")
