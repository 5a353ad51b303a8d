"""WGS84: latitude, longitude and height into a local frame with +x east, +y north, +z up, in metres, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_A = 6378137.0  # semi-major axis of the ellipsoid, metres
_E2 = 6.69437999014e-3  # its first eccentricity squared
_ROUNDS = 8  # of the fixed-point iteration for the latitude; each gains at least two digits


def earth_centred(places: np.ndarray) -> np.ndarray:
    """(…, 3) latitude and longitude in degrees and height in metres → earth-centred, earth-fixed metres (…, 3)."""
    latitude, longitude = np.radians(places[..., 0]), np.radians(places[..., 1])
    height = places[..., 2]
    radius = _A / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
    across = (radius + height) * np.cos(latitude)
    up = (radius * (1 - _E2) + height) * np.sin(latitude)
    return np.stack([across * np.cos(longitude), across * np.sin(longitude), up], axis=-1)


@dataclass(frozen=True)
class LocalFrame:
    """East, north and up at a place."""

    latitude: float  # degrees
    longitude: float  # degrees
    height: float  # metres

    @classmethod
    def around(cls, places: np.ndarray) -> LocalFrame:
        """At the median of places (N, 3), rounded to 1e-5 degrees (a metre) and whole metres."""
        latitude, longitude, height = np.median(places, axis=0)
        past = places[:, 1] % 360  # the same longitudes without a jump at the 180th meridian
        middle = np.median(past)
        if np.median(abs(past - middle)) < np.median(abs(places[:, 1] - longitude)):
            longitude = middle if middle <= 180 else middle - 360
        return cls(round(float(latitude), 5), round(float(longitude), 5), float(round(float(height))))

    @property
    def origin(self) -> np.ndarray:
        """(3,) latitude, longitude, height."""
        return np.array([self.latitude, self.longitude, self.height])

    @property
    def axes(self) -> np.ndarray:
        """(3, 3): rows east, north and up, in the earth-centred frame."""
        (sin_a, sin_o), (cos_a, cos_o) = (f(np.radians([self.latitude, self.longitude])) for f in (np.sin, np.cos))
        return np.array(
            [[-sin_o, cos_o, 0.0], [-sin_a * cos_o, -sin_a * sin_o, cos_a], [cos_a * cos_o, cos_a * sin_o, sin_a]]
        )

    def local(self, places: np.ndarray) -> np.ndarray:
        """(…, 3) latitude, longitude, height → metres east, north and up of the origin."""
        return (earth_centred(np.asarray(places, np.float64)) - earth_centred(self.origin)) @ self.axes.T

    def places(self, local: np.ndarray) -> np.ndarray:
        """The inverse of `local`."""
        x, y, z = np.moveaxis(np.asarray(local, np.float64) @ self.axes + earth_centred(self.origin), -1, 0)
        across = np.hypot(x, y)
        latitude = np.arctan2(z, across * (1 - _E2))
        for _ in range(_ROUNDS):
            radius = _A / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
            latitude = np.arctan2(z + _E2 * radius * np.sin(latitude), across)
        radius = _A / np.sqrt(1 - _E2 * np.sin(latitude) ** 2)
        height = across * np.cos(latitude) + z * np.sin(latitude) - radius * (1 - _E2 * np.sin(latitude) ** 2)
        return np.stack([np.degrees(latitude), np.degrees(np.arctan2(y, x)), height], axis=-1)

    def as_dict(self) -> dict[str, float]:
        """The entry of geo.json."""
        return {"latitude": self.latitude, "longitude": self.longitude, "height": self.height}
