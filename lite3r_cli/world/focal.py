"""Known focal lengths: from EXIF, checked for zoom and crop, and from options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UsageError
from ..io.exif import PhotoMetadata
from ..scene.priors import FocalPrior
from .sensors import sensor_size

FULL_DIAGONAL = 43.2666  # mm, of 36 × 24
_PLAUSIBLE = (0.2, 20.0)  # focal length in longer image sides: 136° to 3°
_SENSOR_WIDTHS = (2.5, 60.0)  # plausible widths of a focal plane, in mm
_AGREE = 0.08  # relative difference up to which two estimates of a focal length agree
_SAME_ASPECT = 0.015
_NATIVE = (4 / 3, 3 / 2)  # aspect ratios of sensors
# relative standard deviations: focal lengths are sold rounded, and are shorter at close focus
_SIGMA_SENSOR, _SIGMA_35MM, _SIGMA_CROPPED = 0.015, 0.025, 0.05


@dataclass(frozen=True)
class FocalAnswer:
    """A focal length in pixels of the stored picture, or the reason why there is none."""

    pixels: float | None
    sigma: float
    reason: str

    def prior(self) -> FocalPrior | None:
        if self.pixels is None:
            return None
        return FocalPrior(self.pixels, self.pixels, self.sigma, f"EXIF: {self.reason}")


class _Measured(NamedTuple):
    """One estimate of a focal length."""

    pixels: float  # of the stored picture
    sigma: float  # relative standard deviation
    reason: str


def _no(reason: str) -> FocalAnswer:
    return FocalAnswer(None, 0.0, reason)


def focal_from_metadata(photo: PhotoMetadata) -> FocalAnswer:
    """The focal length in pixels of the stored picture (rotation does not change it).

    Two estimates: millimetres × pixels per millimetre on the sensor (from EXIF, else from the table of sensors), times
    digital zoom; and the 35 mm equivalent, which refers to the diagonal (CIPA DCG-001) of the uncropped picture and
    includes digital zoom or not, depending on the maker. If both exist, they must agree to `_AGREE`.
    """
    if photo.width is None or photo.height is None:
        return _no("no EXIF")
    if photo.panorama:
        return _no(f"a panorama ({photo.panorama})")
    size = photo.width, photo.height
    scale = _scale_since_taken(photo, size)
    if scale is None:
        taken, now = f"{photo.exif_width}x{photo.exif_height}", f"{photo.width}x{photo.height}"
        return _no(f"cropped since it was taken ({taken} → {now})")
    sensor, film = _from_sensor(photo, size, scale), _from_35mm(photo, size, scale)
    if sensor and film and abs(sensor.pixels / film.pixels - 1) > _AGREE:
        return _no(f"its entries contradict each other: {sensor.pixels:.0f} px ({sensor.reason}), "
                   f"{film.pixels:.0f} px ({film.reason})")  # fmt: skip
    zoom = photo.digital_zoom or 1
    if film and not sensor and zoom > 1.02:
        return _no(f"digital zoom {zoom:g}: whether the 35 mm equivalent counts it in is not said")
    answer = sensor or film
    if answer is None:
        return _no("no focal length in EXIF, or a sensor of unknown size")
    side = max(size)
    if not _PLAUSIBLE[0] < answer.pixels / side < _PLAUSIBLE[1]:
        return _no(f"{answer.pixels:.0f} px is no focal length of an image of {side} pixels")
    return FocalAnswer(*answer)


def _scale_since_taken(photo: PhotoMetadata, size: tuple[int, int]) -> float | None:
    """The factor by which the picture was resized since it was taken; 1 for a crop; None if unknown."""
    if not photo.exif_width or not photo.exif_height:
        return 1.0
    taken = photo.exif_width, photo.exif_height
    long, short, taken_long, taken_short = max(size), min(size), max(taken), min(taken)
    if abs((long / short) / (taken_long / taken_short) - 1) <= _SAME_ASPECT:
        return long / taken_long
    kept_a_side = set(size) & set(taken)
    return 1.0 if kept_a_side and long <= taken_long and short <= taken_short else None


def _from_sensor(photo: PhotoMetadata, now: tuple[int, int], scale: float) -> _Measured | None:
    if not photo.focal_mm:
        return None
    taken, tall = _size_when_taken(photo, now)
    zoom = max(photo.digital_zoom or 1, 1)
    note = f", digital zoom {zoom:g}" if zoom > 1.02 else ""
    size = sensor_size(photo.make, photo.model)
    density = photo.pixels_per_mm
    if density and _SENSOR_WIDTHS[0] < taken / density < _SENSOR_WIDTHS[1]:
        width = taken / density
        if size is None or abs(width / size[0] - 1) < _AGREE:  # some cameras write the density of another picture size
            pixels = photo.focal_mm * density * scale * zoom
            return _Measured(pixels, _SIGMA_SENSOR, f"{photo.focal_mm:g} mm, sensor {width:.1f} mm wide{note}")
    if size is None:
        return None
    native = size[0] / size[1]
    per_mm = taken / size[0] if taken / tall >= native * (1 - _SAME_ASPECT) else tall / size[1]
    pixels = photo.focal_mm * per_mm * scale * zoom
    model = photo.model or photo.make
    return _Measured(pixels, _SIGMA_SENSOR, f"{photo.focal_mm:g} mm, sensor of {model} {size[0]:g} mm wide{note}")


def _from_35mm(photo: PhotoMetadata, now: tuple[int, int], scale: float) -> _Measured | None:
    if not photo.focal_35mm:
        return None
    crop = photo.focal_35mm / photo.focal_mm if photo.focal_mm else 7.0
    diagonal, exact = _uncropped_diagonal(*_size_when_taken(photo, now), crop)
    rounding = 0.29 / photo.focal_35mm if photo.focal_35mm == round(photo.focal_35mm) else 0.0
    sigma = max(_SIGMA_35MM if exact else _SIGMA_CROPPED, rounding)
    pixels = photo.focal_35mm / FULL_DIAGONAL * diagonal * scale
    return _Measured(pixels, sigma, f"{photo.focal_35mm:g} mm (35 mm equivalent)")


def _size_when_taken(photo: PhotoMetadata, now: tuple[int, int]) -> tuple[int, int]:
    """The longer and the shorter side in pixels: from EXIF, else those of the stored picture."""
    sides = photo.exif_width or now[0], photo.exif_height or now[1]
    return max(sides), min(sides)


def _uncropped_diagonal(long: int, short: int, crop: float) -> tuple[float, bool]:
    """The diagonal in pixels of the whole sensor, and whether the picture shows all of it.

    A picture whose aspect ratio is not that of a sensor was cropped in the camera: 16:9 keeps the longer side, 1:1 the
    shorter one. `crop` is the 35 mm equivalent over the focal length: how much smaller than 36 × 24 mm the sensor is.
    """
    aspect = long / short
    native = min(_NATIVE, key=lambda a: abs(aspect / a - 1))
    if abs(aspect / native - 1) <= 2 * _SAME_ASPECT:
        return (long**2 + short**2) ** 0.5, True
    native = 3 / 2 if crop < 1.7 else 4 / 3  # large sensors are 3:2, those of phones and compact cameras 4:3
    return (long * (1 + native**-2) ** 0.5, False) if aspect > native else (short * (1 + native**2) ** 0.5, False)


# --- options ---------------------------------------------------------------------------------------------------------

_FOCAL = re.compile(r"(\d+(?:\.\d+)?)\s*(px|mm|mm-eq)?", re.IGNORECASE)


@dataclass(frozen=True)
class StatedFocal:
    """`--focal`: a number of pixels, millimetres of the lens, or millimetres of the 35 mm equivalent."""

    value: float
    unit: str  # "px", "mm" or "mm-eq"

    @classmethod
    def parse(cls, text: str) -> StatedFocal:
        """Raises UsageError unless `text` is like 2905, 2905px, 24mm or 26mm-eq."""
        match = _FOCAL.fullmatch(text.strip())
        if match is None or not float(match[1]) > 0:
            raise UsageError(
                f"--focal {text}: give pixels of the original image (2905), the lens's millimetres (24mm), the 35 mm "
                "equivalent (26mm-eq), auto (from EXIF) or network"
            )
        return cls(float(match[1]), (match[2] or "px").lower())

    def prior(self, photo: PhotoMetadata, name: str, size: tuple[int, int]) -> FocalPrior:
        """The focal length of one picture of `size` (width, height). Raises UsageError for an unknown sensor."""
        if self.unit == "px":
            return FocalPrior(self.value, self.value, _SIGMA_SENSOR, "--focal")
        if self.unit == "mm-eq":
            pixels = self.value / FULL_DIAGONAL * (size[0] ** 2 + size[1] ** 2) ** 0.5
            return FocalPrior(pixels, pixels, _SIGMA_35MM, "--focal")
        known = PhotoMetadata(
            make=photo.make, model=photo.model, width=size[0], height=size[1], focal_mm=self.value,
            pixels_per_mm=photo.pixels_per_mm, exif_width=photo.exif_width, exif_height=photo.exif_height,
        )  # fmt: skip
        scale = _scale_since_taken(known, size)
        answer = None if scale is None else _from_sensor(known, size, scale)
        if answer is None:
            raise UsageError(
                f"--focal {self.value:g}mm: the sensor of {name} is not known; give the focal length in pixels, or the "
                f"35 mm equivalent as --focal {self.value:g}mm-eq"
            )
        return FocalPrior(answer.pixels, answer.pixels, answer.sigma, f"--focal: {answer.reason}")


def require_one_size(focal: StatedFocal, sizes: Sequence[tuple[int, int]]) -> None:
    """Raises UsageError if a number of pixels is given for pictures of different sizes."""
    distinct = {tuple(sorted(size)) for size in sizes}
    if focal.unit == "px" and len(distinct) > 1:
        some = ", ".join(f"{max(s)}x{min(s)}" for s in sorted(distinct)[:3])
        raise UsageError(
            f"--focal {focal.value:g}: the images have different sizes ({some}), so pixels mean different lenses; "
            "give millimetres, or --intrinsics FILE with a camera for each"
        )
