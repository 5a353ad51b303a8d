"""Focal lengths in pixels from what cameras write: two ways that have to agree, zoom, crops, and what users state."""

from __future__ import annotations

import pytest

from lite3r_cli.errors import UsageError
from lite3r_cli.io.exif import PhotoMetadata
from lite3r_cli.world.focal import StatedFocal, focal_from_metadata
from lite3r_cli.world.sensors import sensor_size


def focal(width=4000, height=3000, **entries) -> float | None:
    return focal_from_metadata(PhotoMetadata(width=width, height=height, **entries)).pixels


def test_sensor_and_35mm_equivalent_agree():
    by_density = focal(6000, 4000, focal_mm=50.0, pixels_per_mm=6000 / 36.0, exif_width=6000, exif_height=4000)
    assert by_density == pytest.approx(50 / 36 * 6000)
    assert focal(6000, 4000, focal_35mm=50.0) == pytest.approx(by_density, rel=2e-4)
    nikon = {"make": "NIKON CORPORATION", "model": "NIKON D750"}
    assert focal(6000, 4000, **nikon, focal_mm=50.0) == pytest.approx(8357, rel=1e-3)
    assert focal(focal_35mm=26.0) == pytest.approx(26 / 43.2666 * 5000)  # 4:3 by the diagonal


def test_a_resized_picture_scales_and_a_cut_one_does_not():
    taken = {"exif_width": 6000, "exif_height": 4000, "focal_mm": 50.0, "pixels_per_mm": 6000 / 36.0}
    whole = focal(6000, 4000, **taken)
    assert focal(1500, 1000, **taken) == pytest.approx(whole / 4)
    assert focal(1000, 1500, **taken) == pytest.approx(whole / 4)  # turned by a program
    assert focal(6000, 3000, **taken) == pytest.approx(whole)  # cut above and below
    assert focal(2000, 2000, **taken) is None  # cut and resized: nobody knows
    wide = focal(4000, 2250, focal_35mm=26.0)  # 16:9 of a 4:3 sensor
    assert wide == pytest.approx(focal(4000, 3000, focal_35mm=26.0))


def test_zoom_contradictions_and_panoramas():
    drone = {"make": "DJI", "model": "FC6310", "focal_mm": 8.8}
    assert focal(5472, 3648, **drone) == pytest.approx(8.8 / 13.2 * 5472)
    assert focal(5472, 3648, **drone, digital_zoom=2.0) == pytest.approx(2 * 8.8 / 13.2 * 5472)
    assert focal(5472, 3648, **drone, focal_35mm=24.0) is not None
    assert focal(5472, 3648, **drone, focal_35mm=50.0) is None
    assert focal(focal_35mm=26.0, digital_zoom=3.0) is None
    assert focal(focal_35mm=26.0, panorama="equirectangular") is None
    assert focal(focal_mm=4.2) is None  # a sensor that nobody knows
    assert focal(focal_35mm=9000.0) is None
    zoomed = PhotoMetadata(width=40, height=30, focal_35mm=26.0, digital_zoom=3.0)
    assert "digital zoom" in focal_from_metadata(zoomed).reason


def test_a_density_of_another_size_is_not_believed():
    # written for the preview: implies a sensor of 2.3 mm on a camera with 36 mm
    canon = {"make": "Canon", "model": "Canon EOS 5D Mark II", "focal_mm": 35.0, "pixels_per_mm": 2400.0}
    assert focal(5616, 3744, **canon) == pytest.approx(35 / 36 * 5616)


def test_what_the_user_states():
    nothing = PhotoMetadata()
    assert StatedFocal.parse("2905").prior(nothing, "a.jpg", (4000, 3000)).fx == 2905
    assert StatedFocal.parse("26mm-eq").prior(nothing, "a.jpg", (4000, 3000)).fx == pytest.approx(26 / 43.2666 * 5000)
    canon = PhotoMetadata(make="Canon", model="Canon EOS 60D")
    assert StatedFocal.parse("24mm").prior(canon, "a.jpg", (4000, 2668)).fx == pytest.approx(24 / 22.3 * 4000, rel=2e-3)
    with pytest.raises(UsageError, match="mm-eq"):
        StatedFocal.parse("24mm").prior(nothing, "a.jpg", (4000, 3000))
    for text in ("wide", "-3", "0", "24 inch", ""):
        with pytest.raises(UsageError, match="2905"):
            StatedFocal.parse(text)


def test_sensors_by_name():
    assert sensor_size("Canon", "Canon EOS 5D Mark III") == (36.0, 24.0)
    assert sensor_size("Canon", "Canon EOS 550D")[0] == 22.3
    assert sensor_size("SONY", "ILCE-7M3")[0] == 35.8
    assert sensor_size("SONY", "ILCE-6000")[0] == 23.5
    assert sensor_size("NIKON CORPORATION", "NIKON D90")[0] == 23.5
    assert sensor_size("NIKON CORPORATION", "NIKON D300")[0] == 23.5
    assert sensor_size("NIKON CORPORATION", "NIKON D3")[0] == 35.9
    assert sensor_size(None, "Unknown 3000") is None
