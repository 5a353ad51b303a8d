"""`lite3r train`: train `mini` on procedural scenes and, with --photos, on posed photos."""

from __future__ import annotations

from ..config.training_run import TrainConfig
from ..io.texture_file import require_textures
from .options import command


@command(TrainConfig, general=("quiet", "verbose", "debug"))
def train(config: TrainConfig) -> None:
    """Train mini for a given time.

    Several GPUs: torchrun --nproc-per-node 4 -m lite3r_cli train -o runs/a --init encoder.safetensors --compile
    """
    require_textures(config.textures)  # before torch is imported
    from .. import console
    from ..pipelines.train_mini import run

    run(config, console.progress(), console.warn)
