"""Relief textures: windows, doors, ornament and terrain, whose height map is a shape and whose colour follows it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np

from lite3r_cli.data.procedural.patterns import SIZE, Pattern, Rng, color, earthy, grid, noise, ramp


def _wall(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    grain = noise(rng, 1.2)
    rgb = earthy(rng) * (0.85 + 0.3 * grain)[..., None]
    height = 0.5 + 0.03 * grain
    if rng.random() < 0.5:
        _, inside = grid(int(rng.choice([8, 10, 16])), int(rng.choice([3, 4, 6])), 0.02, 0.5)
        rgb, height = rgb * (0.75 + 0.25 * inside[..., None]), height + 0.04 * inside
    return np.ascontiguousarray(rgb), np.ascontiguousarray(height)  # OpenCV draws on no other layout


def _pane(rng: Rng, rgb, height, x0, y0, x1, y1, depth) -> None:
    """A recessed window with glazing bars."""
    frame, glass = color(rng, 0.1, 0.5, 0.95), color(rng, 0.3, 0.04, 0.25)
    w = max(2, (x1 - x0) // int(rng.integers(12, 26)))
    rgb[y0:y1, x0:x1], height[y0:y1, x0:x1] = frame, depth + 0.06
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(2, 5))
    xs, ys = np.linspace(x0 + w, x1, columns + 1).astype(int), np.linspace(y0 + w, y1, rows + 1).astype(int)
    for a, b in itertools.pairwise(xs):
        for c, d in itertools.pairwise(ys):
            shine = np.linspace(0.7, rng.uniform(0.8, 2.5), max(d - w - c, 0))[:, None, None]
            rgb[c : d - w, a : b - w], height[c : d - w, a : b - w] = glass * shine, depth


def windows(rng: Rng) -> Pattern:
    """Storeys of windows with sills, surrounds, lintels and a cornice between storeys."""
    rgb, height = _wall(rng)
    trim = earthy(rng)
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    aspect, depth = rng.uniform(0.35, 0.6), rng.uniform(0.1, 0.3)
    arch = rng.random() < 0.3
    for i in range(rows):
        base = i * SIZE // rows
        cell = SIZE // rows
        rgb[base : base + cell // 16 + 1], height[base : base + cell // 16 + 1] = trim, 0.9
        for j in range(columns):
            w = int(SIZE // columns * aspect)
            x0 = j * SIZE // columns + (SIZE // columns - w) // 2
            y0, y1 = base + int(cell * 0.25), base + int(cell * 0.82)
            b = max(2, w // 8)
            rgb[y0 - b : y1 + b, x0 - b : x0 + w + b], height[y0 - b : y1 + b, x0 - b : x0 + w + b] = trim, 0.68
            if arch:
                cv2.ellipse(rgb, (x0 + w // 2, y0), (w // 2 + b, w // 3), 0, 180, 360, tuple(trim * 0.9), -1)
                cv2.ellipse(height, (x0 + w // 2, y0), (w // 2 + b, w // 3), 0, 180, 360, 0.75, -1)
            _pane(rng, rgb, height, x0, y0, x0 + w, y1, depth)
            rgb[y1 : y1 + b, x0 - b : x0 + w + b], height[y1 : y1 + b, x0 - b : x0 + w + b] = trim * 1.05, 0.85
    return rgb, height


def door(rng: Rng) -> Pattern:
    """One large panelled door in a stepped surround."""
    rgb, height = _wall(rng)
    trim, leaf = earthy(rng), color(rng, 0.5, 0.1, 0.5)
    for k, h in enumerate((0.62, 0.72, 0.55, 0.4)):
        m = 40 + 12 * k
        rgb[m:, m : SIZE - m], height[m:, m : SIZE - m] = trim * (1 - 0.06 * k), h
    rgb[96:, 92:164], height[96:, 92:164] = leaf, 0.15
    for x in (96, 130):
        for y in (104, 150, 200):
            cv2.rectangle(rgb, (x, y), (x + 28, y + 38), tuple(leaf * 0.8), -1)
            cv2.rectangle(height, (x, y), (x + 28, y + 38), 0.08, -1)
            cv2.rectangle(height, (x + 5, y + 5), (x + 23, y + 33), 0.16, -1)
    return rgb * (0.85 + 0.3 * noise(rng, 0.9))[..., None], height


def casement(rng: Rng) -> Pattern:
    """One window that fills the texture: frame, glazing bars, panes; perhaps a curtain behind."""
    rgb, height = np.empty((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE))
    _pane(rng, rgb, height, 0, 0, SIZE, SIZE, rng.uniform(0.2, 0.6))
    return rgb * (0.85 + 0.3 * noise(rng, 1.6))[..., None], height


def ornament(rng: Rng) -> Pattern:
    """Carved stone: symmetric scrolls and rosettes."""
    n = noise(rng, 1.7, low=1)
    n = n + n[:, ::-1]
    ridges = 0.5 + 0.5 * np.cos(rng.uniform(10, 26) * n)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE * 2 - 1
    r, a = np.hypot(x, y), np.arctan2(y, x)
    rosette = np.clip(1 - r * rng.uniform(1.2, 2.2), 0, 1) * (0.7 + 0.3 * np.cos(int(rng.integers(5, 13)) * a))
    height = np.clip(0.25 + 0.4 * ridges * np.clip(1.3 - r, 0, 1) + 0.8 * rosette, 0, 1)
    height = cv2.GaussianBlur(height, (0, 0), 1.5)
    base = earthy(rng)
    return ramp(height, base * 0.55, np.minimum(base * 1.15, 1)) * (0.85 + 0.3 * noise(rng, 1.0))[..., None], height


def panels(rng: Rng) -> Pattern:
    """Coffers: nested rectangles, as on ceilings, doors and walls."""
    n = int(rng.integers(1, 5))
    _, inside = grid(n, n, 0.08, 0.0)
    _, deeper = grid(n, n, 0.2, 0.0)
    height = 0.8 - 0.35 * inside + 0.25 * deeper * rng.choice([-1, 1])
    base = color(rng, 0.3)
    return base * (0.65 + 0.45 * height)[..., None] * (0.9 + 0.2 * noise(rng, 1.2))[..., None], np.clip(height, 0, 1)


def statue(rng: Rng) -> Pattern:
    """Smooth blobs, a figure-like relief."""
    height = np.full((SIZE, SIZE), 0.1)
    for _ in range(14):
        x, y = rng.normal(128, 30), rng.uniform(30, 230)
        sx, sy = rng.uniform(10, 40, 2)
        yy, xx = np.mgrid[0:SIZE, 0:SIZE]
        height = np.maximum(
            height, rng.uniform(0.4, 1.0) * np.exp(-((xx - x) ** 2) / (2 * sx**2) - (yy - y) ** 2 / (2 * sy**2))
        )
    height = np.clip(height + 0.06 * (noise(rng, 1.3) - 0.5), 0, 1)
    base = earthy(rng)
    return base * (0.5 + 0.6 * height)[..., None] * (0.85 + 0.3 * noise(rng, 0.9))[..., None], height


def rubble(rng: Rng) -> Pattern:
    """A rough natural wall or rock face."""
    height = np.clip(0.65 * noise(rng, 1.6) + 0.35 * noise(rng, 1.0), 0, 1)
    return ramp(height, earthy(rng) * 0.5, earthy(rng)) * (0.8 + 0.4 * noise(rng, 0.6))[..., None], height


def hills(rng: Rng) -> Pattern:
    """Terrain: soft height, grass to rock by slope."""
    height = np.clip(noise(rng, rng.uniform(1.9, 2.6)), 0, 1)
    slope = np.clip(np.hypot(*np.gradient(height)) * 40, 0, 1)
    green = np.array([0.38, 0.42, 0.2]) * rng.uniform(0.6, 1.2)
    return ramp(slope, green, earthy(rng)) * (0.5 + 0.9 * noise(rng, 0.6))[..., None], height


RELIEFS: dict[str, Callable[[Rng], Pattern]] = {
    "windows": windows, "door": door, "casement": casement, "ornament": ornament, "panels": panels, "statue": statue,
    "rubble": rubble, "hills": hills,
}  # fmt: skip
