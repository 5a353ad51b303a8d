"""Options of input images, network, known cameras and device."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

from .option import ATTENTION as ATTENTION_PANEL
from .option import CAMERAS, DA3_ONLY, INPUT, NETWORK, Argument, Option, require

POSES = ("tokens", "rays")
INTRINSICS = ("auto", "shared", "per-image")
CAMERA_MODELS = ("auto", "pinhole", "simple-radial", "opencv", "opencv-fisheye")
PANORAMA = ("auto", "on", "off")
PREPROCESSING = ("keep", "native")
DTYPES = ("auto", "float32", "bfloat16")
ATTENTION = ("auto", "dense", "sla")
ENGINES = ("auto", "fast", "ordinary")
FP8_BACKENDS = ("auto", "scaled-mm", "te", "emulate", "off")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")

# Fields of several configurations
Model = Annotated[
    str, Option(NETWORK, "A name from `lite3r models`, or a checkpoint file.", ("--model", "-m"), metavar="MODEL")
]
Device = Annotated[
    str, Option(NETWORK, "auto, cpu, cuda or cuda:N. auto uses a GPU if there is one.", metavar="DEVICE")
]
Dtype = Annotated[
    str,
    Option(
        NETWORK,
        "Precision: auto, float32 or bfloat16. auto uses bfloat16 where the hardware supports it.",
        metavar="DTYPE",
    ),
]
Seed = Annotated[
    int, Option(NETWORK, "Random seed. Equal seed, device and number of threads give identical files.", metavar="N")
]


DEPTH_UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}  # name → values of a depth file per metre, or per scene unit


def parse_depth_unit(option: str, whole: str, text: str | None) -> float | None:
    """Values per `whole` ("a metre", "a scene unit") for `mm`, `cm`, `m` or a number. Raises UsageError."""
    if text is None:
        return None
    try:
        value = DEPTH_UNITS.get(text) or float(text)
    except ValueError:
        value = math.nan
    require(0 < value < math.inf, f"{option} takes m, cm, mm or the values in {whole} (5000), not {text!r}")
    return value


def require_one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UsageError unless `value` is one of `known`."""
    require(value in known, f"{option} must be one of {', '.join(known)}, not {value!r}")


def require_device(device: str) -> None:
    """Raise UsageError unless `device` is the name of a device."""
    require(_DEVICE.fullmatch(device) is not None, f"--device must be auto, cpu, cuda or cuda:N, not {device!r}")


@dataclass(frozen=True)
class InputConfig:
    """The input images: folders, files and videos, in natural order."""

    inputs: Annotated[
        tuple[Path, ...],
        Argument(
            None,
            "Folders of photos, image files, or videos. Files are sorted by name: img2 before img10.",
            metavar="IMAGES",
        ),
    ]
    masks: Annotated[
        Path | None,
        Option(
            INPUT,
            "Folder of masks with the names and proportions of the images (a.jpg.png or a.png). Black and "
            "transparent pixels are ignored.",
            metavar="DIR",
        ),
    ] = None
    max_views: Annotated[
        int | None,
        Option(
            INPUT,
            "Use at most N images, evenly spread. Limits time and memory.",
            metavar="N",
            shown="all",
        ),
    ] = None
    frames: Annotated[
        str,
        Option(
            INPUT,
            "Frames of a video. auto: key frames, chosen by motion and sharpness; N: this many key frames; even: "
            "60, evenly spread in time; all. Streaming networks: auto is up to 1,000, evenly spread.",
            metavar="HOW",
        ),
    ] = "auto"
    stride: Annotated[int, Option(INPUT, "Use every N-th image or video frame.", metavar="N")] = 1
    max_pixels: Annotated[
        int, Option(INPUT, "Skip images with more pixels than this without decoding them.", metavar="N")
    ] = 200_000_000
    strict: Annotated[
        bool,
        Option(
            INPUT,
            "Fail instead of warning at the first image that is unusable or unrelated, and on an empty cloud.",
        ),
    ] = False
    keep_unrelated: Annotated[bool, Option(INPUT, "Keep all images in one scene, even unrelated ones.")] = False
    recursive: Annotated[
        bool, Option(INPUT, "Also use images in sub-folders. Output names include the sub-folder.")
    ] = False
    panorama: Annotated[
        str,
        Option(
            INPUT,
            "Split equirectangular 360° images (2:1) into six views. auto: if GPano metadata or matching "
            "borders show that they are 360°; on: every 2:1 image; off: none.",
            metavar="WHEN",
        ),
    ] = "auto"  # one of PANORAMA

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "no images given: name a folder, image files or a video")
        require(self.max_views is None or self.max_views >= 1, f"--max-views must be at least 1, not {self.max_views}")
        number = self.frames.isascii() and self.frames.isdigit() and int(self.frames) >= 1
        require(
            self.frames in ("auto", "even", "all") or number,
            f"--frames takes auto, even, all or a number of frames, not {self.frames!r}",
        )
        require(self.stride >= 1, f"--stride must be at least 1, not {self.stride}")
        require(self.max_pixels >= 1, f"--max-pixels must be at least 1, not {self.max_pixels}")
        require_one_of("--panorama", self.panorama, PANORAMA)


