"""The Python library: photos or arrays in, a `Scene` out. The commands call the same functions.

    import lite3r_cli as lite3r

    scene = lite3r.reconstruct("photos/", model="mini")
    scene.save("scene.ply", formats=["colmap"])

    model = lite3r.Reconstructor("vggt-1b", attention="sla", keep_ratio=0.1)  # loads once
    scene = model(images)  # paths, or a list of (H, W, 3) arrays or (3, H, W) tensors

The library does not change global state: seeds, thread counts, log levels or environment variables. All errors derive
from `lite3r_cli.errors.Lite3RError`; their text is one line that says what is wrong and what to do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import console
from .config import InputConfig, PredictConfig, ReconstructConfig
from .config.keywords import from_keywords, option_names
from .config.option import from_home

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .attention.sparse_config import SparseConfig
    from .io.images import ImageSet
    from .pipelines.result import Scene

ARRAYS = Path("arrays")  # the input path in run.json for images from memory


class Reconstructor:
    """A network, loaded once on a device, for any number of image sets.

    Keyword arguments are the options of `lite3r reconstruct`, as fields of PredictConfig, LiteConfig and FusionConfig
    (lite3r_cli/config): `resolution`, `device`, `dtype`, `seed`, `attention`, `keep_ratio`, `refine`,
    `confidence_percentile`, `max_points` and so on. `progress` shows the stages on standard error.

    Calls from several threads run one after the other, because the network keeps state during a prediction.

    Raises UsageError (invalid value), WeightsError (checkpoint), BackendError (device or package), and TypeError for an
    unknown option or a value of another type.
    """

    def __init__(self, model: str | Path = PredictConfig.model, *, progress: bool = False, **options: Any) -> None:
        nothing = InputConfig((ARRAYS,))
        _refuse(options, option_names(InputConfig), "a call: model(images, {}=…)")
        self.config = from_keywords(ReconstructConfig, {**options, "model": _model_text(model)}, input=nothing)
        from .pipelines.in_chunks import refuse_in_memory
        from .pipelines.predict import Predictor

        refuse_in_memory(self.config.long)
        self._one_at_a_time = threading.Lock()
        self._progress = progress
        self._predictor = Predictor(self.config.predict, self._new_progress())

    @property
    def choices(self) -> dict[str, dict[str, Any]]:
        """Device, precision, attention, FP8 arithmetic and engine: what was requested, what was chosen, and why."""
        return self._predictor.choices()

    def __call__(
        self,
        images: str | Path | Sequence[Any],
        *,
        masks: str | Path | Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        **options: Any,
    ) -> Scene:
        """Reconstruct one scene.

        `images` is a folder, an image, a video, a list of such paths, or a list of images in memory: arrays (H, W, 3)
        or tensors (3, H, W), RGB, uint8 or floating point in [0, 1]; sizes may differ. Images in memory give the result
        of lossless files with the same pixels. They have no EXIF data; pass the focal length with `focal`. `masks` is a
        folder of mask files, or for images in memory a list of boolean (H, W) arrays, True = use the pixel. `names` are
        the file names of images in memory in `Scene.save`. `options` are fields of InputConfig: `max_views`, `stride`,
        `max_pixels`, `recursive`, `strict`.

        Raises UsageError, InputError (no usable image), MemoryLimitError.
        """
        from dataclasses import replace

        from .errors import UsageError
        from .pipelines.reconstruct_scene import find_images, make_scene

        _refuse(options, option_names(ReconstructConfig) - option_names(InputConfig), "Reconstructor(model, {}=…)")
        progress = self._new_progress()
        told: list[str] = []
        paths = _as_paths(images)
        given = {name: value for name, value in options.items() if value is not None}
        if paths is None:
            asked = from_keywords(InputConfig, given, inputs=(ARRAYS,))
            found = _in_memory(images, masks, names, asked)
        else:
            if not isinstance(masks, (str, os.PathLike, type(None))):
                raise UsageError("masks: with image files give a folder of mask files; arrays go with arrays")
            folder = None if masks is None else Path(from_home(os.fspath(masks)))
            asked = from_keywords(InputConfig, given, inputs=paths, masks=folder)
            found = find_images(asked, progress, told.append, self.config.predict.model)
        with self._one_at_a_time:
            return make_scene(replace(self.config, input=asked), self._predictor, found, progress, warnings=told)

    def _new_progress(self) -> console.Progress:
        return console.progress() if self._progress else console.Progress()


def reconstruct(
    images: str | Path | Sequence[Any],
    model: str | Path = PredictConfig.model,
    *,
    masks: str | Path | Sequence[Any] | None = None,
    names: Sequence[str] | None = None,
    max_views: int | None = None,
    stride: int = InputConfig.stride,
    strict: bool = InputConfig.strict,
    progress: bool = False,
    **options: Any,
) -> Scene:
    """Reconstruct one scene: `Reconstructor(model, **options)(images, …)` in one call.

    See Reconstructor for the options and for `images`. For several scenes make one Reconstructor, because loading the
    network takes long.
    """
    of_input = {name: options.pop(name) for name in option_names(InputConfig) & set(options)}
    model_ = Reconstructor(model, progress=progress, **options)
    return model_(images, masks=masks, names=names, max_views=max_views, stride=stride, strict=strict, **of_input)


def load_model(
    name: str | Path = PredictConfig.model, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> nn.Module:
    """Load a network as an nn.Module in evaluation mode.

    `name` is one of `lite3r models`, a checkpoint file or hf:OWNER/NAME. The method `predict(images)` takes a list of
    (3, H, W) float32 tensors in [0, 1] with sides that are multiples of `patch_size`, and returns depth, confidence,
    cam_from_world and K of all views (networks/base.py). `dtype` is the arithmetic of the trunk: torch.float32 (None)
    or torch.bfloat16. Raises WeightsError, BackendError.
    """
    from .networks import registry

    return registry.load(from_home(_model_text(name)), device=device, dtype=dtype)


def sparsify(module: nn.Module, keep_ratio: float = 0.25, **settings: Any) -> SparseConfig:
    """Give a network sparse-linear attention across views, in place, and return its settings.

    `keep_ratio` is the share of all pairs of blocks that is computed. The linear branch (arXiv 2605.11354) starts with
    zero weights; `lite3r distill` trains it. `settings` are fields of SparseConfig (attention/sparse_config.py);
    missing ones are those of the preset. Raises UsageError.
    """
    from .networks.sparsify import sparsify as run

    return run(module, keep_ratio, **settings)


def export(
    module: nn.Module,
    output: str | Path,
    *,
    weights: Literal["fp8", "bf16", "float32"] = "fp8",
    licence: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a network as a checkpoint that `load_model` and `--model` read, and return its files.

    `output` ends in .safetensors. Sparse-linear attention is stored too. `weights` is the precision of the matrices as
    in `lite3r convert`: FP8 E4M3 with one scale per row (matrices that conversion spares stay bf16), bf16, or float32
    unchanged. Raises OutputError, UsageError.
    """
    from .pipelines.export import export as run

    return run(module, Path(from_home(output)), weights, licence, overwrite)


