"""The photographic augmentation."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from lite3r_cli.data.procedural.augment import AugmentConfig, augment, jpeg


def picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (height // 6, width // 6, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def test_jpeg_is_as_lossy_as_the_codec():
    """Same mean error as OpenCV's encoder within a fifth, at two qualities, on a size that is no multiple of 16."""
    rgb = picture(75, 113)
    x = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    for quality in (30, 85):
        encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        codec = np.abs(cv2.imdecode(encoded, 1)[..., ::-1].astype(float) - rgb).mean() / 255
        ours = float((jpeg(x, torch.tensor([float(quality)])) - x).abs().mean())
        assert abs(ours / codec - 1) < 0.2


def test_augment_is_reproducible_and_keeps_the_scene():
    images = torch.from_numpy(picture(75, 113)).permute(2, 0, 1).float().div(255).expand(3, 2, 3, 75, 113)
    a, b = (augment(images, torch.Generator().manual_seed(5)) for _ in range(2))
    c = augment(images, torch.Generator().manual_seed(6))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert a.shape == images.shape and 0 <= float(a.min()) and float(a.max()) <= 1
    flat = a.reshape(6, -1)
    correlation = torch.corrcoef(torch.cat([flat, images[:1, 0].reshape(1, -1)]))[-1, :-1]
    assert float(correlation.min()) > 0.7
    assert float((a[:, 0] - a[:, 1]).abs().mean((1, 2, 3)).min()) > 1e-3  # the views of a scene differ


def plain(**effects) -> AugmentConfig:
    """Without any effect but those given."""
    none = dict.fromkeys(("exposure", "exposure_view", "automatic", "dark", "white_balance", "white_balance_view"), 0.0)
    none |= dict.fromkeys(("lamplight", "contrast", "gamma", "saturation", "grey", "vignette", "blur", "sharpen"), 0.0)
    return AugmentConfig(**none | dict.fromkeys(("moved", "noise", "framed", "jpeg"), 0.0) | effects)


def test_motion_blurs_in_one_direction_and_a_border_is_plain():
    images = torch.from_numpy(picture(75, 113)).permute(2, 0, 1).float().div(255).expand(2, 3, 3, 75, 113)
    sharp, moved = (
        augment(images, torch.Generator().manual_seed(2), plain(moved=share, motion=0.04)) for share in (0.0, 1.0)
    )
    still, blurred = ([each.diff(dim=k).abs().mean() for k in (-1, -2)] for each in (sharp, moved))
    assert all(b < a for a, b in zip(still, blurred))
    assert min(b / a for a, b in zip(still, blurred)) < 0.8
    framed = augment(images, torch.Generator().manual_seed(2), plain(framed=1.0))
    corner = framed[..., 0, 0]
    assert set(corner.unique().tolist()) <= {0.0, 1.0} and torch.equal(corner, framed[..., -1, -1])
    assert torch.equal(framed[..., 10:-10, 10:-10], sharp[..., 10:-10, 10:-10])
