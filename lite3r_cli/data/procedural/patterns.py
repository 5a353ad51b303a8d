"""Procedural textures: each pattern returns a tileable colour (256, 256, 3) and height (256, 256), floats in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIZE = 256
Rng = np.random.Generator
Pattern = tuple[np.ndarray, np.ndarray]


def noise(rng: Rng, beta: float = 1.6, low: float = 0.0, stretch: float = 1.0) -> np.ndarray:
    """Tileable 1/f^beta noise in [0, 1]; `low` removes frequencies below it, `stretch` elongates it along x."""
    f = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None] * stretch) * SIZE
    amplitude = np.where(f > low, np.maximum(f, 1.0) ** -beta, 0.0)
    x = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * amplitude).real
    return np.clip((x - x.mean()) / (5 * x.std() + 1e-9) + 0.5, 0, 1)


def color(rng: Rng, saturation: float = 0.35, low: float = 0.25, high: float = 0.85) -> np.ndarray:
    """A random RGB colour (3,), mostly muted and warm as most surfaces are; `saturation` bounds the
    rare strong ones.
    """
    grey, warmth = rng.uniform(low, high), rng.normal(0.04, 0.08)
    strength = saturation * rng.random() ** 1.7
    return np.clip(grey * (1 + np.array([warmth, 0.0, -warmth]) + strength * rng.uniform(-1, 1, 3)), 0.03, 0.97)


def earthy(rng: Rng) -> np.ndarray:
    """A random RGB colour (3,) of stone, sand, brick or wood."""
    base = np.array(
        [
            [0.62, 0.52, 0.42],
            [0.55, 0.32, 0.25],
            [0.72, 0.68, 0.6],
            [0.5, 0.48, 0.46],
            [0.42, 0.3, 0.2],
            [0.78, 0.7, 0.52],
        ]
    )
    return np.clip(
        base[rng.integers(len(base))] * rng.uniform(0.7, 1.2) * (1 + 0.12 * rng.uniform(-1, 1, 3)), 0.05, 0.95
    )


def ramp(t: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Colours (..., 3) between `a` (t = 0) and `b` (t = 1)."""
    return a + (b - a) * t[..., None]


def grid(rows: int, columns: int, gap: float, stagger: float) -> tuple[np.ndarray, np.ndarray]:
    """A wall of rows × columns bricks: per texel the number of its brick, and 0 in the joints rising to 1 inside.

    `gap` is half the width of a joint, in brick heights; `stagger` shifts every other row, in brick widths.
    """
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    row = np.floor(y * rows).astype(int)
    u = x * columns + stagger * (row % 2)
    column = np.floor(u).astype(int) % columns
    fy, fx = y * rows - row, u - np.floor(u)
    edge = np.minimum(np.minimum(fy, 1 - fy), np.minimum(fx, 1 - fx) * rows / columns)
    return row * columns + column, np.clip((edge - gap) / 0.06, 0, 1)


def masonry(rng: Rng, rows: int, columns: int, gap: float, stagger: float, base: np.ndarray, spread: float) -> Pattern:
    """Bricks around the colour `base` (3,), whose tones differ by `spread`, with mortar between them."""
    ids, inside = grid(rows, columns, gap, stagger)
    tone = 1 + spread * rng.uniform(-1, 1, (rows * columns, 1)) + 0.4 * spread * rng.uniform(-1, 1, (rows * columns, 3))
    grain = noise(rng, 1.2)
    stone = base * tone[ids] * (0.75 + 0.5 * grain[..., None])
    mortar = np.clip(base.mean() * rng.uniform(0.6, 1.5), 0, 0.9) * (0.8 + 0.4 * noise(rng, 0.8))[..., None]
    lift = rng.uniform(0, 0.3, rows * columns)[ids]
    return stone * inside[..., None] + mortar * (1 - inside[..., None]), inside * (0.6 + lift) * (0.85 + 0.3 * grain)


