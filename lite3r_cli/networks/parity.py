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

from lite3r_cli.attention.module import SparseConfig, attach, attention_modules
from lite3r_cli.errors import InputError
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.heads.rays import cameras_from_rays
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.network import DA3, SIZES
from lite3r_cli.networks.vggt.network import SPECIALS, VGGT, VGGT_1B, VGGTConfig

TOLERANCE = 1e-5
THREADS = 2  # as when the fixtures were made: the order of sums, and so the last bits, depend on it
GIVEN = ("config", "in_extrinsics", "in_intrinsics")  # entries that are not outputs
ENCODERS = {  # name of a VGGT's image encoder → blocks, heads
    "dinov2_vits14_reg": (12, 6),
    "dinov2_vitb14_reg": (12, 12),
    "dinov2_vitl14_reg": (24, 16),
}
ANGLES = ("fov_xy",)  # of radians: a narrow one comes of larger numbers that cancel, and keeps their rounding
POSE_ROUND_TOKENS, POSE_ROUND_CHANNELS = SPECIALS + 3, 64  # the part of the last tokens that fixtures hold


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
            outputs = _RECOMPUTE[config["model"].split("-")[0]](config, arrays)
    except (OSError, BadZipFile, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a parity fixture of a known model ({type(error).__name__}: {error})") from error
    given = {name: torch.from_numpy(array) for name, array in arrays.items() if name not in GIVEN}
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


def vggt_from(config: Mapping[str, Any]) -> VGGT:
    """The network of a fixture, on the meta device."""
    with torch.device("meta"):
        if config["model"] == "vggt-1b":
            return VGGT(VGGT_1B)
        depth, heads = ENCODERS[config["patch_embed"]]
        sizes = VGGTConfig(
            dim=config["embed_dim"],
            pairs=config["depth"],
            heads=config["num_heads"],
            encoder_depth=depth,
            encoder_heads=heads,
            taps=tuple(config["intermediate_layer_idx"]),
            head_features=config["head_features"],
            head_stages=tuple(config["head_out_channels"]),
        )
        return VGGT(sizes)


def _ready(model: nn.Module, config: Mapping[str, Any]) -> tuple[nn.Module, Tensor]:
    """The network with its weights, and its input."""
    _attach_official(model, config)
    standin.fill(model, config["seed"])
    return model.eval(), standin.image_batch(config["views"], config["height"], config["width"], config["seed"])


@torch.inference_mode()
def _recompute_vggt(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    model, images = _ready(vggt_from(config), config)
    out = model(images, points="world_points" in arrays)
    vector = out.pose_rounds[-1]
    R = pose.rotation_from_quaternion(vector[..., 3:7])
    step = config["subsample"]
    found = {
        "pose_enc": vector,
        "pose_enc_first": out.pose_rounds[0],
        "tokens_last": out.last_tokens[:, :, :POSE_ROUND_TOKENS, :POSE_ROUND_CHANNELS],
        "extrinsics": torch.cat([R, vector[..., :3, None]], dim=-1),
        "fov_xy": vector[..., 7:].flip(-1),
        "depth": out.depth[:, :, ::step, ::step],
        "depth_conf": out.confidence[:, :, ::step, ::step],
    }
    if out.points is not None:
        found["world_points"] = out.points[:, :, ::step, ::step]
        found["world_points_conf"] = out.points_confidence[:, :, ::step, ::step]
    return found


@torch.inference_mode()
def _recompute_da3(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = DA3(SIZES[config["model"]])
    model, images = _ready(model, config)
    model.reference_view = config.get("ref_view_strategy", model.reference_view)
    size = torch.tensor([config["height"], config["width"]], dtype=torch.float32).expand(1, config["views"], 2)
    tokens = None
    if "in_extrinsics" in arrays:
        tokens = model.camera_tokens(*(torch.from_numpy(arrays[k]) for k in GIVEN[1:]), size)
    by_rays = bool(config.get("use_ray_pose"))
    out = model(images, tokens, rays=by_rays or "ray" in arrays)
    if by_rays:
        torch.manual_seed(config["seed"])
        poses, K = (
            t[None] for t in cameras_from_rays(out.rays[0], out.ray_confidence[0], (config["height"], config["width"]))
        )
        focal = torch.stack([K[..., 1, 1], K[..., 0, 0]], dim=-1)
    else:
        poses = pose.invert_rigid(pose.rotation_from_quaternion(out.pose[..., 3:7]), out.pose[..., :3])
        focal = pose.focal_from_fov(out.pose[..., 7:], size, pose.SMALLEST_TAN)
    step = config["subsample"]
    found = {
        "extrinsics": poses,
        "intrinsics": pose.intrinsics(focal, size),
        "fov_xy": pose.fov_from_focal(focal, size).flip(-1),
        "depth": out.depth[:, :, ::step, ::step],
        "depth_conf": out.confidence[:, :, ::step, ::step],
    }
    if out.rays is not None:
        found |= {"ray": out.rays, "ray_conf": out.ray_confidence}
    return found


_RECOMPUTE = {"vggt": _recompute_vggt, "da3": _recompute_da3}
