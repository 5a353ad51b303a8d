"""The training losses of `mini`: cameras (pairwise and as rays), depth with confidence, and 3-D points.

All terms are computed in the frame of the reference view, in units of the scene's geometric-mean depth.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.config.training_run import LossWeights
from lite3r_cli.networks.base import RawOutput
from lite3r_cli.networks.mini.network import intrinsics_from_log_focal

FAR = 4.0  # sky is pushed beyond this log depth, about 55 times the mean depth


@dataclass(frozen=True)
class Targets:
    """Ground truth of B scenes with S views each."""

    depth: Tensor  # (B, S, H, W) z-depth, 0 = unknown
    K: Tensor  # (B, S, 3, 3), pixels, centres at +0.5
    cam_from_world: Tensor  # (B, S, 3, 4)
    reference: Tensor  # (B,) index of the reference view
    sparse: bool = False  # unknown scale, and depth only at some pixels: 0 does not mean sky
    scattered: bool = False  # these pixels have no neighbours with depth
    # (B, S) bool, None = all: False for views of another scene, which only count for `belongs` and the focal length
    belongs: Tensor | None = None


@dataclass(frozen=True)
class _Scene:
    """Ground truth in the reference frame, normalised."""

    log_depth: Tensor  # (B, V, H, W) of the decoded views, 0 where invalid
    valid: Tensor  # (B, V, H, W) bool
    rotation: Tensor  # (B, S, 3, 3) reference_from_cam
    centre: Tensor  # (B, S, 3)
    K: Tensor  # (B, S, 3, 3)
    member: Tensor  # (B, S) bool: the view shows the scene


def _normalise(target: Targets, out: RawOutput) -> _Scene:
    member = target.belongs
    if member is None:
        member = torch.ones(target.K.shape[:2], dtype=torch.bool, device=target.K.device)
    valid = (target.depth > 0) & member[..., None, None]
    log_depth = torch.where(valid, target.depth, 1.0).log()
    if target.sparse:  # the true scale is unknown: use that of the prediction
        difference = log_depth[:, out.decoded] - out.log_depth.detach()
        difference = torch.where(valid[:, out.decoded], difference, torch.nan)
        shift = difference.flatten(1).nanmedian(1).values.nan_to_num()
    else:
        shift = log_depth.flatten(1).sum(1) / valid.flatten(1).sum(1).clamp(min=1)
    R, t = target.cam_from_world[..., :3], target.cam_from_world[..., 3]
    pick = torch.arange(len(R), device=R.device)
    R_ref, t_ref = R[pick, target.reference], t[pick, target.reference]
    rotation = R_ref[:, None] @ R.transpose(-1, -2)
    centre = t_ref[:, None] - (rotation @ t[..., None]).squeeze(-1)
    return _Scene(
        torch.where(valid, log_depth - shift[:, None, None, None], 0.0)[:, out.decoded],
        valid[:, out.decoded],
        rotation,
        centre * torch.exp(-shift)[:, None, None],
        target.K,
        member,
    )


def compute_losses(out: RawOutput, target: Targets, weights: LossWeights = LossWeights()) -> dict[str, Tensor]:
    """Name → weighted loss term, and their sum as `total`; scalars on the device, without synchronisation."""
    scene = _normalise(target, out)
    height, width = target.depth.shape[-2:]
    half_diagonal = 0.5 * (height**2 + width**2) ** 0.5
    focal = (scene.K[..., 0, 0] * scene.K[..., 1, 1]).sqrt()
    terms = {
        **_depth_terms(out, scene, target, weights),
        **_pair_terms(out, scene),
        "focal": (out.log_focal - torch.log(focal / half_diagonal)).abs().mean(),
        "points": _point_term(out, scene, step=1 if target.scattered else 4),
    }
    if out.belongs is not None:
        terms["belongs"] = F.binary_cross_entropy_with_logits(out.belongs, scene.member.float())
    if out.rays is not None:
        terms["rays"] = _ray_term(out.rays, scene, height, width)
    scale = {f.name: getattr(weights, f.name) for f in fields(weights)}
    weighted = {name: scale[name] * value for name, value in terms.items()}
    return {**weighted, "total": torch.stack(list(weighted.values())).sum()}


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def _depth_terms(out: RawOutput, scene: _Scene, target: Targets, weights: LossWeights) -> dict[str, Tensor]:
    error = torch.where(scene.valid, out.log_depth - scene.log_depth, 0.0)
    log_confidence = out.confidence.log()
    terms = {
        "depth": _masked_mean(out.confidence * error.abs() - weights.confidence_alpha * log_confidence, scene.valid),
    }
    if not target.sparse:
        sky = ~scene.valid & scene.member[:, out.decoded, None, None]
        terms["sky"] = _masked_mean(F.relu(FAR - out.log_depth) + out.confidence - 1, sky)
    if target.scattered:
        return terms
    gradient = error.new_zeros(())
    for step in (1, 2, 4, 8):  # multi-scale gradient matching (MegaDepth, arXiv 1804.00607)
        e, v = error[..., ::step, ::step], scene.valid[..., ::step, ::step]
        gradient = gradient + _masked_mean((e[..., 1:] - e[..., :-1]).abs(), v[..., 1:] & v[..., :-1])
        gradient = gradient + _masked_mean((e[..., 1:, :] - e[..., :-1, :]).abs(), v[..., 1:, :] & v[..., :-1, :])
    return {**terms, "gradient": gradient / 4}


def _pair_terms(out: RawOutput, scene: _Scene) -> dict[str, Tensor]:
    """Errors of the relative poses of all ordered pairs of views: an error of one view then does
    not affect all terms.
    """
    both = scene.member[:, :, None] & scene.member[:, None]
    relative, offset = _relative(out.rotation, out.centre)
    true_relative, true_offset = _relative(scene.rotation, scene.centre)
    chord = (relative - true_relative).flatten(-2).norm(dim=-1) / 2**0.5  # close to the angle in radians
    distance = (offset - true_offset).norm(dim=-1)
    baseline = true_offset.norm(dim=-1)
    unit = offset / (offset.norm(dim=-1, keepdim=True) + 0.02)
    true_unit = true_offset / (baseline[..., None] + 0.02)
    direction = (unit - true_unit).norm(dim=-1)
    return {
        "rotation": _mean_over_pairs(chord, both),
        "position": _mean_over_pairs(distance / (0.3 + baseline), both),
        "direction": _mean_over_pairs(direction, both),
    }


def _mean_over_pairs(x: Tensor, both: Tensor) -> Tensor:
    """Mean of x (B, S, S) over pairs of different views where `both` (B, S, S) is True; 0 if there are none. Uses no
    mask indexing, which would synchronise with the GPU.
    """
    different = both & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return _masked_mean(x, different)


def _relative(rotation: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (B, i, j, 3, 3) from camera i to camera j, and camera i's centre in j's frame (B, i, j, 3)."""
    inverse = rotation.transpose(-1, -2)[:, None]  # (B, 1, j, 3, 3)
    relative = inverse @ rotation[:, :, None]
    offset = (inverse @ (centre[:, :, None] - centre[:, None])[..., None]).squeeze(-1)
    return relative, offset