def brick(rng: Rng) -> Pattern:
    rows = 2 * int(rng.integers(5, 10))
    return masonry(rng, rows, rows // 2, 0.05, 0.5, earthy(rng), rng.uniform(0.05, 0.3))


def ashlar(rng: Rng) -> Pattern:
    rows = 2 * int(rng.integers(2, 4))
    return masonry(
        rng,
        rows,
        int(rng.integers(2, 5)),
        rng.uniform(0.02, 0.06),
        rng.choice([0.5, 0.33]),
        earthy(rng),
        rng.uniform(0.03, 0.15),
    )


def tiles(rng: Rng) -> Pattern:
    n = int(rng.integers(2, 9))
    return masonry(rng, n, n, rng.uniform(0.01, 0.04), 0.0, color(rng), rng.uniform(0.0, 0.2))


def checker(rng: Rng) -> Pattern:
    n = 2 * int(rng.integers(1, 6))
    y, x = np.mgrid[0:SIZE, 0:SIZE] * n // SIZE
    odd = ((x + y) % 2).astype(float)
    return ramp(odd, color(rng), color(rng)) * (0.85 + 0.3 * noise(rng, 1.0))[..., None], 0.5 + 0.1 * odd


def stripes(rng: Rng) -> Pattern:
    t = np.arange(SIZE) / SIZE
    knots = np.sort(rng.uniform(0, 1, int(rng.integers(4, 24))))
    palette = np.stack([color(rng, 0.5) for _ in range(4)])
    line = palette[np.searchsorted(knots, t) % 4 if len(knots) % 4 else np.searchsorted(knots, t) % 3]
    rgb = np.broadcast_to(line[None], (SIZE, SIZE, 3)) * (0.85 + 0.3 * noise(rng, 0.6)[..., None])
    return rgb, rgb.mean(-1)


def wood(rng: Rng) -> Pattern:
    y = np.arange(SIZE)[:, None] / SIZE
    base = np.array([0.55, 0.36, 0.2]) * rng.uniform(0.45, 1.5) * (1 + 0.15 * rng.uniform(-1, 1, 3))
    warp = noise(rng, 2.0, stretch=0.2)
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (int(rng.integers(3, 14)) * y + 2.5 * warp))
    fine = noise(rng, 0.7, stretch=0.08)
    rgb = base * (0.7 + 0.3 * grain + 0.35 * (fine - 0.5))[..., None]
    planks = int(rng.choice([0, 3, 4, 6]))
    height = 0.7 + 0.1 * fine
    if planks:
        ids, inside = grid(planks, 1, 0.01, 0.5)
        rgb = rgb * (1 + 0.2 * rng.uniform(-1, 1, (planks, 1)))[ids] * (0.35 + 0.65 * inside[..., None])
        height = height * inside
    return rgb, height


def plaster(rng: Rng) -> Pattern:
    """Nearly uniform, as many real surfaces are."""
    n = noise(rng, rng.uniform(0.6, 2.0))
    return color(rng, 0.12, 0.4, 0.95) * (1 + rng.uniform(0.03, 0.2) * (n - 0.5))[..., None], n


def stone(rng: Rng) -> Pattern:
    a, b = noise(rng, rng.uniform(1.0, 1.8)), noise(rng, 0.7)
    t = np.clip(0.7 * a + 0.3 * b, 0, 1)
    return ramp(t, earthy(rng) * 0.6, earthy(rng)), t


def marble(rng: Rng) -> Pattern:
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    fold = int(rng.integers(1, 5)) * x + int(rng.integers(0, 4)) * y + rng.uniform(1, 5) * noise(rng, 1.8)
    t = np.abs(np.sin(np.pi * fold)) ** rng.uniform(0.3, 1.0)
    return ramp(t, color(rng), color(rng, 0.15, 0.6, 0.95)), t


def grass(rng: Rng) -> Pattern:
    a, b = noise(rng, 0.5), noise(rng, 1.7)
    green = np.array([0.36, 0.45, 0.18]) * rng.uniform(0.6, 1.2) * (1 + 0.2 * rng.uniform(-1, 1, 3))
    return ramp(b, green, np.array([0.5, 0.45, 0.25]) * rng.uniform(0.6, 1.1)) * (0.4 + 1.1 * a)[
        ..., None
    ], 0.6 * a + 0.4 * b


