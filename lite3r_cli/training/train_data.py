"""Batches for the training loop: worker processes draw scenes or photographs, the main process
renders on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.data.photos import PosedScene, load_scenes, sample_photos
from lite3r_cli.data.procedural.augment import augment
from lite3r_cli.data.procedural.scene_batches import (
    CameraConfig,
    SceneConfig,
    TrainingBatch,
    render_batch,
    sample_batch,
)
from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.data.steps import load_steps
from lite3r_cli.errors import InputError
from lite3r_cli.networks.mini.known import CameraHints
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.shape_schedule import Shape
from lite3r_cli.training.train_loop import Batch

# more variation of camera poses and lenses than in scenes for viewing
CAMERAS = CameraConfig(shuffled=0.45, rolled=0.2, roll_deviation=4.0, any_lens=0.5)
FOCAL_KNOWN, POSES_KNOWN = 0.3, 0.15  # shares of the scenes with known focal lengths, or poses
OUTSIDER = 0.12  # share of the batches in which one view of each scene is from another scene


@dataclass(frozen=True)
class PhotoBatch:
    """Photographs of one step, not yet on the device."""

    images: Tensor  # (B, S, H, W, 3) uint8
    depth: Tensor  # (B, S, H, W) float32, 0 = unknown
    K: Tensor  # (B, S, 3, 3)
    cam_from_world: Tensor  # (B, S, 3, 4)
    scattered: bool  # depth is known at scattered points only
    seed: int

    def pin_memory(self) -> PhotoBatch:
        """A copy in pinned memory; torch's DataLoader calls it."""
        images, depth, K, poses = (t.pin_memory() for t in (self.images, self.depth, self.K, self.cam_from_world))
        return PhotoBatch(images, depth, K, poses, self.scattered, self.seed)


@dataclass(frozen=True)
class StepDraw:
    """A function: step → scenes to render, or photographs. It depends only on (seed, step, rank)."""

    shapes: Callable[[int], Shape]
    scenes: SceneConfig
    photos: list[PosedScene]
    seed: int
    rank: int

    def __call__(self, step: int) -> TrainingBatch | PhotoBatch:
        shape = self.shapes(step)
        bucket = (shape.batch, shape.views, shape.height, shape.width)
        if not shape.photos:
            return sample_batch(self.scenes, CAMERAS, bucket, self.seed, step, self.rank)
        rng = np.random.default_rng([self.seed, step, self.rank, 2])
        arrays = sample_photos(self.photos, rng, *bucket)
        scattered = bool(arrays.pop("scattered"))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return PhotoBatch(**tensors, scattered=scattered, seed=int(rng.integers(2**31)))


