"""Light and sky for indoor and outdoor scenes."""

from __future__ import annotations

import math

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.scene import Light, environment
from lite3r_cli.data.procedural.textures import Catalog


def warm(d: Draw, strength: float) -> tuple[float, float, float]:
    """A lamp or sun colour from bluish to orange, with red equal to `strength`."""
    k = d.uniform(-0.12, 0.35)
    return (strength, strength * (1 - 0.35 * k), strength * (1 - 0.8 * k))


def indoor(
    d: Draw, low: np.ndarray, high: np.ndarray, catalog: Catalog, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Environment row of a room [low, high]: one to three lamps near the ceiling, and ambient light.

    With a `window`, given by its outward direction (x, z), the sun often shines through it.
    """
    lights: list[Light] = []
    for _ in range(d.integer(1, 4)):
        at = [low[i] + (high[i] - low[i]) * d.uniform(0.12, 0.88) for i in range(3)]
        at[1] = low[1] + (high[1] - low[1]) * d.uniform(0.7, 0.96)
        radius = d.uniform(0.02, 0.25) if d.chance(0.5) else 0.0
        lights.append(
            Light(
                tuple(at),
                warm(d, d.log_uniform(0.5, 2.0)),
                radius=radius,
                shadow=len(lights) < 2,
                reach=d.uniform(1.5, 6.0),
            )
        )
    if window is not None and d.chance(0.75):
        azimuth = math.atan2(*window) + d.uniform(-0.8, 0.8)
        lights = [_sun(d, d.log_uniform(1.5, 7.0), azimuth, d.uniform(0.2, 0.9)), *lights[: d.integer(1, 3)]]
    elif window is None and d.chance(0.2):
        lights.insert(0, _sun(d, d.uniform(0.7, 2.0)))
    bounce = d.log_uniform(0.08, 0.8)  # the lower, the stronger are the gradients on walls, and shadows
    up = d.color(bounce * 0.8, bounce * 1.2, 0.15)
    down = tuple(0.6 * c * d.uniform(0.8, 1.2) for c in up)
    return environment(lights, ambient_up=up, ambient_down=down, key=d.uniform(0.34, 0.62), **_sky(d, catalog))


def _sun(d: Draw, strength: float, azimuth: float | None = None, elevation: float | None = None) -> Light:
    azimuth = d.uniform(0, 2 * math.pi) if azimuth is None else azimuth
    elevation = d.uniform(0.35, 1.35) if elevation is None else elevation
    to = (math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth))
    return Light(to, warm(d, strength), point=False, radius=d.uniform(0.004, 0.03) if d.chance(0.6) else 0.0)


def _sky(d: Draw, catalog: Catalog) -> dict:
    clouds = catalog.groups["clouds"]
    overcast = d.chance(0.3)
    brightness = d.uniform(0.5, 1.3)
    grey = d.uniform(0.6, 0.9)
    zenith = (
        (grey, grey, grey * 1.03) if overcast else (d.uniform(0.1, 0.3), d.uniform(0.25, 0.45), d.uniform(0.6, 0.9))
    )
    horizon = (d.uniform(0.7, 0.95), d.uniform(0.75, 0.95), d.uniform(0.8, 1.0))
    return {
        "zenith": tuple(brightness * c for c in zenith), "horizon": tuple(brightness * c for c in horizon),
        "haze": d.color(0.15, 0.5, 0.15), "cloud": clouds.start + d.integer(0, len(clouds)),
        "cloud_weight": 0.0 if overcast else d.uniform(0.2, 1.0), "cloud_scale": d.log_uniform(0.08, 0.4),
        "cloud_offset": (d.unit(), d.unit()),
    }  # fmt: skip


def outdoor(d: Draw, catalog: Catalog, scale: float, facing: float | None = None) -> np.ndarray:
    """Environment row of an outdoor scene of about `scale` metres: sun or overcast sky, bluish shade, some haze.

    With `facing`, the azimuth of a front (radians from +z to +x), the sun often shines on that front.
    """
    sky = _sky(d, catalog)
    sunny = d.chance(0.65)
    azimuth = facing + d.uniform(-1.3, 1.3) if facing is not None and d.chance(0.6) else None
    lights = [_sun(d, d.uniform(1.2, 3.0) if sunny else d.uniform(0.1, 0.5), azimuth)]
    if d.chance(0.3):
        to = (d.uniform(-1, 1), d.uniform(0.3, 1), d.uniform(-1, 1))
        lights.append(Light(to, d.color(0.1, 0.4, 0.2), point=False, shadow=False))
    base = d.uniform(0.25, 0.6) if sunny else d.uniform(0.7, 1.1)
    up = (base * d.uniform(0.85, 1.0), base * d.uniform(0.92, 1.02), base * d.uniform(1.0, 1.2))
    down = tuple(base * d.uniform(0.3, 0.6) for _ in range(3))
    fog = d.log_uniform(0.01, 0.25) / scale if d.chance(0.4) else 0.0
    return environment(
        lights,
        ambient_up=up,
        ambient_down=down,
        fog=fog,
        fog_color=sky["horizon"],
        key=d.uniform(0.36, 0.6),
        shadow_bias=2e-4 * scale,
        **sky,
    )
