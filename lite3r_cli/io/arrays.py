"""Images in memory as an `ImageSet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from .codecs.header import Header
from .decode import Picture
from .images import ImageRecord, ImageSet
from .names import output_stems, unique_names


class ArraySet(ImageSet):
    """Images given as arrays. They are not copied, so later changes to an array change the set."""

    def __init__(
        self, pictures: Sequence[np.ndarray], names: Sequence[str], masks: Sequence[np.ndarray | None]
    ) -> None:
        names = unique_names(list(names))
        super().__init__(
            [
                # an image without its own file is marked as a frame, like those of a video
                ImageRecord(name, Path(name), picture.shape[1], picture.shape[0], stem=stem, frame=i)
                for i, (name, stem, picture) in enumerate(zip(names, output_stems(names), pictures, strict=True))
            ]
        )
        self._pictures, self._masks = list(pictures), list(masks)

    def read_picture(self, i: int, least: tuple[int, int] | None = None) -> Picture:
        """The image as given."""
        picture = self._pictures[i]
        return Picture(picture, None, Header("array", picture.shape[1], picture.shape[0]))

    def _drawn_mask(self, i: int) -> np.ndarray | None:
        return self._masks[i]


def from_arrays(
    pictures: Sequence[Any],
    masks: Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    kept: Sequence[int] | None = None,
) -> ArraySet:
    """An image set of arrays (H, W, 3) or tensors (3, H, W) in the given order; sizes may differ.

    Arrays and tensors are uint8, 0 to 255, or floating point, 0 to 1 (rounded to 8 bits, as an image file stores them).
    A grey image may lack its channel axis. `masks` are boolean (H, W), True = use the pixel, None = use all. `names`
    are the file names on which output names are based; default: image_000.png and so on. `kept` are the indices of the
    images to use, all if None. Raises UsageError for anything else.
    """
    if not len(pictures):
        raise UsageError("no images given: the list of arrays is empty")
    for what, values in (("masks", masks), ("names", names)):
        if values is not None and len(values) != len(pictures):
            raise UsageError(f"{len(values)} {what} for {len(pictures)} images: give one for each")
    names = numbered(len(pictures)) if names is None else names
    kept = range(len(pictures)) if kept is None else kept
    found = [to_rgb(pictures[i], i) for i in kept]
    used = [None if masks is None else to_mask(masks[i], i, rgb.shape[:2]) for i, rgb in zip(kept, found)]
    return ArraySet(found, [names[i] for i in kept], used)


def numbered(count: int) -> list[str]:
    """Default names for images: image_000.png and so on."""
    width = max(3, len(str(count - 1)))
    return [f"image_{i:0{width}d}.png" for i in range(count)]


def to_rgb(picture: Any, i: int) -> np.ndarray:
    """Picture number `i` as (H, W, 3) uint8. Raises UsageError."""
    if not hasattr(picture, "shape"):
        raise UsageError(
            f"image {i}: {type(picture).__name__}; a list of images holds arrays (H, W, 3) and tensors (3, H, W), "
            "or only paths"
        )
    is_tensor = type(picture).__module__.partition(".")[0] == "torch"
    array = picture.detach().cpu().numpy() if is_tensor else np.asarray(picture)
    if is_tensor and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    expected = "(3, H, W)" if is_tensor else "(H, W, 3)"
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        kind = "a tensor" if is_tensor else "an array"
        raise UsageError(f"image {i}: {kind} of shape {tuple(picture.shape)}; it has to be {expected}")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UsageError(f"image {i}: floating-point values have to lie between 0 and 1; uint8 goes up to 255")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UsageError(f"image {i}: {array.dtype} values; images are uint8, or floating-point between 0 and 1")
    return np.ascontiguousarray(array)


def to_mask(mask: Any, i: int, size: tuple[int, ...]) -> np.ndarray | None:
    """Mask number `i` as boolean (H, W), None = use every pixel. Raises UsageError."""
    if mask is None:
        return None
    array = np.asarray(mask)
    if array.shape != size or array.dtype != bool:
        found = f"{array.dtype} {array.shape}"
        raise UsageError(f"mask {i}: {found}; it has to be boolean {size}, True = use the pixel")
    return array
