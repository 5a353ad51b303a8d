"""Points with tracks for more views than fit in memory: piece by piece, each from its part of the cloud."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .lazy_views import LazyViews
from .posed_view import PointCloud
from .sparse_points import SparseModel
from .tracks import tracks_from_depth

PIECE = 24  # views; tracks do not cross pieces
_AROUND = 0.5  # pieces before and after in which the points of a piece are searched


def tracks_in_pieces(views: LazyViews, cloud: PointCloud, most: int) -> SparseModel | None:
    """At most about `most` points, see `tracks_from_depth`; None if no two views of a piece see the same point.

    The points of a cloud are ordered by view, with similar numbers. If they are not (`--voxel-size`), every piece
    searches points from everywhere and finds fewer.
    """
    parts, count = [], len(views)
    for first in range(0, count, PIECE):
        last = min(first + PIECE, count)
        if last - first < 2:
            continue
        low, high = max(0.0, first - _AROUND * PIECE) / count, min(count, last + _AROUND * PIECE) / count
        rows = slice(int(low * len(cloud)), int(high * len(cloud)))
        near = PointCloud(cloud.points[rows], cloud.colors[rows], cloud.confidence[rows])
        found = tracks_from_depth(views[first:last], near, max(1, most * (last - first) // count))
        if len(found):
            parts.append((first, found))
    return _together(parts) if parts else None


def _together(parts: Sequence[tuple[int, SparseModel]]) -> SparseModel:
    """One model; `first` is the number of a part's first view."""
    starts = np.cumsum([0, *(len(model) for _, model in parts)])
    columns = [[getattr(model, name) for _, model in parts] for name in ("points", "colors", "errors", "pixel")]
    points, colors, errors, pixel = (np.concatenate(column) for column in columns)
    image = np.concatenate([model.image + first for first, model in parts])
    point = np.concatenate([model.point + start for (_, model), start in zip(parts, starts)])
    known = [np.ones(len(m), np.float32) if m.confidence is None else m.confidence for _, m in parts]
    return SparseModel(points, colors, errors, image, point, pixel, np.concatenate(known))
