"""How depth files are written: each with its own scale, or all with one; at the network's size or the pictures'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..config import ReconstructConfig
from ..io.depth_files import LARGEST
from ..io.formats import EXTRA_FORMATS
from ..scene.posed_view import View, known_depth

USUAL = (5000.0, 1000.0)  # TUM's scale and that of millimetres: the first one that holds the scene is taken
REACH = 99.9  # per cent of the depths that have to fit


@dataclass(frozen=True)
class DepthFiles:
    """What was asked of the depth files."""

    scale: float | None = None  # values in a scene unit, for all files; None: each has its own
    picture_size: bool = False
    one_scale: bool = False  # some program needs one scale: `settled` chooses it where none was asked for

    @staticmethod
    def of(config: ReconstructConfig) -> DepthFiles:
        """What the options and the formats ask for."""
        registered = any(EXTRA_FORMATS[name].registered_depth for name in config.formats)
        return DepthFiles(config.depth_unit, config.depth_at_picture_size or registered, registered)

    def settled(self, views: Sequence[View]) -> DepthFiles:
        """With the scale that holds these views, where one is needed and none was asked for."""
        if not self.one_scale or self.scale is not None:
            return self
        farthest = reach(views)
        usual = [scale for scale in USUAL if farthest * scale <= LARGEST]
        return replace(self, scale=usual[0] if usual else LARGEST / farthest)

    def sized(self, view: View) -> np.ndarray:
        """The view's depth (h, w) at the size that was asked for: the nearest pixel, since edges must not be mixed."""
        depth = known_depth(view)
        if not self.picture_size or depth.shape == (view.height, view.width):
            return depth
        return cv2.resize(depth, (view.width, view.height), interpolation=cv2.INTER_NEAREST_EXACT)


def reach(views: Sequence[View]) -> float:
    """The depth that nearly all depths are below; 1 where nothing is known."""
    known = [view.depth[view.depth > 0] for view in views if view.depth is not None]
    depths = np.concatenate(known) if known else np.zeros(0)
    return float(np.percentile(depths, REACH)) if len(depths) else 1.0


def depth_warnings(config: ReconstructConfig, views: Sequence[View], metric: bool) -> list[str]:
    """What to say of one scale for all files."""
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
