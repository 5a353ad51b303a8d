"""`lite3r synth`: make scenes with exact cameras and depth."""

from __future__ import annotations

from .. import console
from ..config.synthesis import SynthConfig
from ..io.texture_file import require_textures
from .options import command


@command(SynthConfig, general=("quiet", "verbose", "debug"))
def synth(config: SynthConfig) -> None:
    """Generate procedural scenes: photos with exact cameras and depth.

    Each scene folder has the format of the sample scenes.
    Example: lite3r synth -o scenes --scenes 4 --kind facade --seed 7
    """
    require_textures(config.textures)  # before torch is imported
    from ..pipelines.synthesise import run

    for folder in run(config, console.progress()):
        console.text(str(folder))
