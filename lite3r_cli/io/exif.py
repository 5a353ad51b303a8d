"""Metadata of a photograph from EXIF and XMP, read by Pillow: lens, sensor, location and attitude.

Every entry is checked separately: a damaged, zero or implausible entry is None and does not affect the others.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .codecs import png
from .codecs.pillow_limit import no_limit
from .regular import open_regular
from .stamps import stamp_of

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_MAX_XMP = 1 << 20  # bytes; longer packets are ignored
_MILLIMETRES = {2: 25.4, 3: 10.0, 4: 1.0, 5: 1e-3}  # FocalPlaneResolutionUnit → mm (EXIF 2.32, tag A210)
_XMP_VALUE = r'(?:\s*=\s*["\']([^"\']{1,64})["\']|>([^<]{1,64})<)'  # an attribute or an element


@dataclass(frozen=True)
class Gps:
    """A place on WGS84; heights as written by the receiver (usually above sea level)."""

    latitude: float  # degrees, north positive
    longitude: float  # degrees, east positive
    altitude: float | None = None  # metres
    horizontal_error: float | None = None  # metres, the receiver's own estimate
    direction: float | None = None  # degrees clockwise from north, viewing direction of the camera


@dataclass(frozen=True)
class Attitude:
    """Attitude of a drone's camera in degrees: pitch 0 = horizontal, −90 = straight down; roll 0 = level, clockwise
    positive; yaw clockwise from north.
    """

    pitch: float
    roll: float
    yaw: float | None = None


@dataclass(frozen=True)
class PhotoMetadata:
    """Unknown fields are None. Sizes are those of the stored pixels, before the orientation is applied."""

    make: str | None = None
    model: str | None = None
    lens: str | None = None
    width: int | None = None  # of the file
    height: int | None = None
    orientation: int = 1  # 1…8
    focal_mm: float | None = None
    focal_35mm: float | None = None  # equivalent for 36 × 24 mm
    pixels_per_mm: float | None = None  # on the sensor, for an image of width exif_width
    exif_width: int | None = None  # original width in pixels: differs from `width` if the image was resized or cropped
    exif_height: int | None = None
    digital_zoom: float | None = None  # 1 = none
    gps: Gps | None = None
    relative_altitude: float | None = None  # metres above the take-off point (DJI)
    attitude: Attitude | None = None
    panorama: str | None = None  # GPano's ProjectionType, e.g. "equirectangular"
    taken: str | None = None  # "2026:11:27 10:30:00"

    @property
    def lens_key(self) -> str:
        """Camera, lens and focal length in one line, equal for images of one lens; "" if unknown."""
        said = (self.make, self.model, self.lens, self.focal_mm, self.digital_zoom)
        return "" if all(part is None for part in said) else "|".join("" if p is None else f"{p}" for p in said)


NOTHING = PhotoMetadata()


def read_metadata(source: Path | bytes) -> PhotoMetadata:
    """Metadata of an image file or of its bytes, without decoding pixels. Never raises: unreadable entries are None.

    A file that has not changed since is not read again: several steps of a run ask for the same thousands of files.
    """
    if isinstance(source, bytes):
        return _read(source)
    try:
        status = Path(source).stat()
    except (OSError, ValueError):
        return NOTHING
    return _remembered(Path(source), stamp_of(status))


@lru_cache(maxsize=4096)
def _remembered(path: Path, stamp: tuple[int, ...]) -> PhotoMetadata:
    return _read(path)


def _read(source: Path | bytes) -> PhotoMetadata:
    from PIL import Image

    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else open_regular(Path(source))
        with stream, warnings.catch_warnings(), no_limit():
            warnings.simplefilter("ignore")  # Pillow warns about damaged entries, which are None here
            head, size = stream.read(12), None
            if png.matches(head):
                reduced, size = png.without_pixels(stream, stream.seek(0, io.SEEK_END))
                stream = io.BytesIO(reduced)
            elif head[4:8] == b"ftyp":
                _register_heif()
            stream.seek(0)
            image = Image.open(stream)
            exif = image.getexif()
            tags = _Tags(exif, _directory(exif, _EXIF_IFD), _directory(exif, _GPS_IFD))
            return _collect(size or image.size, tags, _xmp(image, exif))
    except Exception:  # a hostile file can make Pillow raise anything; then the metadata is lost, not the image
        return NOTHING


def _register_heif() -> None:
    """Let Pillow open HEIC if pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _directory(exif: Any, tag: int) -> Any:
    try:
        return exif.get_ifd(tag)
    except Exception:  # a damaged directory; Pillow raises many types
        return {}


