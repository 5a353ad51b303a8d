"""Prepare the photographs and cameras of a scene for splat training: in a frame of size 1, resized, some held out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from ..scene.frame import move_views
from ..scene.geometry import Similarity, camera_centres, scale_intrinsics
from ..scene.posed_view import View
from .fit import Shot
from .shapes import Camera

FEWEST = 6  # photographs; with fewer, none is held out
EVERY = 4  # every 4th photograph is held out, from the third on, so that both neighbours are trained on


def held_out(count: int) -> list[int]:
    """Indices of the held-out photographs among `count` in order; never the first or the last."""
    return [i for i in range(2, count - 1) if i % EVERY == 2] if count >= FEWEST else []


def size_one(views: Sequence[View]) -> Similarity:
    """The similarity to a frame whose origin is the mean of the camera centres, with the farthest one at distance
    1 / 1.1.
    """
    centres = camera_centres(np.stack([view.cam_from_world for view in views]))
    middle = centres.mean(axis=0)
    extent = 1.1 * float(np.linalg.norm(centres - middle, axis=1).max())
    scale = 1 / extent if extent > 0 else 1.0
    return Similarity(scale, np.eye(3), -scale * middle)


def moved_columns(columns: np.ndarray, similarity: Similarity) -> np.ndarray:
    """Transform the columns (N, 17) of a splat file by a similarity without rotation."""
    moved = np.array(columns, np.float64)
    moved[:, :3] = similarity.apply(moved[:, :3])
    moved[:, 10:13] += np.log(similarity.scale)
    return moved


def inverse(similarity: Similarity) -> Similarity:
    """The inverse similarity."""
    scale, rotation = 1 / similarity.scale, similarity.rotation.T
    return Similarity(scale, rotation, -scale * rotation @ similarity.translation)


def shots_of(
    views: Sequence[View], pictures: Sequence[np.ndarray], frame: Similarity, longest: int, device: torch.device
) -> list[Shot]:
    """Shots of `views` in the frame `frame`, from `pictures` (H, W, 3) RGB; images are shrunk to at most `longest`
    pixels per side.
    """
    return [
        _shot(view, picture, longest, device) for view, picture in zip(move_views(views, frame), pictures, strict=True)
    ]


def _shot(view: View, picture: np.ndarray, longest: int, device: torch.device) -> Shot:
    factor = min(1.0, longest / max(view.width, view.height))
    width, height = max(1, round(view.width * factor)), max(1, round(view.height * factor))
    if (width, height) != (view.width, view.height):
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    K = scale_intrinsics(view.K, width / view.width, height / view.height)
    camera = Camera(_tensor(K, device), _tensor(view.cam_from_world, device), width, height)
    rgb = torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1).float() / 255
    depth = None
    if view.depth is not None:
        sized = cv2.resize(view.depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        depth = torch.from_numpy(sized).to(device).float()
    return Shot(view.name, rgb.contiguous(), camera, depth)


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32).to(device)