def _ray_term(rays: Tensor, scene: _Scene, height: int, width: int) -> Tensor:
    rows, columns = rays.shape[2:4]
    u = (torch.arange(columns, device=rays.device) + 0.5) * (width / columns)
    v = (torch.arange(rows, device=rays.device) + 0.5) * (height / rows)
    direction = _camera_rays(scene.K, u[None, :].expand(rows, -1), v[:, None].expand(-1, columns))
    direction = torch.einsum("bsij,bshwj->bshwi", scene.rotation, direction)
    centre = scene.centre[:, :, None, None]
    unit = 0.3 + centre.norm(dim=-1, keepdim=True)  # normalises, because distant cameras would dominate
    off = ((rays[..., :3] - direction).abs() + (rays[..., 3:] - centre).abs() / unit).mean((2, 3, 4))
    return _masked_mean(off, scene.member) * 1.5


def _camera_rays(K: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """K⁻¹·(u, v, 1) for K (B, S, 3, 3) and pixel grids (h, w) → (B, S, h, w, 3)."""
    fx, fy, cx, cy = (K[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (u - cx) / fx, (v - cy) / fy
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _point_term(out: RawOutput, scene: _Scene, step: int) -> Tensor:
    """The error of unprojected points relative to their depth, which couples depth, pose and focal length.

    The points of all views are compared in one frame, so that different views of one place must agree.
    """
    offset = step // 2
    height, width = scene.valid.shape[-2:]
    v, u = torch.meshgrid(
        torch.arange(offset, height, step, device=out.centre.device) + 0.5,
        torch.arange(offset, width, step, device=out.centre.device) + 0.5,
        indexing="ij",
    )
    pick = (..., slice(offset, None, step), slice(offset, None, step))
    valid, true_depth = scene.valid[pick], scene.log_depth[pick].exp()
    some = (slice(None), out.decoded)
    predicted_K = intrinsics_from_log_focal(out.log_focal[some], height, width)
    predicted_depth = out.log_depth[pick].clamp(max=FAR + 1).exp()
    predicted = _world_points(predicted_K, out.rotation[some], out.centre[some], predicted_depth, u, v)
    true = _world_points(scene.K[some], scene.rotation[some], scene.centre[some], true_depth, u, v)
    error = (predicted - true).norm(dim=-1) / (true_depth + 0.1)
    return _masked_mean(torch.log1p(error), valid)


def _world_points(K: Tensor, rotation: Tensor, centre: Tensor, depth: Tensor, u: Tensor, v: Tensor) -> Tensor:
    points = _camera_rays(K, u, v) * depth[..., None]
    return torch.einsum("bsij,bshwj->bshwi", rotation, points) + centre[:, :, None, None]
