"""Random materials: texture, scale, gloss. A look is a function from half extents to a `scene.material()` row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.scene import UV, material
from lite3r_cli.data.procedural.textures import PHOTO, Catalog

Look = Callable[..., list[float]]

WALLS = ("plaster", "plaster", "plaster", "brick", "stone", "tiles", "panels", "wood", "stripes")
FLOORS = ("wood", "wood", "tiles", "carpet", "fabric", "checker", "marble", "stone", "plaster")
GROUNDS = ("grass", "gravel", "stone", "tiles", "gravel", "plaster", "ashlar", "hills")
MASONRY = ("brick", "ashlar", "stone", "plaster", "ashlar", "brick")
CARVED = ("stone", "marble", "plaster", "ashlar", "rubble")
FURNITURE = ("wood", "wood", "plaster", "metal", "leather", "fabric", "wood")
SOFT = ("fabric", "leather", "fabric", "carpet")
THINGS = (
    "plaster", "glyphs", "stripes", "checker", "fabric", "marble", "metal", "wood", "leather", "stone", "books",
    "carpet", "tiles", "leaves",
)  # fmt: skip
BUMPY = frozenset(
    {
        "brick",
        "ashlar",
        "stone",
        "rubble",
        "gravel",
        "leather",
        "fabric",
        "ornament",
        "panels",
        "corrugated",
        "tiles",
        "grass",
    }
)


@dataclass
class Looks:
    """Draws random looks from the textures of `catalog`.

    `photos` is the share of surfaces with a photographed texture (if the catalogue has any), `clouds` the share with a
    second, blotchy texture on top.
    """

    draw: Draw
    catalog: Catalog
    photos: float = 0.3
    clouds: float = 0.5

    def texture(self, categories: tuple[str, ...], photos: float | None = None) -> tuple[str, int]:
        """A random texture: its category (one of `categories`, or PHOTO) and its number in the atlas."""
        d = self.draw
        share = self.photos if photos is None else photos
        if self.catalog.has_photos and d.chance(share):
            name = PHOTO
        else:
            name = d.choice(categories)
        group = self.catalog.groups[name]
        return name, group.start + d.integer(0, len(group))

    def look(
        self,
        categories: tuple[str, ...],
        metres: tuple[float, float] = (0.4, 3.0),
        *,
        photos: float | None = None,
        shine: float = 0.3,
        plain: float = 0.12,
    ) -> Look:
        """A random look. `metres` bounds the size of one texture repeat, so that one look fits several primitives;
        `shine` is the chance of a glossy surface, `plain` that of a painted one with hardly any texture."""
        d = self.draw
        name, texture = self.texture(categories, photos)
        size = d.log_uniform(*metres)
        tint = d.color(0.75, 1.15, 0.12) if d.chance(0.7) else (1.0, 1.0, 1.0)
        strength = 1.0 if d.chance(0.75) else d.uniform(0.2, 0.9)
        blank = name != PHOTO and d.chance(plain)
        options: dict[str, Any] = {
            "flat": d.color(0.3, 0.9, 0.25), "strength": d.uniform(0.0, 0.15) if blank else strength, "tint": tint,
            "mirror": name == PHOTO, "offset": (d.unit(), d.unit()), "shift_faces": True,
            "angle": 0.0 if d.chance(0.75) else d.choice((math.pi / 2, d.uniform(0, 6.28))),
            "bump": size * d.uniform(0.005, 0.035) if name in BUMPY and not blank else 0.0,
        }  # fmt: skip
        if d.chance(self.clouds * (0.5 if blank else 1.0)):
            clouds = self.catalog.groups["clouds" if d.chance(0.6) else "stone"]
            options |= {
                "detail": clouds.start + d.integer(0, len(clouds)), "detail_rate": d.log_uniform(0.15, 6.0),
                "detail_weight": d.uniform(0.1, 0.5),
            }  # fmt: skip
        if d.chance(shine):
            options |= {"specular": d.log_uniform(0.05, 0.8), "shininess": d.log_uniform(6, 150)}
            if d.chance(0.4):
                options["reflect"] = d.uniform(0.2, 1.0)

        def row(half, mode: UV = UV.BOX, **more) -> list[float]:
            if mode == UV.CYLINDER:
                around = max(1, round(2 * math.pi * half[0] / size))
                scale = (around, half[1] / size, half[2] / size)
            elif mode in (UV.FRONT, UV.TOP) and more.pop("fit", False):
                scale = (0.5, 0.5, 0.5)
                more |= {"offset": (0.5, 0.5), "angle": 0.0}
            else:
                scale = (half[0] / size, half[1] / size, half[2] / size)
            return material(texture, scale, mode=mode, **(options | more))

        return row

    def picture(
        self, categories: tuple[str, ...] = ("glyphs", "carpet", "hills", "marble"), photos: float = 0.7, **more
    ) -> Look:
        """A look that stretches one texture over the front (+z): poster, painting, screen, door, window."""
        texture = self.texture(categories, photos)[1]

        def row(half) -> list[float]:
            return material(texture, (0.5, 0.5, 0.5), mode=UV.FRONT, offset=(0.5, 0.5), **({"specular": 0.1} | more))

        return row
