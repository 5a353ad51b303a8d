"""Which rows of the token buffer belong to which view, for views of different sizes.

Views of one size share a bucket. The tokens of all buckets are consecutive in one buffer (T, C), so that matrix
products, norms and attention across views need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers.buckets import group_by_size


@dataclass(frozen=True)
class Shape:
    """The sizes of one set of images."""

    sizes: tuple[tuple[int, int], ...]  # (height, width) of every view, pixels

    @classmethod
    def equal(cls, views: int, height: int, width: int) -> Shape:
        """`views` images of one size in pixels."""
        return cls(((height, width),) * views)

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> Shape:
        """The sizes of images (3, H, W) each, or of one tensor (S, 3, H, W)."""
        return cls(tuple((image.shape[-2], image.shape[-1]) for image in images))

    @property
    def views(self) -> int:
        """The number of views."""
        return len(self.sizes)

    def stacks(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (3, H, W) each → one tensor (S_b, 3, H, W) per size, in order of first appearance."""
        if isinstance(images, Tensor):
            return [images]
        return [torch.stack([images[i] for i in group]) for group in group_by_size(images)]


@dataclass(frozen=True)
class Bucket:
    """Equally sized views and their rows of the buffer."""

    views: tuple[int, ...]  # indices of the views
    grid: tuple[int, int]  # patch rows and columns
    tokens: int  # of one view, special ones first
    start: int  # first row in the buffer

    @property
    def rows(self) -> slice:
        """The rows of the buffer."""
        return slice(self.start, self.start + len(self.views) * self.tokens)

    def frames(self, x: Tensor) -> Tensor:
        """The bucket's rows of x (T, C) as a tensor view (S_b, P, C)."""
        return x[self.rows].unflatten(0, (len(self.views), self.tokens))


@dataclass(frozen=True)
class Packing:
    """All buckets of a set of images."""

    buckets: tuple[Bucket, ...]
    specials: int  # special tokens of a view

    @classmethod
    def of(cls, shape: Shape, patch_size: int, specials: int) -> Packing:
        """The packing of images of these sizes, with `specials` special tokens per view."""
        members: dict[tuple[int, int], list[int]] = {}
        for i, size in enumerate(shape.sizes):
            members.setdefault(size, []).append(i)
        buckets, start = [], 0
        for (height, width), views in members.items():
            grid = height // patch_size, width // patch_size
            tokens = specials + grid[0] * grid[1]
            buckets.append(Bucket(tuple(views), grid, tokens, start))
            start += len(views) * tokens
        return cls(tuple(buckets), specials)

    @property
    def tokens(self) -> int:
        """The number of tokens of all views, T."""
        return self.buckets[-1].rows.stop

    @property
    def views(self) -> int:
        """The number of views, S."""
        return sum(len(bucket.views) for bucket in self.buckets)

    @cached_property
    def order(self) -> list[int]:
        """The views in the order of the packed sequence."""
        return [view for bucket in self.buckets for view in bucket.views]

    @cached_property
    def places(self) -> list[int]:
        """The position of each view in the packed sequence."""
        return sorted(range(self.views), key=self.order.__getitem__)

    @property
    def frames(self) -> tuple[Frames, ...]:
        """The frames for `attention.tiling` and `attention.packed`."""
        return tuple(Frames(len(b.views), b.tokens, self.specials, b.grid) for b in self.buckets)
