"""Cameras from predicted rays (Depth-Anything-3, arXiv 2511.10647).

The ray direction of an image point p is d ~ R K⁻¹ p. A homography H = R K⁻¹ (up to scale) is fitted from image points
to directions with RANSAC, weighted by the ray confidences. A QL decomposition splits H into rotation and intrinsics.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lite3r_cli.layers.heads.pose import invert_rigid

HYPOTHESES, SAMPLE = 100, 8
CANDIDATE_SHARE = 0.3  # RANSAC samples from this share of the rays, the most confident ones
INLIER_DISTANCE = 0.2  # in the plane z = 1
REFIT_POINTS, REFIT_SHARE = 8000, 0.95
SMALLEST_Z = 1e-4


def cameras_from_rays(rays: Tensor, confidence: Tensor, size: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rays (S, h, w, 6) as direction and origin in world coordinates, confidence (S, h, w), image size (H, W) in pixels
    → cam_from_world (S, 3, 4) and K (S, 3, 3) for pixel centres at integers.

    RANSAC draws from its own generator with `seed`, so that a result does not depend on earlier calls.
    """
    views, rows, columns = confidence.shape
    source = _image_plane(rows, columns, rays)
    direction, origin = rays.flatten(1, 2).split(3, dim=-1)
    usable = direction[..., 2].abs() > SMALLEST_Z
    depth = torch.where(usable, direction[..., 2], torch.ones_like(direction[..., 2]))
    target = direction[..., :2] / depth[..., None]
    weight = confidence.flatten(1) * usable
    candidates = max(SAMPLE, int(CANDIDATE_SHARE * rows * columns))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.stack([torch.randperm(candidates, generator=generator)[:SAMPLE] for _ in range(HYPOTHESES)])
    draws = draws.to(rays.device)
    cameras = [_camera(source, target[s], weight[s], candidates, draws, generator) for s in range(views)]
    R, focal, principal = (torch.stack(values) for values in zip(*cameras))
    centre = (origin * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
    half = torch.tensor([size[1] / 2, size[0] / 2], device=rays.device)
    K = torch.diag_embed(torch.cat([focal * half, focal.new_ones(views, 1)], dim=-1))
    K[:, :2, 2] = principal * half
    return invert_rigid(R, centre), K


def _image_plane(rows: int, columns: int, like: Tensor) -> Tensor:
    """Centres of the ray map's cells, (rows·columns, 2) as (x, y) in [-1, 1]."""
    x = (2 * torch.arange(columns, device=like.device, dtype=like.dtype) + 1) / columns - 1
    y = (2 * torch.arange(rows, device=like.device, dtype=like.dtype) + 1) / rows - 1
    return torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1)


def _camera(
    source: Tensor, target: Tensor, weight: Tensor, candidates: int, draws: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """One view: rotation world_from_cam (3, 3), focal lengths (2,) and principal point (2,) in half image sides."""
    order = weight.argsort(descending=True)
    picked = order[:candidates][draws]  # (100, 8)
    hypotheses = _homography(source[picked], target[picked], weight[picked])
    error = _distances(hypotheses, source, target)  # (100, N)
    inlier = error < INLIER_DISTANCE
    best = (inlier * weight).sum(-1).argmax()
    chosen = order[inlier[best][order]]
    if len(chosen) > REFIT_POINTS:
        kept = max(int(REFIT_SHARE * len(chosen)), REFIT_POINTS)
        chosen = chosen[:kept][torch.randperm(kept, generator=generator)[:REFIT_POINTS].to(chosen.device)]
    if len(chosen) >= SAMPLE:
        H = _homography(source[chosen], target[chosen], weight[chosen])
    else:
        H = hypotheses[best]
    return _decompose(-H if torch.linalg.det(H) < 0 else H)


def _homography(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted direct linear transform of point pairs (…, N, 2) → (…, 3, 3), last entry 1."""
    x, y = source.double().unbind(-1)
    u, v = target.double().unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    upper = torch.stack([-x, -y, -one, zero, zero, zero, x * u, y * u, u], dim=-1)
    lower = torch.stack([zero, zero, zero, -x, -y, -one, x * v, y * v, v], dim=-1)
    rows = torch.cat([upper, lower], dim=-2) * weight.double().sqrt().tile(2)[..., None]
    # the eigenvector of the smallest eigenvalue of AᵀA is A's last right singular vector, without an N×N factor
    smallest = torch.linalg.eigh(rows.transpose(-1, -2) @ rows).eigenvectors[..., 0]
    return (smallest / smallest[..., -1:]).unflatten(-1, (3, 3)).to(source.dtype)


def _distances(homographies: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Homographies (M, 3, 3), points (N, 2) → distances after projection (M, N)."""
    points = torch.cat([source, source.new_ones(len(source), 1)], dim=-1)
    projected = points @ homographies.transpose(-1, -2)
    return (projected[..., :2] / projected[..., 2:] - target).norm(dim=-1)


def _decompose(H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H = Q Λ with a rotation Q and a lower triangular Λ with positive diagonal → Q and the intrinsics read from Λ.

    Λ is exactly K⁻¹, in half image sides, only if the principal point is the image centre. The original code reads the
    intrinsics in the same way.
    """
    q, r = torch.linalg.qr(H.flip(1))
    Q, lower = q.flip(1), r.flip(0, 1)
    sign = lower.diagonal().sign()
    Q, lower = Q * sign, lower * sign[:, None]
    lower = lower / lower[2, 2]
    return Q, 1 / lower.diagonal()[:2], lower[2, :2] + 1
