"""Batches of random scenes: worker processes sample scenes and cameras, the main process renders them on its device.

A batch depends on (seed, step, rank) only, not on the number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lite3r_cli.data.procedural.camera_placement import CameraConfig, sample_cameras
from lite3r_cli.data.procedural.ray_render import render
from lite3r_cli.data.procedural.sampling import SceneConfig, sample_scene
from lite3r_cli.data.procedural.scene import Scene, SceneBatch, pack_rows, unpack_scenes
from lite3r_cli.data.procedural.textures import Atlas

Bucket = tuple[int, int, int, int]  # batch, views, height, width
CAMERA = 21  # K (9), cam_from_world (12)


@dataclass(frozen=True)
class TrainingBatch:
    """B packed scenes with S cameras each, not yet rendered."""

    rows: torch.Tensor  # (B, row) float32: packed scene, then S * CAMERA numbers
    views: int
    height: int
    width: int
    step: int
    seed: int
    names: tuple[str, ...] = field(default=())

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The batch on `device`; asynchronous if its rows are pinned."""
        return replace(self, rows=self.rows.to(device, non_blocking=True))

    def pin_memory(self) -> TrainingBatch:
        return replace(self, rows=self.rows.pin_memory())

    @property
    def scenes(self) -> SceneBatch:
        """The scenes as views of `rows`."""
        return unpack_scenes(self.rows[:, : -self.views * CAMERA])

    @property
    def cameras(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K (B, S, 3, 3) and cam_from_world (B, S, 3, 4)."""
        block = self.rows[:, -self.views * CAMERA :].reshape(len(self.rows), self.views, CAMERA)
        return block[..., :9].unflatten(2, (3, 3)).contiguous(), block[..., 9:].unflatten(2, (3, 4)).contiguous()


def sample_posed(
    rng: np.random.Generator, scenes: SceneConfig, cameras: CameraConfig, views: int, height: int, width: int
) -> tuple[Scene, np.ndarray, np.ndarray]:
    """A scene with cameras K (S, 3, 3) and cam_from_world (S, 3, 4).

    A scene without an acceptable camera path is replaced by a new one.
    """
    while True:
        scene = sample_scene(rng, scenes)
        posed = sample_cameras(scene, rng, views, height, width, cameras)
        if posed is not None:
            return scene, *posed


def sample_batch(
    scenes: SceneConfig, cameras: CameraConfig, bucket: Bucket, seed: int, step: int, rank: int
) -> TrainingBatch:
    """The batch of one training step on one rank; `bucket` is (scenes, views, height, width)."""
    count, views, height, width = bucket
    posed = [
        sample_posed(np.random.default_rng([seed, step, rank, i]), scenes, cameras, views, height, width)
        for i in range(count)
    ]
    packed = pack_rows([p[0] for p in posed])
    poses = np.stack(
        [np.concatenate([K.reshape(views, 9), pose.reshape(views, 12)], 1).reshape(-1) for _, K, pose in posed]
    )
    rows = torch.from_numpy(np.concatenate([packed, poses.astype(np.float32)], 1))
    noise = int(np.random.default_rng([seed, step, rank]).integers(2**31))
    return TrainingBatch(rows, views, height, width, step, noise, tuple(p[0].name for p in posed))


def render_batch(
    batch: TrainingBatch, atlas: Atlas, *, samples: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (B, S, 3, H, W) in [0, 1], z-depth (B, S, H, W) in metres (0 = sky), K, cam_from_world, on the batch's
    device."""
    K, pose = batch.cameras
    images, depth = render(batch.scenes, atlas, K, pose, batch.height, batch.width, batch.seed, samples=samples)
    return images, depth, K, pose