class TrainingData:
    """The training data: textures on the device, photographs in memory. Yields batches."""

    def __init__(
        self,
        shapes: Callable[[int], Shape],
        device: torch.device,
        rank: int,
        workers: int,
        textures: Path | None,
        photos: Path | None,
        seed: int,
        strict: bool = False,
        tell: Callable[[str], None] = lambda text: None,
    ):
        """`tell` gets a message for each damaged photograph, which is left out; with `strict` it raises InputError."""
        self.device, self.rank, self.workers, self.seed, self.shapes = device, rank, workers, seed, shapes
        atlas = build_atlas(textures)
        self.scenes = SceneConfig(atlas.catalog)
        self.atlas = atlas.to(device)
        damaged: list[str] = []
        self.photos = load_scenes(photos, damaged) if photos is not None else []
        if damaged and strict:
            raise InputError(damaged[0])
        for text in damaged:
            tell(f"left out: {text}")

    def batches(self, first: int) -> Iterator[Batch]:
        """Batches from step `first` on, without end."""
        draw = StepDraw(self.shapes, self.scenes, self.photos, self.seed, self.rank)
        for drawn in load_steps(draw, first, self.workers, pin_memory=self.device.type == "cuda"):
            yield self._photographs(drawn) if isinstance(drawn, PhotoBatch) else self._rendered(drawn)

    def _rendered(self, drawn: TrainingBatch) -> Batch:
        images, depth, K, poses = render_batch(drawn.to(self.device), self.atlas)
        targets = Targets(depth, K, poses, self._references(len(K), K.shape[1], drawn.seed))
        if np.random.default_rng([drawn.seed, 2]).random() < OUTSIDER:
            images, targets = with_outsider(images, targets)
        return self._finish(images, targets, drawn.seed)

    def _photographs(self, drawn: PhotoBatch) -> Batch:
        move = lambda t: t.to(self.device, non_blocking=True)  # noqa: E731
        images = move(drawn.images).permute(0, 1, 4, 2, 3).float() / 255
        reference = self._references(drawn.K.shape[0], drawn.K.shape[1], drawn.seed)
        cameras = move(drawn.K), move(drawn.cam_from_world)
        targets = Targets(move(drawn.depth), *cameras, reference, sparse=True, scattered=drawn.scattered)
        return self._finish(images, targets, drawn.seed)

    def _finish(self, images: Tensor, targets: Targets, seed: int) -> Batch:
        generator = torch.Generator(self.device).manual_seed(seed)
        views = images.shape[1]
        decoded = np.random.default_rng([seed, 1]).permutation(views)[: (views + 1) // 2]
        return Batch(augment(images, generator), targets, self._put(decoded), tell_cameras(targets, generator))

    def _references(self, batch: int, views: int, seed: int) -> Tensor:
        """The index of a random reference view per scene, (B,)."""
        return self._put(np.random.default_rng(seed).integers(views, size=batch))

    def _put(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(indices).to(self.device, non_blocking=True)


def with_outsider(images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """Replace one view of each scene, never the reference, by a view of the next scene, with its camera and depth, and
    set `belongs`. No change if there are fewer than four views or two scenes.
    """
    batch, views = images.shape[:2]
    if views < 4 or batch < 2:
        return images, targets
    slot = (targets.reference + 1) % views  # (B,)
    other = slot[:, None] == torch.arange(views, device=slot.device)  # (B, S)

    def swap(x: Tensor) -> Tensor:
        return torch.where(other.view(*other.shape, *(1,) * (x.ndim - 2)), x.roll(1, 0), x)

    swapped = replace(
        targets,
        depth=swap(targets.depth),
        K=swap(targets.K),
        cam_from_world=swap(targets.cam_from_world),
        belongs=~other,
    )
    return swap(images), swapped


def tell_cameras(targets: Targets, generator: torch.Generator) -> CameraHints:
    """The known cameras that the network gets as input: focal lengths of some scenes, poses of fewer.

    Focal lengths have an error of 0.5 %, similar to those in image files.
    """
    height, width = targets.depth.shape[-2:]
    K, pose = targets.K, targets.cam_from_world
    batch, views = K.shape[:2]

    def draw(share: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=K.device) < share

    noise = 0.005 * torch.randn(batch, views, generator=generator, device=K.device)
    focal = (K[..., 0, 0] * K[..., 1, 1]).sqrt() / (0.5 * (height**2 + width**2) ** 0.5)
    R, t = pose[..., :3], pose[..., 3]
    every = torch.arange(batch, device=K.device)
    R_ref, t_ref = R[every, targets.reference], t[every, targets.reference]
    rotation = R_ref[:, None] @ R.transpose(-1, -2)
    centre = t_ref[:, None] - (rotation @ t[..., None]).squeeze(-1)
    tell_focal = draw(FOCAL_KNOWN, batch, 1)
    tell_pose = draw(POSES_KNOWN, batch, 1)
    if targets.belongs is not None:  # a view of another scene has no pose in this scene
        tell_pose = tell_pose & targets.belongs
    return CameraHints(
        torch.where(tell_focal, focal.log() + noise, torch.nan),
        torch.where(tell_pose[..., None, None], rotation, torch.nan),
        torch.where(tell_pose[..., None], centre, torch.nan),
    )
