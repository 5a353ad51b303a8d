"""The Gaussians of a scene as trainable parameters, and their conversion from and to the columns of a splat file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

DEGREE = 2  # highest degree of the spherical harmonics of a colour
SH0, SH1 = 0.28209479177387814, 0.4886025119029199
SH2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
NAMES = ("means", "scales", "quaternions", "opacity", "sh0", "shn")


@dataclass
class GaussianSet:
    """`parameters`: means (N, 3), log scales (N, 3), quaternions (N, 4) w first, opacity logits (N,), and spherical
    harmonics: sh0 (N, 3) of degree 0 and shn (N, K, 3) of higher degrees.
    """

    parameters: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.parameters["means"])

    @classmethod
    def of_columns(cls, columns: np.ndarray, device: torch.device, degree: int = DEGREE) -> GaussianSet:
        """From the columns (N, 17) of a splat file: position, normal, sh0, opacity, scales, quaternion."""
        values = torch.as_tensor(columns, dtype=torch.float32).to(device)
        parts = {
            "means": values[:, :3], "scales": values[:, 10:13], "quaternions": values[:, 13:17],
            "opacity": values[:, 9], "sh0": values[:, 6:9],
            "shn": values.new_zeros(len(values), (degree + 1) ** 2 - 1, 3),
        }  # fmt: skip
        return cls({name: part.clone().requires_grad_() for name, part in parts.items()})

    def copy(self) -> GaussianSet:
        """A detached copy."""
        return GaussianSet({name: value.detach().clone() for name, value in self.parameters.items()})

    def axes(self) -> torch.Tensor:
        """The principal axes (N, 3, 3): column k is axis k times its standard deviation."""
        return rotations(self.parameters["quaternions"]) * torch.exp(self.parameters["scales"])[:, None, :]

    def colours(self, pose: torch.Tensor, degree: int) -> torch.Tensor:
        """RGB colours (N, 3) ≥ 0, seen from the camera `pose` (cam_from_world, (3, 4)), with
        harmonics up to `degree`.
        """
        colour = SH0 * self.parameters["sh0"]
        if degree > 0:
            centre = -pose[:, :3].T @ pose[:, 3]
            towards = torch.nn.functional.normalize(self.parameters["means"] - centre, dim=-1)
            basis = harmonics(towards, degree)
            colour = colour + torch.einsum("nk,nkc->nc", basis, self.parameters["shn"][:, : basis.shape[1]])
        return (colour + 0.5).clamp(min=0)

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """The columns (N, 17) as in `of_columns`, with normals 0, and the higher harmonics (N,
        3·K), colour by colour.
        """
        p = {name: value.detach().float().cpu().numpy() for name, value in self.parameters.items()}
        quaternions = p["quaternions"] / np.linalg.norm(p["quaternions"], axis=1, keepdims=True)
        normals = np.zeros_like(p["means"])
        parts = [p["means"], normals, p["sh0"], p["opacity"][:, None], p["scales"], quaternions]
        return np.concatenate(parts, axis=1), p["shn"].transpose(0, 2, 1).reshape(len(self), -1)


def rotations(quaternions: torch.Tensor) -> torch.Tensor:
    """Quaternions (N, 4), w first, of any norm → rotations (N, 3, 3)."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).view(-1, 3, 3)


def harmonics(directions: torch.Tensor, degree: int) -> torch.Tensor:
    """Real spherical harmonics (N, K) of degrees 1 to `degree` ≤ 2 of unit directions (N, 3), with
    the signs of 3DGS.
    """
    x, y, z = directions.unbind(-1)
    values = [-SH1 * y, SH1 * z, -SH1 * x]
    if degree > 1:
        squares = 2 * z * z - x * x - y * y
        values += [SH2[0] * x * y, SH2[1] * y * z, SH2[2] * squares, SH2[3] * x * z, SH2[4] * (x * x - y * y)]
    return torch.stack(values, -1)
