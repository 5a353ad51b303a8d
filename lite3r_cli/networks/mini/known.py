"""Known focal lengths and poses as an input of `mini`, as in Depth-Anything-3 (arXiv 2511.10647)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.networks.base import KnownCameras

MEAN_LOG_FOCAL = 0.76  # a diagonal field of view of 50°, the initial value of the camera decoder
FEATURES = 3 + 10  # focal length: known, value, square; pose: known, 6-D rotation, centre


@dataclass(frozen=True)
class CameraHints:
    """Known focal lengths and poses for B scenes of S views each; NaN for unknown values."""

    log_focal: Tensor  # (B, S), units of half the image diagonal
    rotation: Tensor  # (B, S, 3, 3) world_from_cam; the world is the frame of the reference camera
    centre: Tensor  # (B, S, 3) camera centres in that frame, any scale

    @classmethod
    def nothing(cls, batch: int, views: int, device: torch.device) -> CameraHints:
        """All values unknown."""
        return cls(
            torch.full((batch, views), torch.nan, device=device),
            torch.full((batch, views, 3, 3), torch.nan, device=device),
            torch.full((batch, views, 3), torch.nan, device=device),
        )

    @classmethod
    def of(cls, cameras: KnownCameras, sizes: Tensor) -> CameraHints:
        """Those of one scene with the first view as the reference; `sizes` (S, 2) are height and width of the images.

        Focal lengths count only if those of all views are known, and so do poses, as in training: with those of every
        second view the predicted cameras were worse.
        """
        K, pose = (values.float().to(sizes.device) for values in (cameras.K, cameras.cam_from_world[:, :3]))
        focal = (K[:, 0, 0] * K[:, 1, 1]).sqrt() / (0.5 * sizes.float().norm(dim=1))
        R, t = pose[..., :3], pose[..., 3:]
        rotation, centre = R[0] @ R.transpose(1, 2), (R[0] @ (-R.transpose(1, 2) @ t) + t[0])[..., 0]
        found = (focal.log()[None], rotation[None], centre[None])
        return cls(*(torch.where(values.isfinite().all(), values, torch.nan) for values in found))

    def features(self) -> Tensor:
        """The network's input (B, S, FEATURES); all zero for a view without known values. Centres are divided by their
        mean distance from the reference camera, because a network without metric scale cannot use their size.
        """
        has_focal = ~self.log_focal.isnan()
        focal = torch.where(has_focal, self.log_focal - MEAN_LOG_FOCAL, 0.0)
        has_pose = ~(self.rotation.flatten(2).isnan().any(-1) | self.centre.isnan().any(-1))
        rotation = torch.where(has_pose[..., None, None], self.rotation, 0.0)
        centre = torch.where(has_pose[..., None], self.centre, 0.0)
        distance = centre.norm(dim=-1)
        mean = distance.sum(1) / (distance > 0).sum(1).clamp(min=1)
        centre = centre / mean.clamp(min=1e-6)[:, None, None]
        six = rotation[..., :2].transpose(-1, -2).flatten(2)  # the first two columns, concatenated
        return torch.cat(
            [torch.stack([has_focal.float(), focal, focal.square()], -1), has_pose[..., None].float(), six, centre], -1
        )


class KnownCameraToken(nn.Module):
    """Known cameras → encoding (B, S, C) that is added to the camera tokens. It is zero before training."""

    def __init__(self, dim: int):
        super().__init__()
        self.linear = nn.Linear(FEATURES, dim, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, known: CameraHints) -> Tensor:
        result: Tensor = self.linear(known.features())
        return result