@dataclass(frozen=True)
class LiteConfig:
    """Attention across views and arithmetic. Defaults: what the checkpoint was made for."""

    attention: Annotated[
        str,
        Option(
            ATTENTION_PANEL,
            "dense, or sla (sparse-linear attention). auto: what the checkpoint was made for.",
            metavar="KIND",
        ),
    ] = "auto"  # one of ATTENTION
    keep_ratio: Annotated[
        float | None,
        Option(
            ATTENTION_PANEL,
            "Share of the attention across views that sla computes exactly.",
            metavar="SHARE",
            shown="the checkpoint's, or 0.25",
        ),
    ] = None
    fp8_backend: Annotated[
        str,
        Option(
            ATTENTION_PANEL,
            "FP8 matrix products by scaled-mm, te, or emulate (any device, slow); or off. auto: FP8 if the "
            "checkpoint was trained for it and the GPU supports it.",
            metavar="BACKEND",
        ),
    ] = "auto"  # one of FP8_BACKENDS
    keep_views: Annotated[
        int | None,
        Option(
            ATTENTION_PANEL,
            "Limit the keys of each query to those of N views, on average over the layers. Matters for many views.",
            metavar="N",
            shown="the checkpoint's, or 40",
        ),
    ] = None

    default_keep_ratio: ClassVar[float] = 0.25  # of `sla` if the checkpoint has none

    def __post_init__(self) -> None:
        require_one_of("--attention", self.attention, ATTENTION)
        require_one_of("--fp8-backend", self.fp8_backend, FP8_BACKENDS)
        require(
            self.keep_ratio is None or 0 < self.keep_ratio <= 1,
            f"--keep-ratio must lie above 0 and at most at 1, not {self.keep_ratio}",
        )
        require(
            self.keep_views is None or self.keep_views >= 1, f"--keep-views must be at least 1, not {self.keep_views}"
        )
        for option, value in (("--keep-ratio", self.keep_ratio), ("--keep-views", self.keep_views)):
            require(
                value is None or self.attention != "dense",
                f"{option} {value} goes with --attention sla: dense attention computes everything",
            )


