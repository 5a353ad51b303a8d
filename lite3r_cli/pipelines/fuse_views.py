"""Fuses predicted views into a point cloud, coloured from the photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress, Tell
from ..errors import InputError
from ..io.images import ImageSet
from ..scene.frame import local_origin, move_cloud, move_views, translation
from ..scene.geometry import camera_centres
from ..scene.posed_view import PointCloud

if TYPE_CHECKING:
    import torch

    from ..scene.fusion import FusionStatistics
    from .predict import Predictions


def fuse_views(
    config: ReconstructConfig,
    images: ImageSet,
    predictions: Predictions,
    device: torch.device,
    progress: Progress,
    tell: Tell,
    check: Callable[[], None] | None,
) -> tuple[PointCloud, FusionStatistics]:
    """The cloud in the frame of the views. `check` is called after each view and may raise. Raises InputError for a
    cloud without points with `--strict`.
    """
    from ..scene.fusion import fuse_with_statistics

    indices = predictions.indices
    # fusion uses single precision: in a map frame it works relative to the centre of the cameras
    origin = local_origin(camera_centres(np.stack([view.cam_from_world for view in predictions.views])))

    def colors(j: int) -> np.ndarray:
        """At the size of the depth map if the file was already read for the network, else at full size."""
        small, view = predictions.colors[j] if predictions.colors else None, predictions.views[j]
        depth = view.depth if view.lens is None else None  # the network's image is not undistorted
        if small is not None and depth is not None and small.shape[:2] == depth.shape:
            return small
        return images.read(indices[j])

    with progress.stage("Fuse", total=len(indices)) as step:

        def after_view() -> None:
            step()
            if check is not None:
                check()

        cloud, statistics = fuse_with_statistics(
            move_views(predictions.views, translation(None if origin is None else -origin)),
            colors,
            lambda j: images.read_mask(indices[j]),
            config.fusion,
            config.predict.seed,
            after_view,
            device,
            predictions.held,
        )
    predictions.held.release()
    if origin is not None:
        cloud = move_cloud(cloud, translation(origin))
    if len(cloud) == 0:
        counts = statistics.to_dict()
        reasons = ("unknown", "masked", "low_confidence", "edge", "inconsistent", "free_space")
        reason = max(reasons, key=lambda name: counts[name] or 0)
        dropped = f"most pixels dropped: {reason.replace('_', ' ')}"
        text = f"no point is left ({dropped}); loosen --masks or the cloud's filters"
        if config.input.strict:
            raise InputError(text)
        tell(text)
    return cloud, statistics
