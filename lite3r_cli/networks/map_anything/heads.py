"""MapAnything's heads: rays and depth along them, confidence, a mask, poses and a metric scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.heads.dpt import FusionBlock, Scratch
from lite3r_cli.layers.vit import ModulesOf

SMALLEST = 1e-8  # lower limit of norms and of the scale
RAW_CHANNELS = 6  # ray (3), log depth, log confidence, mask logit
SCALE_WIDTH = 196


@dataclass(frozen=True)
class DenseMaps:
    """The per-pixel output of the dense head, without metric scale."""

    rays: Tensor  # (B, S, H, W, 3), unit length, in camera axes
    depth: Tensor  # (B, S, H, W) along the ray
    confidence: Tensor  # (B, S, H, W), above 1
    logit: Tensor  # (B, S, H, W), positive where the pixel shows a surface

    @classmethod
    def of(cls, raw: Tensor) -> DenseMaps:
        """From the raw channels of the head (B, S, 6, H, W)."""
        ray, (log_depth, log_confidence, logit) = raw[:, :, :3].movedim(2, -1), raw[:, :, 3:].unbind(2)
        ray = ray / ray.norm(dim=-1, keepdim=True).clamp(min=SMALLEST)
        return cls(ray, log_depth.exp(), 1 + log_confidence.exp(), logit)

    def of_scene(self, scene: int) -> DenseMaps:
        """The maps of one scene of the batch, (S, …) each."""
        return DenseMaps(*(getattr(self, field.name)[scene] for field in fields(self)))


class Pyramid(nn.Module):
    """Four token maps (B, N, C_k) of an h×w grid → (B, features, 8h, 8w), as in DPT (arXiv 2103.13413)."""

    def __init__(self, widths: Sequence[int], features: int, stages: Sequence[int]):
        super().__init__()
        resize: tuple[list[nn.Module], ...] = (
            [nn.ConvTranspose2d(stages[0], stages[0], 4, 4)],
            [nn.ConvTranspose2d(stages[1], stages[1], 2, 2)],
            [],
            [nn.Conv2d(stages[3], stages[3], 3, 2, 1)],
        )
        self.input_process: ModulesOf[nn.Sequential] = ModulesOf(
            nn.Sequential(
                nn.Sequential(nn.Conv2d(width, stage, 1), *layers), nn.Conv2d(stage, features, 3, padding=1, bias=False)
            )
            for width, stage, layers in zip(widths, stages, resize)
        )
        self.scratch = Scratch()
        for i in range(1, 5):
            setattr(self.scratch, f"refinenet{i}", FusionBlock(features, relu_skip=False, lateral=i < 4))

    def forward(self, tokens: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        levels = [
            process(x.transpose(1, 2).unflatten(2, (rows, columns))) for process, x in zip(self.input_process, tokens)
        ]
        top, lateral = levels[3], None
        for i in (4, 3, 2, 1):
            size = (2 * top.shape[-2], 2 * top.shape[-1])
            top = getattr(self.scratch, f"refinenet{i}")(top, lateral, size)
            if i == 4:  # crop, because half of an odd side was rounded up
                top = top[..., :rows, :columns]
            lateral = levels[i - 2]
        result: Tensor = top
        return result


class Regressor(nn.Module):
    """The finest map (B, features, h, w) → raw channels (B, 6, H, W) at the size of the images."""

    def __init__(self, features: int):
        super().__init__()
        half = features // 2
        self.conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.conv2 = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, RAW_CHANNELS, 1))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        result: Tensor = self.conv2(F.interpolate(self.conv1(x), (height, width), mode="bilinear", align_corners=True))
        return result


class DenseHead(nn.ModuleList):
    """Four token maps (B, N, C_k) of an h×w grid → raw channels (B, 6, p·h, p·w), p = patch size."""

    def __init__(self, widths: Sequence[int], features: int, stages: Sequence[int], patch_size: int):
        super().__init__([Pyramid(widths, features, stages), Regressor(features)])
        self.patch_size = patch_size

    def parts(self) -> tuple[Pyramid, Regressor]:
        """The two parts, with their types."""
        pyramid, regressor = self
        assert isinstance(pyramid, Pyramid) and isinstance(regressor, Regressor)
        return pyramid, regressor

    def forward(self, tokens: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        pyramid, regressor = self
        result: Tensor = regressor(pyramid(tokens, rows, columns), self.patch_size * rows, self.patch_size * columns)
        return result


class _Residual(nn.Module):
    """x + relu(three 1×1 convolutions of x)."""

    def __init__(self, width: int):
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.res_conv2(F.relu(self.res_conv1(x))))
        return x + F.relu(self.res_conv3(inner))


class PoseHead(nn.Module):
    """Patch tokens (B, N, C), one view per row → world_from_cam quaternion (B, 4), scalar last, translation (B, 3)."""

    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        width = 4 * patch_size**2
        self.proj = nn.Conv2d(dim, width, 1)
        self.res_conv = nn.ModuleList(_Residual(width) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t, self.fc_rot = nn.Linear(width, 3), nn.Linear(width, 4)

    def forward(self, tokens: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Only patches in the mask `seen` (B, N) are used; None: all."""
        x = self.proj(tokens.transpose(1, 2)[..., None])  # (B, width, N, 1)
        for block in self.res_conv:
            x = block(x)
        x = x[..., 0]
        if seen is None:
            x = x.mean(-1)
        else:
            x = (x * (seen.to(x) / seen.sum(1, keepdim=True).to(x))[:, None]).sum(-1)
        x = self.more_mlps(x)
        quaternion = self.fc_rot(x)
        return quaternion / quaternion.norm(dim=-1, keepdim=True).clamp(min=SMALLEST), self.fc_t(x)


class ScaleHead(nn.Module):
    """The scene token (B, C) → metres per unit (B,)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, SCALE_WIDTH)
        self.mlp = nn.Sequential(
            *(nn.Sequential(nn.Linear(SCALE_WIDTH, SCALE_WIDTH), nn.ReLU()) for _ in range(2)),
        )
        self.output_proj = nn.Linear(SCALE_WIDTH, 1)

    def forward(self, token: Tensor) -> Tensor:
        result: Tensor = self.output_proj(self.mlp(self.proj(token)))[:, 0].exp().clamp(min=SMALLEST)
        return result
