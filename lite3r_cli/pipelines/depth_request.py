"""Format of the depth files: one scale per file or one for all; the network's size or the original size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..config import ReconstructConfig
from ..io.depth_files import LARGEST
from ..io.formats import EXTRA_FORMATS
from ..scene.posed_view import View, known_depth

USUAL = (5000.0, 1000.0)  # TUM's scale, and millimetres: the first one in which the scene fits
REACH = 99.9  # per cent of the depths that must fit


@dataclass(frozen=True)
class DepthFiles:
    """Requested format of the depth files."""

    scale: float | None = None  # values per scene unit, for all files; None: one scale per file
    picture_size: bool = False
    one_scale: bool = False  # a format needs one scale: `settled` chooses it if none was given

    @staticmethod
    def of(config: ReconstructConfig) -> DepthFiles:
        """The format that the options and output formats need."""
        registered = any(EXTRA_FORMATS[name].registered_depth for name in config.formats)
        return DepthFiles(config.depth_unit, config.depth_at_picture_size or registered, registered)

    def settled(self, views: Sequence[View]) -> DepthFiles:
        """With one scale for these views, if one is needed and none was given."""
        if not self.one_scale or self.scale is not None:
            return self
        farthest = reach(views)
        usual = [scale for scale in USUAL if farthest * scale <= LARGEST]
        return replace(self, scale=usual[0] if usual else LARGEST / farthest)

    def sized(self, view: View) -> np.ndarray:
        """The depth (h, w) of a view at the requested size, by nearest neighbour, because edges must not be mixed."""
        depth = known_depth(view)
        if not self.picture_size or depth.shape == (view.height, view.width):
            return depth
        return cv2.resize(depth, (view.width, view.height), interpolation=cv2.INTER_NEAREST_EXACT)


def reach(views: Sequence[View]) -> float:
    """The depth below which nearly all depths are; 1 if no depth is known."""
    known = [view.depth[view.depth > 0] for view in views if view.depth is not None]
    depths = np.concatenate(known) if known else np.zeros(0)
    return float(np.percentile(depths, REACH)) if len(depths) else 1.0


def depth_warnings(config: ReconstructConfig, views: Sequence[View], metric: bool) -> list[str]:
    """Warnings about one scale for all files."""
    if config.depth_unit is None:
        return []
    told = []
    if not metric and config.depth_unit in (1.0, 100.0, 1000.0):
        told.append(
            f"--depth-unit: the scene's scale is not known; {config.depth_unit:g} values are a scene unit, no metre"
        )
    most = LARGEST / config.depth_unit
    depths = [view.depth[view.depth > 0] for view in views if view.depth is not None]
    lost = sum(int((depth > most).sum()) for depth in depths) / max(sum(depth.size for depth in depths), 1)
    if lost > 0.001:
        told.append(
            f"--depth-unit: {100 * lost:.1f} % of the depth is beyond {most:.4g} scene units, the most that "
            "16 bits hold at this scale, and stored as unknown: take a smaller number"
        )
    return told
