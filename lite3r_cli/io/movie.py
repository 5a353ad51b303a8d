"""Writes .mp4 videos from frames."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..errors import OutputError
from .files import output_error

QUALITY = "18"  # H.264's constant rate factor: 18 is visually lossless
SUFFIXES = (".mp4", ".mov", ".mkv")


def write_movie(path: Path, frames: Iterable[np.ndarray], fps: float) -> int:
    """Write (H, W, 3) uint8 RGB frames of one even size as H.264, which browsers and players support. Returns their
    number.

    Raises OutputError.
    """
    count = 0
    try:
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            stream = None
            for rgb in frames:
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                    stream.height, stream.width = rgb.shape[:2]
                    stream.pix_fmt, stream.options = "yuv420p", {"crf": QUALITY, "preset": "veryfast"}
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
                count += 1
            if stream is not None:
                container.mux(stream.encode())
    except OSError as error:  # FFmpeg's system errors are Python's, too
        raise output_error(path, error) from error
    except (av.FFmpegError, ValueError) as error:
        raise OutputError(f"{path}: the film could not be written: {error}") from error
    return count
