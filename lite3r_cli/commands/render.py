"""`lite3r render`: a flight through a scene."""

from __future__ import annotations

from .. import console
from ..config.rendering import RenderConfig
from .options import command


@command(RenderConfig, general=("json", "quiet", "verbose", "debug"))
def render(config: RenderConfig) -> None:
    """Render a video of a flight through a scene; frames, depth and masks on request.

    Areas that no photo saw stay black. docs/render.md describes the folder of frames.
    """
    from ..pipelines.render_scene import render_scene

    made = render_scene(config, console.progress(), console.warn)
    if console.settings.json:
        console.document(made.document())
        return
    if made.film is not None:
        console.text(str(made.film))
    if made.frames is not None:
        console.text(str(made.frames))