@dataclass(frozen=True)
class PredictConfig:
    """All options that change the prediction for given images."""

    model: Model = "mini"
    resolution: Annotated[
        int | None,
        Option(
            NETWORK,
            "Longest side of an image inside the network. Smaller is faster and less detailed.",
            ("--resolution", "-r"),
            metavar="PIXELS",
            shown="the model's: 518, or 504 for da3; mini does not enlarge",
        ),
    ] = None
    device: Device = "auto"
    dtype: Dtype = "auto"  # one of DTYPES
    seed: Seed = 0
    preprocess: Annotated[
        str,
        Option(
            NETWORK,
            "keep: the whole image in its aspect ratio; native: the crop that the authors of the network use.",
            metavar="HOW",
        ),
    ] = "keep"  # one of PREPROCESSING
    poses: Annotated[
        str,
        Option(
            DA3_ONLY, "Source of the cameras: the camera tokens, or rays (a fit to the predicted rays).", metavar="HOW"
        ),
    ] = "tokens"  # one of POSES
    reference_view: Annotated[
        str,
        Option(
            DA3_ONLY,
            "Choice of the reference view: saddle_balanced, saddle_sim_range, middle or first.",
            metavar="HOW",
        ),
    ] = "saddle_balanced"  # a key of networks.da3.reference_view.STRATEGIES
    cameras: Annotated[
        Path | None,
        Option(
            CAMERAS,
            "Known cameras of all or some images: cameras.json, transforms.json, a COLMAP folder, or a TUM "
            "trajectory with --intrinsics FILE. All outputs use their frame and scale. Images with lens "
            "distortion are undistorted.",
            metavar="PATH",
        ),
    ] = None
    depth: Annotated[
        Path | None,
        Option(
            CAMERAS,
            "Folder of measured depth maps named like the images (16-bit PNG or .npy), for pi3x and "
            "map-anything. The focal lengths must be known.",
            metavar="DIR",
        ),
    ] = None
    depth_scale: Annotated[
        float | None,
        Option(
            CAMERAS,
            "Unit of the --depth values: mm, cm, m, or the number of values per metre, e.g. 5000 for TUM.",
            metavar="UNIT",
            shown="mm in PNG, m in .npy",
            parse=partial(parse_depth_unit, "--depth-scale", "a metre"),
        ),
    ] = None
    refine: Annotated[
        bool,
        Option(
            NETWORK,
            "Refine cameras and depth by feature matching (pip install 'lite3r\\[colmap]'). Slower, far more accurate.",
        ),
    ] = False
    lite: LiteConfig = LiteConfig()
    intrinsics: Annotated[
        str,
        Option(
            CAMERAS,
            "A file with K (JSON, or nine numbers) for all images or by name. Or how --refine adjusts focal "
            "lengths: shared, per-image, or auto (shared if it fits as well).",
            metavar="HOW|FILE",
        ),
    ] = "auto"  # one of INTRINSICS, or a path
    camera_model: Annotated[
        str,
        Option(
            CAMERAS,
            "Camera model of --refine: pinhole, simple-radial, opencv or opencv-fisheye. auto: pinhole, unless "
            "the matches show lens distortion. Images with distortion are undistorted.",
            metavar="MODEL",
        ),
    ] = "auto"  # one of CAMERA_MODELS
    focal: Annotated[
        str,
        Option(
            CAMERAS,
            "Focal length. auto: from EXIF if plausible, else from the network; network; pixels of the original "
            "image (2905); millimetres of the lens (24mm); 35 mm equivalent (26mm-eq).",
            metavar="LENGTH",
        ),
    ] = "auto"
    fix_intrinsics: Annotated[
        bool, Option(CAMERAS, "With --refine: do not adjust focal lengths from --focal, --intrinsics or EXIF.")
    ] = False
    engine: Annotated[
        str,
        Option(
            ATTENTION_PANEL,
            "fast: fused GPU kernels (see lite3r models); ordinary: layer by layer; auto: fast with sla or FP8.",
            metavar="HOW",
        ),
    ] = "auto"  # one of ENGINES

    def __post_init__(self) -> None:
        require(self.intrinsics != "", f"--intrinsics is empty: give {', '.join(INTRINSICS)} or a file with K")
        require(self.focal != "", "--focal is empty: give auto, network, pixels (2905) or millimetres (24mm)")
        require(
            self.intrinsics_file is None or self.focal in ("auto", "network"),
            "--focal and --intrinsics FILE both state focal lengths: give one of them",
        )
        require(
            not self.fix_intrinsics or self.intrinsics_file is not None or self.focal != "network",
            "--fix-intrinsics needs focal lengths: give --focal or --intrinsics FILE",
        )
        require(self.depth_scale is None or self.depth is not None, "--depth-scale says what --depth holds: give both")
        require_one_of("--camera-model", self.camera_model, CAMERA_MODELS)
        require(
            self.refine or self.camera_model == "auto",
            f"--camera-model {self.camera_model} needs --refine: without it the network's pinholes stay",
        )
        require_one_of("--engine", self.engine, ENGINES)
        require_one_of("--poses", self.poses, POSES)
        require_one_of("--preprocess", self.preprocess, PREPROCESSING)
        require_one_of("--dtype", self.dtype, DTYPES)
        require_device(self.device)
        require(self.model != "", "--model is empty: run `lite3r models` for the names")
        require(
            self.resolution is None or 28 <= self.resolution <= 4096,
            f"--resolution must lie between 28 and 4096 pixels, not {self.resolution}",
        )
        require(0 <= self.seed < 2**32, f"--seed must lie between 0 and {2**32 - 1}, not {self.seed}")

    @property
    def intrinsics_file(self) -> Path | None:
        """The file that `intrinsics` names."""
        return None if self.intrinsics in INTRINSICS else Path(self.intrinsics)

    @property
    def focal_sharing(self) -> str:
        """How refinement adjusts focal lengths: one of INTRINSICS."""
        return self.intrinsics if self.intrinsics in INTRINSICS else "auto"
