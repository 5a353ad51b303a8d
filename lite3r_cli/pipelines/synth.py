"""`lite3r synth`: procedural scenes rendered to folders in the format of the sample scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lite3r_cli import __version__
from lite3r_cli.console import Progress
from lite3r_cli.data.procedural.batch import render_batch, sample_batch
from lite3r_cli.data.procedural.cameras import CameraConfig
from lite3r_cli.data.procedural.sampling import SAMPLERS, SceneConfig
from lite3r_cli.data.procedural.textures import Atlas, build_atlas
from lite3r_cli.data.procedural.write import check_free, write_scene
from lite3r_cli.errors import UsageError
from lite3r_cli.runtime import choose


@dataclass(frozen=True)
class SynthConfig:
    """What to make; `kind` None draws kinds as in training. `samples` rays a pixel (supersampling)."""

    output: Path
    scenes: int = 1
    views: int = 8
    width: int = 640
    height: int = 480
    seed: int = 0
    kind: str | None = None
    field_of_view: float | None = None  # degrees along the longer side; None: what suits the kind
    textures: Path | None = None
    samples: int = 8
    quality: int = 95
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        bounds = {
            "scenes": (1, 10**6),
            "views": (1, 200),
            "width": (16, 8192),
            "height": (16, 8192),
            "samples": (1, 8),
            "quality": (1, 100),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"--{name} {getattr(self, name)}: has to lie between {low} and {high}")
        if self.field_of_view is not None and not 5 <= self.field_of_view <= 140:
            raise UsageError(f"--field-of-view {self.field_of_view}: has to lie between 5 and 140 degrees")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed}: has to be 0 or more")
        if self.kind is not None and self.kind not in SAMPLERS:
            raise UsageError(f"--kind {self.kind}: use one of {', '.join(SAMPLERS)}")

    def folder(self, index: int) -> Path:
        return self.output / f"scene-{index:03d}"


def run(config: SynthConfig, progress: Progress | None = None) -> list[Path]:
    """Make the scenes; returns their folders. Raises OutputError before anything is rendered if one of them is in
    the way."""
    progress = progress or Progress()
    for index in range(config.scenes):
        check_free(config.folder(index), config.overwrite)
    device = choose(config.device).torch_device
    with progress.stage("textures"):
        atlas = build_atlas(config.textures).to(device)
    with progress.stage("scenes", config.scenes) as step:
        for index in range(config.scenes):
            _make(config, index, atlas, device)
            step()
    return [config.folder(index) for index in range(config.scenes)]


def _make(config: SynthConfig, index: int, atlas: Atlas, device: torch.device) -> None:
    scenes = SceneConfig(atlas.catalog, **({"weights": {config.kind: 1.0}} if config.kind else {}))
    bucket = (1, config.views, config.height, config.width)
    lens = config.field_of_view
    cameras = CameraConfig(shuffled=0.0, **({"any_lens": 1.0, "lenses": (lens, lens)} if lens else {}))
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
    write_scene(config.folder(index), rgb, depth, K, poses, record, quality=config.quality)
