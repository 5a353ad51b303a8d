"""Checks whether the cameras move enough for multi-view depth."""

from __future__ import annotations

from collections import Counter
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
    if twins := _twins(views, digests):
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


def _twins(views: Sequence[View], digests: Sequence[bytes]) -> list[tuple[str, str]]:
    """The names of views with equal pictures: the first one and each later one."""
    often = Counter(digests)
    first_of: dict[bytes, str] = {}
    some = [(d, v.name) for d, v in zip(digests, views) if often[d] > 1 and known_depth(v).any()]
    # a fully masked picture has no depth: equal to another for the network, but not an equal picture
    pairs = [(first_of.setdefault(digest, name), name) for digest, name in some]
    return [(first, name) for first, name in pairs if first != name]