def gravel(rng: Rng) -> Pattern:
    """Cobbles and gravel: the cells of random points (Worley 1996)."""
    n = int(rng.choice([60, 150, 500]))
    points = rng.uniform(0, SIZE, (n, 2))
    tiled = (points[:, None] + SIZE * np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])[None]).reshape(-1, 2)
    seeds = np.full((3 * SIZE, 3 * SIZE), 255, np.uint8)
    at = np.clip(tiled.astype(int) + SIZE, 0, 3 * SIZE - 1)
    seeds[at[:, 0], at[:, 1]] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    d = distance[SIZE : 2 * SIZE, SIZE : 2 * SIZE] / (SIZE / np.sqrt(n))
    tone = rng.uniform(0.6, 1.3, (label.max() + 1, 1))[label[SIZE : 2 * SIZE, SIZE : 2 * SIZE]]
    height = np.clip(1.1 - 1.3 * d, 0, 1)
    return earthy(rng) * tone * (0.35 + 0.65 * height * (0.7 + 0.6 * noise(rng, 0.9)))[..., None], height


def fabric(rng: Rng) -> Pattern:
    n = int(rng.choice([8, 16, 32, 64]))
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    weave = 0.5 + 0.25 * (np.sin(2 * np.pi * n * x) + np.sin(2 * np.pi * n * y))
    cloth = (
        ramp(np.round(noise(rng, 2.2) * 3) / 3, color(rng, 0.5), color(rng, 0.5))
        if rng.random() < 0.4
        else color(rng, 0.5)
    )
    return cloth * (0.6 + 0.5 * weave + 0.2 * (noise(rng, 0.5) - 0.5))[..., None], weave


def carpet(rng: Rng) -> Pattern:
    """An ornament: mirrored noise, quantised to a palette."""
    half = cv2.resize(noise(rng, 1.3)[:64, :64], (128, 128))
    quarter = half + half.T
    ornament = np.block([[quarter, quarter[:, ::-1]], [quarter[::-1], quarter[::-1, ::-1]]])
    levels = np.digitize(ornament, np.quantile(ornament, [0.3, 0.5, 0.65, 0.8]))
    palette = np.stack([color(rng, 0.6, 0.15, 0.8) for _ in range(5)])
    return palette[levels] * (0.75 + 0.5 * noise(rng, 0.4))[..., None], levels / 4


def _picture(rng: Rng) -> np.ndarray:
    return (np.clip(color(rng, 0.7) * (0.6 + 0.8 * noise(rng, 1.7))[..., None], 0, 1) * 255).astype(np.uint8)


def glyphs(rng: Rng) -> Pattern:
    """Lines of writing, as on posters, pages and signs."""
    paper, ink = (color(rng, 0.2, 0.7, 0.98), color(rng, 0.6, 0.02, 0.4))
    if rng.random() < 0.3:
        paper, ink = ink, paper
    page = np.empty((SIZE, SIZE, 3), np.uint8)
    page[:] = 255 * paper
    scale, y = rng.uniform(0.3, 1.4), 10
    alphabet = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789    "))
    while y < SIZE - 8:
        if rng.random() < 0.2:
            h = int(rng.integers(20, 80))
            page[y : min(y + h, SIZE - 10), 12 : SIZE - 12] = _picture(rng)[: min(y + h, SIZE - 10) - y, 12 : SIZE - 12]
            y += h + 8
            continue
        s = scale * rng.choice([1.0, 1.0, 1.8])
        y += int(22 * s) + 4
        line, font = "".join(rng.choice(alphabet, 40)), int(rng.integers(0, 5))
        cv2.putText(page, line, (10, y), font, s * 0.6, tuple(255 * ink), max(1, int(s * 1.6)), cv2.LINE_AA)
    return page / 255.0, np.full((SIZE, SIZE), 0.5)


