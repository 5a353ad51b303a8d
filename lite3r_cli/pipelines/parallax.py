"""Checks whether the cameras move enough for multi-view depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View, known_depth

# Below this ratio of the widest baseline to the median depth, triangulation tells almost nothing about depth.
LOW_PARALLAX = 0.005


def parallax_warnings(views: Sequence[View], digests: Sequence[bytes], metric: bool = False) -> list[str]:
    """Warnings about views that add little; `digests` identify equal pictures, `metric`: depth is in metres."""
    if len(views) == 1:
        undefined = "there is no baseline" if metric else "scale and baseline are undefined"
        return [f"one image only ({views[0].name}): monocular depth; {undefined}"]
    warnings = []
    depths = [known_depth(v) for v in views]
    empty = [not depth.any() for depth in depths]  # fully masked: equal for the network, but not equal pictures
    first_of: dict[bytes, str] = {}
    twins = [(first_of.setdefault(d, v.name), v.name) for d, v, e in zip(digests, views, empty) if not e]
    twins = [(a, b) for a, b in twins if a != b]
    if twins:
        a, b = twins[0]
        more = f" (and {len(twins) - 1} more pairs)" if len(twins) > 1 else ""
        warnings.append(f"low parallax: {a} and {b} are the same image{more} and add nothing to each other")
    centres = geometry.camera_centres(np.stack([v.cam_from_world for v in views]))
    baseline = np.linalg.norm(centres - centres[0], axis=1).max()
    if baseline >= LOW_PARALLAX * max(float(depth.max(initial=0)) for depth in depths):
        return warnings  # the medians are slower, and not larger
    known = [np.median(depth[depth > 0]) for depth in depths if (depth > 0).any()]
    if known and baseline < LOW_PARALLAX * float(np.median(known)):
        ratio = 100 * baseline / float(np.median(known))
        warnings.append(
            f"low parallax: the cameras move by {ratio:.2f} % of the scene's depth only; depth rests on single images"
        )
    return warnings