class _Tags:
    """Entries of the three directories, checked one by one."""

    def __init__(self, main: Any, exif: Any, gps: Any) -> None:
        self.main, self.exif, self.gps = main, exif, gps

    @staticmethod
    def value(directory: Any, tag: int) -> Any:
        try:
            return directory.get(tag)
        except Exception:  # a damaged entry; Pillow decodes on access
            return None

    def number(self, directory: Any, tag: int, low: float, high: float) -> float | None:
        """A finite number low < x <= high, else None."""
        value = self.value(directory, tag)
        return _number(value[0] if isinstance(value, tuple) and len(value) == 1 else value, low, high)

    def text(self, directory: Any, tag: int) -> str | None:
        value = self.value(directory, tag)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        if not isinstance(value, str):
            return None
        value = "".join(c for c in value.split("\0")[0] if c.isprintable()).strip()[:100]
        return value or None


def _number(value: Any, low: float, high: float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return number if math.isfinite(number) and low < number <= high else None


def _collect(size: tuple[int, int], tags: _Tags, xmp: str) -> PhotoMetadata:
    width, height = size
    unit = _MILLIMETRES.get(int(tags.number(tags.exif, 0xA210, 0, 9) or 2), 25.4)
    resolution = tags.number(tags.exif, 0xA20E, 0, 1e7)
    orientation = int(tags.number(tags.main, 0x0112, 0, 8) or 1)
    exif_width, exif_height = (tags.number(tags.exif, tag, 0, 1e6) for tag in (0xA002, 0xA003))
    return PhotoMetadata(
        make=tags.text(tags.main, 0x010F),
        model=tags.text(tags.main, 0x0110),
        lens=tags.text(tags.exif, 0xA434),
        width=width,
        height=height,
        orientation=orientation,
        focal_mm=tags.number(tags.exif, 0x920A, 0, 5000),
        focal_35mm=tags.number(tags.exif, 0xA405, 0, 10000),
        pixels_per_mm=None if resolution is None else resolution / unit,
        exif_width=None if exif_width is None else int(exif_width),
        exif_height=None if exif_height is None else int(exif_height),
        digital_zoom=tags.number(tags.exif, 0xA404, 0, 1000),
        gps=_gps(tags),
        relative_altitude=_xmp_number(xmp, "RelativeAltitude", -1e4, 1e5),
        attitude=_attitude(xmp),
        panorama=_xmp_text(xmp, "ProjectionType", "GPano"),
        taken=tags.text(tags.exif, 0x9003) or tags.text(tags.main, 0x0132),
    )


# --- GPS --------------------------------------------------------------------------------------------------------------


def _gps(tags: _Tags) -> Gps | None:
    latitude = _degrees(tags.value(tags.gps, 2), tags.text(tags.gps, 1), "S", 90)
    longitude = _degrees(tags.value(tags.gps, 4), tags.text(tags.gps, 3), "W", 180)
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):  # 0, 0 means no fix
        return None
    altitude = tags.number(tags.gps, 6, -1e5, 1e5)
    below = tags.value(tags.gps, 5) in (1, b"\x01", "\x01")
    if altitude is not None and below:
        altitude = -altitude
    true_north = tags.text(tags.gps, 16) in (None, "T")
    direction = tags.number(tags.gps, 17, -1e-9, 360) if true_north else None
    return Gps(latitude, longitude, altitude, tags.number(tags.gps, 31, 0, 1e5), direction)


def _degrees(value: Any, reference: str | None, negative: str, largest: float) -> float | None:
    """Degrees, minutes and seconds, or only degrees, as one signed number."""
    parts = value if isinstance(value, tuple) else (value,)
    numbers = [_number(part, -1e-12, 1e5) for part in parts[:3]]
    if numbers[0] is None or any(part is None for part in numbers[1:]):
        return None
    degrees = sum(part / 60**k for k, part in enumerate(numbers) if part is not None)
    if degrees > largest:
        return None
    return -degrees if reference is not None and reference.upper().startswith(negative) else degrees


# --- XMP --------------------------------------------------------------------------------------------------------------


def _xmp(image: Any, exif: Any) -> str:
    """The XMP packet as text, "" without one. It is searched by regular expressions, because hostile XML could fill the
    memory.
    """
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or _Tags.value(exif, 700) or b""
    if isinstance(packet, tuple):
        packet = bytes(packet)
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    return packet[:_MAX_XMP].decode("utf-8", "replace") if isinstance(packet, bytes) else ""


def _xmp_text(xmp: str, name: str, prefix: str = r"[\w-]+") -> str | None:
    match = re.search(rf"\b{prefix}:{name}{_XMP_VALUE}", xmp)
    return None if match is None else (match[1] or match[2]).strip()


def _xmp_number(xmp: str, name: str, low: float, high: float) -> float | None:
    return _number(_xmp_text(xmp, name, "drone-dji"), low, high)


def _attitude(xmp: str) -> Attitude | None:
    pitch = _xmp_number(xmp, "GimbalPitchDegree", -181, 181)
    roll = _xmp_number(xmp, "GimbalRollDegree", -181, 181)
    if pitch is None or roll is None:
        return None
    return Attitude(pitch, roll, _xmp_number(xmp, "GimbalYawDegree", -361, 361))
