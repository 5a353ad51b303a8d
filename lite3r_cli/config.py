"""What several commands share: which images, which network, on what. Checked when built, free of heavy imports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .errors import UsageError

POSES = ("tokens", "rays")
INTRINSICS = ("auto", "shared", "per-image")
PREPROCESSING = ("keep", "native")
DTYPES = ("auto", "float32", "bfloat16")
ATTENTION = ("auto", "dense", "sla")
ENGINES = ("auto", "fast", "ordinary")
FP8_BACKENDS = ("auto", "scaled-mm", "te", "emulate", "off")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise UsageError(message)


@dataclass(frozen=True)
class InputConfig:
    """Which images are read: folders, files and videos, in natural order."""

    inputs: tuple[Path, ...]
    masks: Path | None = None  # folder of black-and-white masks named as COLMAP names them, black = ignore
    max_views: int | None = None  # keep this many, spread evenly
    stride: int = 1  # keep every n-th
    max_pixels: int = 200_000_000  # skip larger images, judged by their header
    strict: bool = False  # fail at the first bad image instead of skipping it

    def __post_init__(self) -> None:
        _require(len(self.inputs) > 0, "no images given: name a folder, image files or a video")
        _require(self.max_views is None or self.max_views >= 1, f"--max-views must be at least 1, not {self.max_views}")
        _require(self.stride >= 1, f"--stride must be at least 1, not {self.stride}")
        _require(self.max_pixels >= 1, f"--max-pixels must be at least 1, not {self.max_pixels}")


@dataclass(frozen=True)
class LiteConfig:
    """Attention across views and arithmetic; by default what the checkpoint was made for."""

    attention: str = "auto"  # one of ATTENTION
    keep_ratio: float | None = None  # share of attention across views that is computed; None: the checkpoint's
    fp8_backend: str = "auto"  # one of FP8_BACKENDS

    default_keep_ratio: ClassVar[float] = 0.25  # of `sla` where the checkpoint has none

    def __post_init__(self) -> None:
        _require(
            self.attention in ATTENTION, f"--attention must be one of {', '.join(ATTENTION)}, not {self.attention!r}"
        )
        _require(
            self.fp8_backend in FP8_BACKENDS,
            f"--fp8-backend must be one of {', '.join(FP8_BACKENDS)}, not {self.fp8_backend!r}",
        )
        _require(
            self.keep_ratio is None or 0 < self.keep_ratio <= 1,
            f"--keep-ratio must lie above 0 and at most at 1, not {self.keep_ratio}",
        )
        _require(
            self.keep_ratio is None or self.attention != "dense",
            f"--keep-ratio {self.keep_ratio} goes with --attention sla: dense attention computes everything",
        )


@dataclass(frozen=True)
class PredictConfig:
    """Every option that changes what the network predicts for given images."""

    model: str = "mini"  # a name from `lite3r models` or a checkpoint file
    resolution: int | None = (
        None  # longest side of the network's input, pixels; None: what suits the network and the image
    )
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    dtype: str = "auto"  # one of DTYPES
    seed: int = 0
    preprocess: str = "keep"  # one of PREPROCESSING
    poses: str = "tokens"  # one of POSES
    reference_view: str = "saddle_balanced"  # a key of networks.da3.reference_view.STRATEGIES
    cameras: Path | None = None  # cameras.json of the images, where they are known
    refine: bool = False  # cameras by bundle adjustment, see refine/
    lite: LiteConfig = LiteConfig()
    intrinsics: str = "auto"  # one of INTRINSICS: the focal lengths that the refinement adjusts
    engine: str = "auto"  # one of ENGINES: fused kernels on a GPU, or layer by layer

    def __post_init__(self) -> None:
        _require(
            self.intrinsics in INTRINSICS,
            f"--intrinsics must be one of {', '.join(INTRINSICS)}, not {self.intrinsics!r}",
        )
        _require(self.engine in ENGINES, f"--engine must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        _require(self.poses in POSES, f"--poses must be one of {', '.join(POSES)}, not {self.poses!r}")
        _require(
            self.preprocess in PREPROCESSING,
            f"--preprocess must be one of {', '.join(PREPROCESSING)}, not {self.preprocess!r}",
        )
        _require(self.model != "", "--model is empty: run `lite3r models` for the names")
        _require(
            self.resolution is None or 28 <= self.resolution <= 4096,
            f"--resolution must lie between 28 and 4096 pixels, not {self.resolution}",
        )
        _require(
            _DEVICE.fullmatch(self.device) is not None,
            f"--device must be auto, cpu, cuda or cuda:N, not {self.device!r}",
        )
        _require(self.dtype in DTYPES, f"--dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        _require(0 <= self.seed < 2**32, f"--seed must lie between 0 and {2**32 - 1}, not {self.seed}")
