"""Batches for the loop: worker processes draw scenes or photographs for a step's shape, the main process renders on its
device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lite3r_cli.data.photos import PosedScene, load_scenes, sample_photos
from lite3r_cli.data.procedural.augment import augment
from lite3r_cli.data.procedural.batch import CameraConfig, SceneConfig, TrainingBatch, render_batch, sample_batch
from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.training.loop import Batch
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.schedule import ShapeSchedule

PREFETCH = 4  # batches a worker holds ready
CAMERAS = CameraConfig(
    shuffled=0.45, rolled=0.2, roll_deviation=4.0
)  # more disorder than in scenes that are made to be looked at


@dataclass(frozen=True)
class PhotoBatch:
    """Photographs of one step, not yet on the device."""

    images: Tensor  # (B, S, H, W, 3) uint8
    depth: Tensor  # (B, S, H, W) float32, sparse
    K: Tensor  # (B, S, 3, 3)
    cam_from_world: Tensor  # (B, S, 3, 4)
    seed: int

    def pin_memory(self) -> PhotoBatch:
        return PhotoBatch(*(t.pin_memory() for t in (self.images, self.depth, self.K, self.cam_from_world)), self.seed)


class StepDataset(IterableDataset):
    """Worker w of n yields every n-th step, so that the loader's order is the order of steps; a step's draw depends on
    (seed, step, rank).
    """

    def __init__(
        self, shapes: ShapeSchedule, scenes: SceneConfig, photos: list[PosedScene], seed: int, rank: int, first: int
    ):
        self.shapes, self.scenes, self.photos = shapes, scenes, photos
        self.seed, self.rank, self.first = seed, rank, first

    def __iter__(self) -> Iterator[TrainingBatch | PhotoBatch]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first + offset
        while True:
            yield self.draw(step)
            step += stride

    def draw(self, step: int) -> TrainingBatch | PhotoBatch:
        shape = self.shapes(step)
        bucket = (shape.batch, shape.views, shape.height, shape.width)
        if not shape.photos:
            return sample_batch(self.scenes, CAMERAS, bucket, self.seed, step, self.rank)
        rng = np.random.default_rng([self.seed, step, self.rank, 2])
        arrays = sample_photos(self.photos, rng, *bucket)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return PhotoBatch(**tensors, seed=int(rng.integers(2**31)))


class TrainingData:
    """Everything that is loaded once: textures on the device, photographs in memory."""

    def __init__(
        self,
        shapes: ShapeSchedule,
        device: torch.device,
        rank: int,
        workers: int,
        textures: Path | None,
        photos: Path | None,
        seed: int,
    ):
        self.device, self.rank, self.workers, self.seed, self.shapes = device, rank, workers, seed, shapes
        atlas = build_atlas(textures)
        self.scenes = SceneConfig(atlas.catalog)
        self.atlas = atlas.to(device)
        self.photos = load_scenes(photos) if photos is not None else []

    def batches(self, first: int) -> Iterator[Batch]:
        """Rendered batches from step `first` on, for ever."""
        dataset = StepDataset(self.shapes, self.scenes, self.photos, self.seed, self.rank, first)
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=PREFETCH if self.workers else None,
            worker_init_fn=lambda _: torch.set_num_threads(1),
        )
        for drawn in loader:
            yield self._photographs(drawn) if isinstance(drawn, PhotoBatch) else self._rendered(drawn)

    def _rendered(self, drawn: TrainingBatch) -> Batch:
        images, depth, K, poses = render_batch(drawn.to(self.device), self.atlas)
        return self._finish(
            images, Targets(depth, K, poses, self._references(len(K), K.shape[1], drawn.seed)), drawn.seed
        )

    def _photographs(self, drawn: PhotoBatch) -> Batch:
        move = lambda t: t.to(self.device, non_blocking=True)  # noqa: E731
        images = move(drawn.images).permute(0, 1, 4, 2, 3).float() / 255
        reference = self._references(*drawn.K.shape[:2], drawn.seed)
        targets = Targets(move(drawn.depth), move(drawn.K), move(drawn.cam_from_world), reference, sparse=True)
        return self._finish(images, targets, drawn.seed)

    def _finish(self, images: Tensor, targets: Targets, seed: int) -> Batch:
        generator = torch.Generator(self.device).manual_seed(seed)
        views = images.shape[1]
        decoded = np.random.default_rng([seed, 1]).permutation(views)[: (views + 1) // 2]
        return Batch(augment(images, generator), targets, self._put(decoded))

    def _references(self, batch: int, views: int, seed: int) -> Tensor:
        """Any view may be the reference."""
        return self._put(np.random.default_rng(seed).integers(views, size=batch))

    def _put(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(indices).to(self.device, non_blocking=True)
