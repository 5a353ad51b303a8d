"""Sensor sizes by camera model, from the makers' data sheets, for EXIF focal lengths in millimetres."""

from __future__ import annotations

import re

FULL_FRAME, APS_C, APS_C_CANON, MICRO = (36.0, 24.0), (23.5, 15.6), (22.3, 14.9), (17.3, 13.0)
ONE_INCH, LARGE_COMPACT, SMALL_COMPACT = (13.2, 8.8), (7.44, 5.58), (6.17, 4.55)

# Make and model as in EXIF, joined by a blank, lower case → (width, height) in millimetres; the first match counts.
_TABLE: tuple[tuple[str, tuple[float, float]], ...] = (
    (r"canon eos-?1d ?x|canon eos-?1ds|canon eos (5d|6d|r$|rp|r[1358](?!\d)|r6)", FULL_FRAME),
    (r"canon eos-?1d", (27.9, 18.6)),
    (r"canon eos d(30|60)\b", (22.7, 15.1)),
    (r"canon eos|canon powershot g1 ?x mark iii", APS_C_CANON),
    (r"canon powershot (g5 ?x|g7 ?x|g9 ?x)", ONE_INCH),
    (r"canon powershot (g1[0-6]|g9|s9[05]|s1[01]0)", LARGE_COMPACT),
    (r"nikon (d3(?!\d)|d3[sx]|d[456](?!\d)|d4s|d[678]\d0|df|z ?[5-9])", (35.9, 24.0)),
    (r"nikon (d\d+|z ?(30|50|fc))", APS_C),
    (r"nikon 1", ONE_INCH),
    (r"sony (ilce-(1|7|9)|dslr-a[89]|slt-a99|dsc-rx1(?!\d))", (35.8, 23.9)),
    (r"sony (ilce-[356]|nex-|slt-a|dslr-a|zv-e10)", APS_C),
    (r"sony (dsc-rx10|zv-1)", ONE_INCH),
    (r"fujifilm (gfx)", (43.8, 32.9)),
    (r"fujifilm (x-|x100)", APS_C),
    (r"leica m8", (27.0, 18.0)),
    (r"leica (m|q|sl)", FULL_FRAME),
    (r"pentax k-1\b|ricoh.* pentax k-1\b", FULL_FRAME),
    (r"pentax (k|\*ist)|ricoh.* (pentax k|gr)", APS_C),
    (r"panasonic dmc-(g|l10)|panasonic dc-(g|bgh)|olympus.* e-|om digital.* om-", MICRO),
    (r"panasonic (dmc|dc)-(fz1000|fz2000|fz2500|lx15|tz100|zs100)", ONE_INCH),
    # drones
    (r"dji (fc6310|fc6360|l1d-20c|fc3411)|hasselblad l1d-20c", ONE_INCH),
    (r"(dji|hasselblad) (l2d-20c|fc6520|fc6540|zenmusex5s?|fc550)", MICRO),
    (r"dji (zenmusep1)", (35.9, 24.0)),
    (r"dji (fc220|fc300|fc330|fc350|fc2103|fc7203|fc200|phantom)", SMALL_COMPACT),
    (r"dji (fc3170|fc3582|fc8482)", (9.6, 7.2)),
    (r"parrot (anafi)", (5.92, 4.44)),
    (r"sensefly.*s\.o\.d\.a", (12.75, 8.5)),
    # action cameras and phones with one lens
    (r"gopro hero", SMALL_COMPACT),
    (r"apple iphone [45]$", (4.54, 3.42)),
    (r"apple iphone (5s|6|6 plus|se)$", (4.8, 3.6)),
)
_PATTERNS = tuple((re.compile(pattern), size) for pattern, size in _TABLE)


def sensor_size(make: str | None, model: str | None) -> tuple[float, float] | None:
    """(width, height) in millimetres, landscape; None for an unknown model."""
    maker, name = (make or "").lower(), (model or "").lower()
    if not maker or not name.startswith(maker.split()[0]):  # often repeated: "Canon", "Canon EOS 5D"
        name = f"{maker} {name}".strip()
    return next((size for pattern, size in _PATTERNS if pattern.match(name)), None)
