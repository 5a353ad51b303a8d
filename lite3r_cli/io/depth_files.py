"""Depth maps as 16-bit PNG (0 = unknown, value / scale = z-depth) or .npy, and pictures of depth and confidence."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from ..errors import InputError, OutputError
from .codecs import png
from .files import write_bytes
from .names import printable
from .probe import probe
from .quick_png import quick_png
from .regular import BadImage, guarded, read_regular

LARGEST = 65535  # largest value of a 16-bit PNG
MAX_PIXELS = 200_000_000  # of a depth map
# Settings for depth, measured by benchmarks/png_settings.py: it is smooth. Older OpenCV versions cannot set the filter;
# their default is as fast, with larger files.
_FAST = (
    [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    if hasattr(cv2, "IMWRITE_PNG_FILTER")
    else []
)
_SEEN = 3
FAR = 128.0  # larger depths, in medians, are stored as unknown, to keep the precision of the others


def depth_scale(depth: np.ndarray) -> float:
    """Units of a 16-bit file per scene unit for `depth` (h, w): its largest known depth becomes 65535.

    The largest depth is limited to `FAR` medians, so that the median has at least 512 steps. 1.0 if no depth is known.
    """
    return _scale_of(depth[_known(depth)])


def _scale_of(known: np.ndarray) -> float:
    if not known.size:
        return 1.0
    largest = float(known.max())
    if largest > FAR * float(known.min()):  # otherwise it is below `FAR` medians for any median
        largest = min(largest, FAR * float(np.median(known.astype(np.float64))))
    return LARGEST / largest


def write_depth_png(path: Path, depth: np.ndarray, scale: float | None = None, compression: int | None = None) -> float:
    """Write z-depth (h, w) as 16-bit PNG and return its scale: value / scale = depth, 0 = unknown.

    Depths that are not positive and finite, beyond `FAR` medians, or too large for a given `scale` are stored as
    unknown. The error is at most 0.5 / scale. `compression` is PNG's, 0 to 9 (None: fast). Raises OutputError.
    """
    known = _known(depth)
    scale = _scale_of(depth[known]) if scale is None else scale
    with np.errstate(invalid="ignore", over="ignore"):
        values = depth.astype(np.float64)
        values *= scale
        np.rint(values, out=values)
        known &= values <= LARGEST
    np.maximum(values, 1, out=values)
    values[~known] = 0
    flags = _FAST if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression]
    done, data = cv2.imencode(".png", values.astype(np.uint16), flags)
    if not done:
        raise OutputError(f"{path}: OpenCV cannot encode a PNG of {depth.shape[1]}x{depth.shape[0]} pixels")
    write_bytes(path, data.data)
    return scale


def read_depth_png(path: Path, scale: float) -> np.ndarray:
    """Read a 16-bit PNG as (h, w) float32 z-depth, 0 = unknown. Raises InputError."""
    try:
        values = read_grey_png(path, 16, MAX_PIXELS)
    except BadImage as error:
        raise InputError(f"{printable(path)}: depth map cannot be read as a 16-bit grey PNG: {error}") from error
    return (values / np.float64(scale)).astype(np.float32)


def read_grey_png(path: Path, bits: int, most: int) -> np.ndarray:
    """(h, w) uint8 or uint16 of a grey PNG with this bit depth and at most `most` pixels. Raises BadImage.

    The header is checked before decoding: a file of a kilobyte can claim gigabytes.
    """
    data = read_regular(Path(path))
    header = probe(io.BytesIO(data))
    if header.format != "png" or (header.detail.depth, header.detail.colour) != (bits, png.GREY):
        raise BadImage("it is another kind of image")
    if header.width * header.height > most:
        raise BadImage(f"{header.width}x{header.height} pixels are more than a depth map has")
    with guarded("damaged: the PNG pixels cannot be decoded"):
        return png.decode(data, header)


def write_depth_npy(path: Path, depth: np.ndarray) -> None:
    """Write z-depth (h, w) exactly, as float32 .npy; unknown is 0. Raises OutputError."""
    stream = io.BytesIO()
    np.save(stream, np.where(_known(depth), depth, 0).astype(np.float32), allow_pickle=False)
    write_bytes(path, stream.getbuffer())


def write_depth_preview(path: Path, depth: np.ndarray) -> None:
    """Write a turbo-coloured PNG of inverse depth, near = red, between its 2nd and 98th percentile; unknown is black.

    Raises OutputError.
    """
    known = _known(depth)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        inverse = np.float32(1) / depth.astype(np.float32, copy=False)  # black where it is not known
    write_bytes(path, quick_png(*_coloured(inverse, known, cv2.COLORMAP_TURBO)))


def write_confidence(path: Path, confidence: np.ndarray) -> None:
    """Write a viridis-coloured PNG of confidence, between its 2nd and 98th percentile; 0 (no depth) is black.

    Raises OutputError.
    """
    write_bytes(path, quick_png(*_coloured(confidence, _known(confidence), cv2.COLORMAP_VIRIDIS)))


def _known(values: np.ndarray) -> np.ndarray:
    """(h, w) bool: positive and finite."""
    return np.isfinite(values) & (values > 0)


def _coloured(values: np.ndarray, known: np.ndarray, colormap: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (h, w) as steps (h, w) uint8 of a table of colours (256, 3) uint8 RGB: 0 is black, where not known. The
    range is that of every `_SEEN`-th row and column: the ends of all pixels take longer than the picture.
    """
    some = values[::_SEEN, ::_SEEN][known[::_SEEN, ::_SEEN]]
    some = some if some.size else values[known]
    low, high = map(float, np.percentile(some, [2, 98])) if some.size else (0.0, 1.0)
    if high > low:
        step = 254 / (high - low)
        within = np.clip(values, low, high).astype(np.float32, copy=False)
        grey = cv2.convertScaleAbs(within, alpha=step, beta=1 - step * low)
    else:
        grey = np.full(values.shape, 128, np.uint8)
    levels = np.rint(np.linspace(0, 255, 255)).astype(np.uint8)
    table = cv2.cvtColor(cv2.applyColorMap(levels[:, None], colormap), cv2.COLOR_BGR2RGB)[:, 0]
    grey *= known
    return grey, np.concatenate([np.zeros((1, 3), np.uint8), table])
