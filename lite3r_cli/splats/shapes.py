"""Project 3-D Gaussians to image ellipses, differentiable (Kerbl et al. 2023, section 4; Zwicker et al. 2001)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .gaussian_set import GaussianSet

BLUR = 0.3  # pixels², added to the covariance, so that no ellipse falls between pixels
NEAREST = 0.01  # Gaussians at less depth are not drawn; the scene has size 1
BEYOND = 1.3  # ray slopes are clamped to this times the slope at the border: the linearisation fails far outside
FAINTEST = 1 / 255  # alpha below which a Gaussian is not drawn
CHANNELS = 10  # of a row: x, y; inverse covariance a, b, c; opacity; red, green, blue; depth


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: `K` (3, 3) in pixels, centres at +0.5; `pose` cam_from_world (3, 4); image size in pixels."""

    K: torch.Tensor
    pose: torch.Tensor
    width: int
    height: int


def ellipses(
    splats: GaussianSet, camera: Camera, degree: int, factor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (N, CHANNELS) for the rasteriser, and boxes (N, 4): x0, y0, x1, y1 in pixels, empty for a Gaussian behind
    the camera. Colours use spherical harmonics up to `degree`. `factor` (N,) multiplies the opacities; 0 = not drawn.
    """
    p = splats.parameters
    rotation, offset = camera.pose[:, :3], camera.pose[:, 3]
    x, y, z = (p["means"] @ rotation.T + offset).unbind(-1)
    near = z > NEAREST
    z = torch.where(near, z, torch.ones_like(z))
    (fx, cx), (fy, cy) = (camera.K[0, 0], camera.K[0, 2]), (camera.K[1, 1], camera.K[1, 2])
    slope_x = (x / z).clamp(-BEYOND * cx / fx, BEYOND * (camera.width - cx) / fx)
    slope_y = (y / z).clamp(-BEYOND * cy / fy, BEYOND * (camera.height - cy) / fy)
    # rows of the Jacobian of the projection times the rotation: d pixel / d world
    right, down, ahead = rotation
    across = (fx / z)[:, None] * (right - slope_x[:, None] * ahead)  # (N, 3)
    along = (fy / z)[:, None] * (down - slope_y[:, None] * ahead)
    axes = splats.axes()  # (N, 3, 3)
    across, along = (torch.einsum("ni,nij->nj", row, axes) for row in (across, along))
    xx, xy, yy = (across**2).sum(-1) + BLUR, (across * along).sum(-1), (along**2).sum(-1) + BLUR
    inverse = 1 / (xx * yy - xy**2).clamp(min=1e-9)
    opacity = torch.sigmoid(p["opacity"]) if factor is None else torch.sigmoid(p["opacity"]) * factor
    place = fx * x / z + cx, fy * y / z + cy
    columns = [*place, yy * inverse, -xy * inverse, xx * inverse, opacity]
    rows = torch.cat([torch.stack(columns, -1), splats.colours(camera.pose, degree), z[:, None]], -1)
    with torch.no_grad():
        reach = 2 * torch.log((opacity / FAINTEST).clamp(min=1))  # squared distance, in standard deviations
        reach = torch.where(near, reach, torch.zeros_like(reach))
        half = torch.sqrt(reach * xx), torch.sqrt(reach * yy)
        boxes = torch.stack([place[0] - half[0], place[1] - half[1], place[0] + half[0], place[1] + half[1]], -1)
        boxes = torch.where(reach[:, None] > 0, boxes, torch.full_like(boxes, -1))
    return rows, boxes
