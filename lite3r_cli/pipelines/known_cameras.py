"""What only some networks can be told: their own options, and the cameras where all of them are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..config import PredictConfig
from ..errors import UsageError
from ..io.images import ImageRecord
from ..networks.base import Backbone, Configurable, KnownCameras
from ..networks.family import families, family_of
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.priors import CameraPriors

FLAGS = {"poses": "--poses", "reference_view": "--reference-view"}  # field → its option


def configure(backbone: Backbone, config: PredictConfig) -> None:
    """Set the options that only some networks know. Raises UsageError where this one does not know a given option."""
    family = family_of(backbone)
    known = () if family is None else family.options
    for name, flag in FLAGS.items():
        given = getattr(config, name) != getattr(PredictConfig, name)
        if not given or name in known:
            continue
        others = " and ".join(f.name for f in families().values() if name in f.options)
        raise UsageError(f"{flag} is for the {others} models; {backbone.name} has nothing like it")
    settings = {name: getattr(config, name) for name in known if name != "cameras"}
    if settings:
        assert isinstance(backbone, Configurable)  # every family with options has it
        backbone.configure(**settings)


def taken_by(backbone: Backbone) -> bool:
    """Whether a network can be told the cameras."""
    family = family_of(backbone)
    return family is not None and family.takes_cameras


def for_inputs(
    priors: CameraPriors, records: Sequence[ImageRecord], inputs: Sequence[NetworkInput]
) -> KnownCameras | None:
    """The cameras as the network saw the pictures, in the frame of the first one; None unless all are known."""
    focal = [prior for prior in priors.focal if prior is not None]
    if len(priors.known_poses) < len(priors.poses) or len(focal) < len(priors.focal):
        return None
    intrinsics = []
    for prior, record, item in zip(focal, records, inputs, strict=True):
        height, width = item.full
        K = prior.intrinsics(record.width, record.height)
        K = geometry.scale_intrinsics(K, width / record.width, height / record.height)
        K[:2, 2] -= item.corner[::-1]
        intrinsics.append(K)
    poses = geometry.rebase(priors.given_poses())
    return KnownCameras(torch.from_numpy(poses).float(), torch.from_numpy(np.stack(intrinsics)).float())
