"""`--refine` for the predictions of a set: the part that is begun beside the network, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from ..config import PredictConfig
from ..console import Progress
from ..layers.lone_threads import one_thread_less
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.frame import local_origin, move_views, translation
from ..world.given_cameras import back_into_given
from .beforehand import metadata_of
from .no_scene import scene_only, without_unseen

if TYPE_CHECKING:
    from ..io.images import ImageSet
    from ..refine.early import EarlyMatches
    from .predict import Predictions, Predictor

# Parameters of a network that does not miss a core of a CPU for as long as the images are matched.
_SMALL = 100_000_000
T = TypeVar("T")


def begun_early(
    predictor: Predictor, images: ImageSet, kept: Sequence[int], inputs: Sequence[NetworkInput]
) -> EarlyMatches | None:
    """Matches of the images `kept`, begun before the network runs; None without `--refine`, or where that would hold up
    a network on the CPU.
    """
    if not predictor.config.refine or len(kept) < 2 or predictor.team is not None:
        return None
    large = sum(values.numel() for values in predictor.backbone.parameters()) > _SMALL
    if predictor.runtime.torch_device.type == "cpu" and (large or torch.get_num_threads() < 2):
        return None
    from ..refine.early import EarlyMatches
    from ..refine.refine_config import RefineConfig

    records = [images.records[i] for i in kept]
    return EarlyMatches(
        [record.facing for record in records],
        lambda j: images.read(kept[j]),
        lambda j: scene_only(images.read_mask(kept[j]), inputs[j], (records[j].height, records[j].width)),
        RefineConfig(),  # the options that `refined` adds do not change features and matches
    )


def beside(early: EarlyMatches | None, run: Callable[[], T]) -> Callable[[], T]:
    """`run`, leaving a core to what was begun, which ends if `run` fails."""
    if early is None:
        return run

    def with_less() -> T:
        try:
            with one_thread_less():
                return run()
        except Exception:
            early.end()
            raise

    return with_less


def refined(
    config: PredictConfig, images: ImageSet, found: Predictions, progress: Progress, device: torch.device
) -> Predictions:
    """The predictions with refined cameras and depth, adjusted in a frame with small coordinates. Raises BackendError
    without pycolmap.
    """
    from ..refine.pipeline import refine  # imports much that other runs do not need
    from ..refine.refine_config import RefineConfig

    views, kept, inputs, priors = found.views, found.indices, found.inputs, found.priors
    origin = local_origin(geometry.camera_centres(np.stack([view.cam_from_world for view in views])))
    answer = refine(
        move_views(views, translation(None if origin is None else -origin)),
        lambda j: images.read(kept[j]),
        lambda j: scene_only(images.read_mask(kept[j]), inputs[j], (views[j].height, views[j].width)),
        RefineConfig(
            camera_model=config.camera_model,
            intrinsics=config.focal_sharing,
            seed=config.seed,
            fixed_focal=priors.fixed_focal,
            lens_keys=tuple(metadata_of(images.records[i]).lens_key for i in kept),
        ),
        progress,
        device,
        given=len(priors.known_poses) == len(views),
        positions=priors.positions,
        early=found.early,
    )
    shown = [without_unseen(view, item) for view, item in zip(answer.views, inputs, strict=True)]
    moved, sparse = back_into_given(shown, answer.sparse, priors, origin)
    return replace(
        found,
        views=moved,
        sparse=sparse,
        verdicts=answer.verdicts,
        account=answer.account,
        warnings=found.warnings + answer.warnings,
        early=None,
    )