def screen(rng: Rng) -> Pattern:
    """What a monitor shows: windows, lines, icons."""
    page = np.empty((SIZE, SIZE, 3))
    page[:] = ramp(noise(rng, 2.5), color(rng, 0.6, 0.1), color(rng, 0.6))
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.integers(0, 160, 2)
        w, h = rng.integers(50, 140, 2)
        cv2.rectangle(page, (int(x), int(y)), (int(x + w), int(y + h)), tuple(color(rng, 0.1, 0.1, 1.0)), -1)
        cv2.rectangle(page, (int(x), int(y)), (int(x + w), int(y + 10)), tuple(color(rng, 0.5)), -1)
        ink = tuple(color(rng, 0.8))
        for k in range(y + 16, y + h - 4, 7):
            cv2.line(page, (int(x + 5), int(k)), (int(x + 5 + (w - 10) * rng.uniform(0.1, 0.95)), int(k)), ink, 2)
    return page, np.full((SIZE, SIZE), 0.5)


def books(rng: Rng) -> Pattern:
    """A row of spines."""
    rgb, height, x = np.zeros((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE)), 0
    while x < SIZE:
        w = int(rng.integers(8, 30))
        top, tone = int(rng.integers(0, 40)), color(rng, 0.8, 0.1, 0.9)
        rgb[top:, x : x + w] = tone
        for _ in range(int(rng.integers(0, 4))):
            y = int(rng.integers(top, 240))
            rgb[y : y + int(rng.integers(2, 26)), x + 1 : x + w - 1] = color(rng, 0.6, 0.1, 0.95)
        height[top:, x : x + w] = np.sin(np.linspace(0.3, np.pi - 0.3, w))[: SIZE - x]
        x += w
    return rgb * (0.8 + 0.4 * noise(rng, 1.0))[..., None], height


def leaves(rng: Rng) -> Pattern:
    rgb, height = np.empty((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE))
    rgb[:] = np.array([0.08, 0.12, 0.05])
    green = np.array([0.3, 0.45, 0.15]) * rng.uniform(0.6, 1.3)
    for k in range(500):
        x, y = rng.integers(0, SIZE, 2)
        axes = (int(rng.integers(4, 14)), int(rng.integers(2, 6)))
        tone = tuple(np.clip(green * rng.uniform(0.4, 1.6) * (1 + 0.2 * rng.uniform(-1, 1, 3)), 0, 1))
        cv2.ellipse(rgb, (int(x), int(y)), axes, float(rng.uniform(0, 360)), 0, 360, tone, -1, cv2.LINE_AA)
        cv2.ellipse(height, (int(x), int(y)), axes, 0.0, 0, 360, 0.2 + 0.8 * k / 500, -1)
    return rgb, height


def corrugated(rng: Rng) -> Pattern:
    n = int(rng.choice([6, 10, 16]))
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * n * np.arange(SIZE) / SIZE)
    height = np.broadcast_to(wave[:, None], (SIZE, SIZE))
    return color(rng, 0.4) * (0.55 + 0.45 * height * (0.8 + 0.4 * noise(rng, 1.2)))[..., None], height


def metal(rng: Rng) -> Pattern:
    n = noise(rng, 0.6, stretch=0.03)
    rust = np.clip((noise(rng, 1.5) - rng.uniform(0.45, 0.7)) * 6, 0, 1)
    return ramp(rust, color(rng, 0.1, 0.4, 0.7) * 1.0, np.array([0.45, 0.26, 0.14])) * (0.8 + 0.4 * n)[
        ..., None
    ], 0.5 + 0.2 * n + 0.2 * rust


def leather(rng: Rng) -> Pattern:
    n = noise(rng, 0.2, low=12)
    return color(rng, 0.5, 0.1, 0.6) * (0.7 + 0.5 * n)[..., None], n


def clouds(rng: Rng) -> Pattern:
    n = noise(rng, rng.uniform(1.6, 2.0))
    return np.repeat(n[..., None], 3, 2), n


PATTERNS: dict[str, Callable[[Rng], Pattern]] = {
    "brick": brick, "ashlar": ashlar, "tiles": tiles, "checker": checker, "stripes": stripes, "wood": wood,
    "plaster": plaster,
    "stone": stone, "marble": marble, "grass": grass, "gravel": gravel, "fabric": fabric, "carpet": carpet,
    "glyphs": glyphs,
    "screen": screen, "books": books, "leaves": leaves, "corrugated": corrugated, "metal": metal, "leather": leather,
    "clouds": clouds,
}  # fmt: skip
