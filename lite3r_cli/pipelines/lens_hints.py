"""One warning about lens distortion without `--refine`, which treats every lens as a pinhole."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..config import PredictConfig
from ..io.images import ImageRecord
from ..io.video import even_indices
from ..networks.pictures import NetworkInput
from ..world.bent_lines import measure_bending
from .ahead import Edges
from .beforehand import metadata_of
from .standing import whole_picture

PICTURES = 10  # evenly spread pictures that are examined
_STRONG = -0.02  # coefficient (see world/bent_lines.py) beyond which the network cannot compensate the distortion
# Smallest evidence, also without the picture that says most, and number of edges: set on 26 sets of straight lenses, at
# 140 to 518 pixels and in parts of 4 to 10 images.
_EVIDENCE, _SHARED, _EDGES = 15.0, 10.0, 60
_FISHEYES = ("fisheye", "fish-eye", "fish eye")  # in the name of the lens


def lens_warnings(
    config: PredictConfig, records: Sequence[ImageRecord], inputs: Sequence[NetworkInput], edges: Edges
) -> list[str]:
    """At most one sentence; none with `--refine`, which estimates distortion, or with known cameras. `edges` finds
    those of the pictures.
    """
    if config.refine or config.cameras is not None:
        return []
    chosen = even_indices(len(records), PICTURES)
    named = [records[i].name for i in chosen if _says_fisheye(records[i])]
    if 2 * len(named) > len(chosen):
        return [_advice(f"EXIF says that {named[0]} was taken by a fisheye", " --camera-model opencv-fisheye")]
    edges.start([inputs[i] for i in chosen])
    greys = [cv2.cvtColor(np.ascontiguousarray(whole_picture(inputs[i])), cv2.COLOR_RGB2GRAY) for i in chosen]
    found = measure_bending(greys, [edges.of(inputs[i]) for i in chosen])
    weak = found.evidence < _EVIDENCE or found.shared < _SHARED or found.edges < _EDGES
    if weak or found.coefficient > _STRONG:
        return []
    share = abs(found.at_corner)
    return [_advice(f"straight edges are curved, by about {share:.0%} at the corners: the lens has distortion", "")]


def no_lens_warnings(
    config: PredictConfig, records: Sequence[ImageRecord], inputs: Sequence[NetworkInput], edges: Edges
) -> list[str]:
    """In place of `lens_warnings`, which takes a tenth of a second a pass."""
    return []


def _says_fisheye(record: ImageRecord) -> bool:
    lens = (metadata_of(record).lens or "").lower()
    return any(word in lens for word in _FISHEYES)


def _advice(what: str, more: str) -> str:
    return f"{what}; --refine{more} estimates the distortion and removes it"
