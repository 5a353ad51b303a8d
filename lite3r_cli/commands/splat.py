"""`lite3r splat`: Gaussian splats of a scene."""

from __future__ import annotations

from .. import console
from ..config.splatting import SplatConfig
from .options import command


@command(SplatConfig, general=("json", "quiet", "verbose", "debug"))
def splat(config: SplatConfig) -> None:
    """Train Gaussian splats on the photos of a scene, on a GPU.

    Training ends when held-out photos no longer improve. See docs/splats.md.
    """
    from ..pipelines.splat_scene import splat_scene

    made = splat_scene(config, console.progress(), console.warn)
    if console.settings.json:
        console.document({"splats": str(made.path), **made.facts})
        return
    if made.facts["psnr"] is not None:
        console.info(
            f"{made.facts['gaussians']} Gaussians; held-out photos: PSNR {made.facts['psnr']:.2f} dB, "
            f"SSIM {made.facts['ssim']:.3f} at step {made.facts['step']}"
        )
    console.text(str(made.path))
