"""Is a backbone what its authors published? Recomputes a fixture of their code's outputs and measures the difference.

A fixture is an .npz file: `config`, a JSON string (model, views, height, width, seed, subsample, sizes of unnamed
models), and arrays computed by the original code in float32 with the weights and images of `standin`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import attach, attention_modules
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.errors import InputError
from lite3r_cli.networks import standin
from lite3r_cli.networks.family import family_named

TOLERANCE = 1e-5
THREADS = 2  # as when the fixtures were made: the order of sums, and so the last bits, depend on it
INPUTS = "in_"  # how the names of entries that are inputs start
ANGLES = ("fov_xy",)  # of radians: a narrow one comes of larger numbers that cancel, and keeps their rounding


def relative_error(ours: Tensor, given: Tensor, least: float = 1e-30) -> float:
    """‖ours − given‖ / ‖given‖, the norm taken as `least` at least; infinite where shapes differ or a value is not
    finite.
    """
    if ours.shape != given.shape or not torch.isfinite(ours).all():
        return float("inf")
    return float((ours.double() - given.double()).norm() / given.double().norm().clamp(min=least))


def errors_of(path: Path) -> dict[str, float]:
    """The relative error of every output in a fixture, of angles below one radian the error in radians. Raises
    InputError for a file that is not one.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(str(arrays["config"]))
        with _threads(THREADS):
            family = family_named(config["model"])
            if family is None or family.recompute is None:
                raise KeyError(config["model"])
            outputs = family.recompute(config, arrays)
    except (OSError, BadZipFile, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a parity fixture of a known model ({type(error).__name__}: {error})") from error
    given = {
        name: torch.from_numpy(array)
        for name, array in arrays.items()
        if name != "config" and not name.startswith(INPUTS)
    }
    unknown = sorted(given.keys() - outputs.keys())
    if unknown:
        raise InputError(f"{path}: outputs that cannot be recomputed: {', '.join(unknown[:5])}")
    least = {name: array.numel() ** 0.5 if name in ANGLES else 1e-30 for name, array in given.items()}
    return {name: relative_error(outputs[name], array, least[name]) for name, array in given.items()}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attach_official(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Every attention of an official Lite3R network is sparse-linear."""
    if config.get("official_lite3r"):
        layers = tuple(attention_modules(model))
        attach(model, SparseConfig(layers, keep_ratio=config["keep_ratio"], official=True))


def ready(model: nn.Module, config: Mapping[str, Any], constants: Mapping[str, Tensor] | None = None) -> Tensor:
    """Give the network of a fixture its weights, in place, and return its input (1, S, 3, H, W).

    `constants` are tensors that have published values instead of stand-in ones.
    """
    _attach_official(model, config)
    standin.fill(model, config["seed"], constants or {})
    model.eval()
    return standin.image_batch(config["views"], config["height"], config["width"], config["seed"])
