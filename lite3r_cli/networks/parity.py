"""Check that a network computes the same as its authors' code: recompute a fixture and measure the differences.

A fixture is an .npz file: `config`, a JSON string (model, views, height, width, seed, subsample, sizes of unnamed
models), and arrays that the original code computed in float32 with the weights and images of `standin.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
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
from lite3r_cli.networks.sparsify import sparsify

TOLERANCE = 1e-5
FORMS: dict[str, Mapping[str, Any] | None] = {  # settings of sparse attention, with which every key is kept
    "dense": None,
    "packed tokens": {"packed": True},
    "blocks": {"tiles": True},
}
_form: ContextVar[Mapping[str, Any] | None] = ContextVar("form", default=None)
THREADS = 2  # as when the fixtures were made: the order of sums, and thus the rounding, depends on it
INPUTS = "in_"  # prefix of the entries that are inputs
ANGLES = ("fov_xy",)  # angles in radians; a small one is the difference of larger numbers and has their rounding error


def relative_error(ours: Tensor, given: Tensor, least: float = 1e-30) -> float:
    """‖ours − given‖ / max(‖given‖, `least`); infinite if the shapes differ or a value is not finite."""
    if ours.shape != given.shape or not torch.isfinite(ours).all():
        return float("inf")
    return float((ours.double() - given.double()).norm() / given.double().norm().clamp(min=least))


def errors_of(path: Path, form: str = "dense") -> dict[str, float]:
    """Output name → relative error, for every output in a fixture; for angles below one radian, the error in radians.
    `form` is one of FORMS. Raises InputError if the file is not a fixture of a known model.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        config = json.loads(str(arrays["config"]))
        with _threads(THREADS), _in_form(FORMS[form]):
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
def _in_form(settings: Mapping[str, Any] | None) -> Iterator[None]:
    token = _form.set(settings)
    try:
        yield
    finally:
        _form.reset(token)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attach_official(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Make every attention sparse-linear, as in official Lite3R networks, if the fixture is of one."""
    if config.get("official_lite3r"):
        layers = tuple(attention_modules(model))
        attach(model, SparseConfig(layers, keep_ratio=config["keep_ratio"], official=True))


def ready(model: nn.Module, config: Mapping[str, Any], constants: Mapping[str, Tensor] | None = None) -> Tensor:
    """Fill the network of a fixture with stand-in weights, in place, and return its input images (1, S, 3, H, W).

    `constants` are tensors that keep their published values instead.
    """
    _attach_official(model, config)
    standin.fill(model, config["seed"], constants or {})
    settings = _form.get()
    if settings is not None and not config.get("official_lite3r"):
        sparsify(model, 1.0, backend="torch", **settings)
    model.eval()
    return standin.image_batch(config["views"], config["height"], config["width"], config["seed"])
