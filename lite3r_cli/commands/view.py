"""`lite3r view`: a scene as one HTML page."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path

from .. import console
from ..config.viewing import ViewConfig
from .options import command


@command(ViewConfig, general=("json", "quiet", "debug"))
def view(config: ViewConfig) -> None:
    """Write one HTML page that shows a scene: points, cameras and photos.

    The page works offline in any browser.
    Click on a camera to look through it, with its photo over the points.
    """
    if config.serve:
        _serve(config)
        return
    from ..pipelines.view_scene import view_scene

    page = view_scene(config, console.warn)
    if console.settings.json:
        console.document({"page": str(page), "bytes": page.stat().st_size})
    else:
        console.info(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")
    if config.open:
        show(page)


def _serve(config: ViewConfig) -> None:
    """Serve the scene until a signal ends the program."""
    from ..pipelines.serve_scene import serve_scene

    def ready(server: object, address: str) -> None:
        console.text(address)
        console.flush()  # a program that reads it does not wait for the end
        console.info("Ctrl-C ends it")
        if config.open and not webbrowser.open(address):
            console.warn(f"no browser can be started here: open {address} yourself")

    server = serve_scene(config, ready, console.info)
    try:
        threading.Event().wait()
    finally:
        server.stop()


def show(page: Path) -> None:
    """Open a file in the user's browser, or print its path."""
    if not webbrowser.open(page.absolute().as_uri()):
        console.warn(f"no browser can be started here: open {page} yourself")