def _model_text(model: Any) -> str:
    if not isinstance(model, (str, os.PathLike)):
        from .errors import UsageError

        kind = type(model).__name__
        raise UsageError(f"model: {kind}; give a name or a checkpoint file (lite3r.export writes one of a module)")
    return os.fspath(model)


def _refuse(options: dict[str, Any], others: set[str], place: str) -> None:
    """Raise TypeError if an option belongs to another `place`."""
    for name in options:
        if name in others:
            raise TypeError(f"{name} is an option of {place.format(name)}")


def _as_paths(images: Any) -> tuple[Path, ...] | None:
    """The given paths; None for images in memory."""
    if isinstance(images, (str, os.PathLike)):
        return (Path(from_home(images)),)
    if isinstance(images, Sequence) and images and all(isinstance(item, (str, os.PathLike)) for item in images):
        return tuple(Path(from_home(item)) for item in images)
    return None


def _in_memory(images: Any, masks: Any, names: Sequence[str] | None, asked: InputConfig) -> ImageSet:
    from .errors import UsageError
    from .io.arrays import from_arrays
    from .io.video import even_indices

    if isinstance(masks, (str, os.PathLike)):
        raise UsageError("masks: a folder of mask files goes with image files; give boolean arrays for arrays")
    if not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
        found = f"one array of shape {tuple(images.shape)}" if hasattr(images, "shape") else type(images).__name__
        raise UsageError(f"images: {found}; give a folder, a file, or a list of paths or of arrays, one for each image")
    pictures = list(images)
    kept = list(range(0, len(pictures), asked.stride))
    if asked.max_views is not None:
        kept = [kept[i] for i in even_indices(len(kept), asked.max_views)]
    return from_arrays(pictures, masks, names, kept)
