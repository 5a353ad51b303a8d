"""`lite3r synth`: renders procedural scenes to folders in the format of the sample scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lite3r_cli import __version__
from lite3r_cli.config.synthesis import SynthConfig
from lite3r_cli.console import Progress
from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.sampling import SAMPLERS, SceneConfig
from lite3r_cli.data.procedural.scene_batches import render_batch, sample_batch
from lite3r_cli.data.procedural.scene_folder import require_free, write_scene
from lite3r_cli.data.procedural.textures import Atlas, build_atlas
from lite3r_cli.errors import UsageError
from lite3r_cli.runtime import choose


def run(config: SynthConfig, progress: Progress | None = None) -> list[Path]:
    """Make the scenes; returns their folders. Raises OutputError before rendering if one of them exists."""
    progress = progress or Progress()
    if config.kind is not None and config.kind not in SAMPLERS:
        raise UsageError(f"--kind {config.kind}: use one of {', '.join(SAMPLERS)}")
    for index in range(config.scenes):
        require_free(config.folder(index), config.overwrite)
    device = choose(config.device).torch_device
    with progress.stage("textures"):
        atlas = build_atlas(config.textures).to(device)
    with progress.stage("scenes", config.scenes) as step:
        for index in range(config.scenes):
            _make(config, index, atlas, device)
            step()
    return [config.folder(index) for index in range(config.scenes)]


def _make(config: SynthConfig, index: int, atlas: Atlas, device: torch.device) -> None:
    scenes = SceneConfig(atlas.catalog)
    if config.kind:
        scenes = replace(scenes, weights={config.kind: 1.0})
    bucket = (1, config.views, config.height, config.width)
    lens = config.field_of_view
    cameras = CameraConfig(shuffled=0.0)
    if lens:
        cameras = replace(cameras, any_lens=1.0, lenses=(lens, lens))
    batch = sample_batch(scenes, cameras, bucket, config.seed, index, 0)
    images, depth, K, poses = (
        t[0].cpu().numpy() for t in render_batch(batch.to(device), atlas, samples=config.samples)
    )
    rgb = np.round(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    record = {
        "made_by": f"lite3r synth {__version__}", "kind": batch.names[0], "seed": config.seed, "scene": index,
        "views": config.views,
        "samples": config.samples, "units": "metres", "photo_textures": config.textures is not None,
    }  # fmt: skip
    write_scene(config.folder(index), rgb, depth, K, poses, record, quality=config.quality, overwrite=config.overwrite)
