"""EXIF and XMP of photos: entries are read one by one, and a damaged entry affects only itself."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin
from png_files import png_chunks, png_joined

from lite3r_cli.io.exif import NOTHING, read_metadata

Rational = TiffImagePlugin.IFDRational


def photo(path, exif: dict, gps: dict | None = None, main: dict | None = None, xmp: str = "", size=(40, 30)):
    """A picture with these EXIF entries."""
    block = Image.Exif()
    for tag, value in (main or {0x010F: "Make"}).items():
        block[tag] = value
    block.get_ifd(0x8769).update(exif)
    block.get_ifd(0x8825).update(gps or {})
    block[0x8769] = block[0x8825] = 0  # Pillow puts the directories in their place
    more = {"xmp": xmp.encode()} if xmp else {}
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(path, exif=block, **more)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lens_place_and_attitude(tmp_path, suffix):
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description drone-dji:GimbalPitchDegree="-60.10" '
        'drone-dji:RelativeAltitude="+40.20"><drone-dji:GimbalRollDegree>+1.50</drone-dji:GimbalRollDegree>'
        "<GPano:ProjectionType>equirectangular</GPano:ProjectionType></rdf:Description></x:xmpmeta>"
    )
    gps = {1: "S", 2: (33.0, 51.0, 30.96), 3: "E", 4: (151.2, 0.0, 0.0), 5: b"\x01", 6: 12.5}
    lens = {0x920A: 24.0, 0xA405: 36, 0xA20E: 3000.0, 0xA210: 3, 0xA404: 1.5, 0xA002: 400, 0xA003: 300}
    main = {0x010F: "Make\0", 0x0110: " Model ", 0x0112: 6}
    found = read_metadata(photo(tmp_path / f"a{suffix}", lens, gps, main, xmp))
    assert (found.make, found.model, found.orientation) == ("Make", "Model", 6)
    assert (found.focal_mm, found.focal_35mm, found.digital_zoom) == (24, 36, 1.5)
    assert found.pixels_per_mm == pytest.approx(300)
    assert (found.width, found.height, found.exif_width, found.exif_height) == (40, 30, 400, 300)
    assert found.gps.latitude == pytest.approx(-33.8586) and found.gps.longitude == pytest.approx(151.2)
    assert found.gps.altitude == -12.5
    assert found.relative_altitude == 40.2 and (found.attitude.pitch, found.attitude.roll) == (-60.1, 1.5)
    assert found.panorama == "equirectangular"


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_other_containers_have_a_lens_too(tmp_path, suffix):
    found = read_metadata(photo(tmp_path / f"a{suffix}", {0x920A: 24.0, 0xA405: 36}))
    assert (found.focal_mm, found.focal_35mm) == (24, 36)


def test_metadata_of_a_png_are_read_wherever_they_are_and_without_its_pixels(tmp_path, monkeypatch):
    """Pillow decodes a PNG for its EXIF, in the size of the last IHDR; a second one once claimed 7 Gpx."""
    prepared = []
    load_prepare = PngImagePlugin.PngImageFile.load_prepare
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile, "load_prepare", lambda image: (prepared.append(image.size), load_prepare(image))
    )
    photo(tmp_path / "a.png", {0xA405: 28}, main={0x010F: "Make"})
    chunks = png_chunks((tmp_path / "a.png").read_bytes())
    block = next(body for kind, body in chunks if kind == b"eXIf")
    plain = [chunk for chunk in chunks if chunk[0] != b"eXIf"]
    huge = (b"IHDR", struct.pack(">IIBBBBB", 48, 150994944, 16, 2, 0, 0, 0))
    packet = b"XML:com.adobe.xmp\0\0\0\0\0<x GPano:ProjectionType='equirectangular'/>"
    late = [plain[0], huge, *plain[1:-1], (b"eXIf", block), (b"iTXt", packet), plain[-1]]
    for data, lens, projection in ((late, 28, "equirectangular"), ([*plain[:1], huge, *plain[1:]], None, None)):
        found = read_metadata(png_joined(data))
        assert (found.width, found.height, found.focal_35mm, found.panorama) == (40, 30, lens, projection)
    wrong = png_joined(late).replace(block, block[:-1] + b"?")  # its checksum does not fit
    assert (read_metadata(wrong).focal_35mm, read_metadata(wrong).panorama) == (None, "equirectangular")
    assert set(prepared) <= {(1, 1)}


def test_one_bad_entry_costs_nothing_else(tmp_path):
    gps = {1: "N", 2: (Rational(0, 0), 1.0, 2.0), 3: "E", 4: (8.0, 0.0, 0.0)}
    found = read_metadata(photo(tmp_path / "a.jpg", {0x920A: Rational(5, 0), 0xA405: 28, 0xA404: 0.0}, gps))
    assert (found.focal_mm, found.focal_35mm, found.digital_zoom, found.gps) == (None, 28, None, None)
    nowhere = {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}
    assert read_metadata(photo(tmp_path / "b.jpg", {}, nowhere)).gps is None


def test_what_is_no_picture_says_nothing(tmp_path):
    whole = photo(tmp_path / "a.jpg", {0xA405: 28}).read_bytes()
    assert read_metadata(whole).focal_35mm == 28
    for data in (b"", b"no image", whole[:30], whole[:20] + b"\xff" * 60 + whole[80:]):
        assert read_metadata(data).focal_35mm in (None, 28)
    assert read_metadata(tmp_path / "missing.jpg") == NOTHING
    (tmp_path / "folder.jpg").mkdir()
    assert read_metadata(tmp_path / "folder.jpg") == NOTHING
