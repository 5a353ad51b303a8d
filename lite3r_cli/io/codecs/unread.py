"""Unsupported image and video files: their kind, by first bytes or suffix, and how to convert them."""

from __future__ import annotations

_CONVERT = "convert it to JPEG, PNG or TIFF first"
_DEVELOP = "develop it to JPEG or TIFF first"
_WRAP = "put it into a container, e.g. with `ffmpeg -i INPUT -c copy OUTPUT.mkv`"

# First bytes → kind of file.
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL", _CONVERT),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", _CONVERT),
    (0, b"8BPS", "Photoshop", _CONVERT),
    (0, b"\x76\x2f\x31\x01", "OpenEXR", _CONVERT),
    (0, b"#?RADIANCE", "Radiance HDR", _CONVERT),
    (0, b"#?RGBE", "Radiance HDR", _CONVERT),
    (0, b"\x8bJNG", "JNG", _CONVERT),
    (0, b"\x8aMNG", "MNG", _CONVERT),
    (0, b"\0\0\1\0", "icon", _CONVERT),
    (0, b"DDS ", "DirectDraw Surface", _CONVERT),
    (0, b"qoif", "QOI", _CONVERT),
    (0, b"P7\n", "PAM", _CONVERT),
    (0, b"PF\n", "PFM", _CONVERT),
    (0, b"Pf\n", "PFM", _CONVERT),
    (0, b"SIMPLE  =", "FITS", _CONVERT),
    (0, b"\x1a\0\0\0", "JPEG XR", _CONVERT),
    (0, b"II\xbc\1", "JPEG XR", _CONVERT),
    (0, b"\x97JB2", "JBIG2", _CONVERT),
    (0, b"gimp xcf", "GIMP", _CONVERT),
    (0, b"FOVb", "Sigma X3F raw", _DEVELOP),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm RAF raw", _DEVELOP),
    (0, b"\0MRM", "Minolta MRW raw", _DEVELOP),
    (0, b"IIU\0", "Panasonic RW2 raw", _DEVELOP),
    (0, b"IIRO", "Olympus ORF raw", _DEVELOP),
    (0, b"IIRS", "Olympus ORF raw", _DEVELOP),
    (0, b"MMOR", "Olympus ORF raw", _DEVELOP),
    (6, b"HEAPCCDR", "Canon CRW raw", _DEVELOP),
    (4, b"ftypcrx ", "Canon CR3 raw", _DEVELOP),
    (0, b"DKIF", "IVF video", _WRAP),
    (0, b"nut/multimedia container", "NUT video", _WRAP),
    (0, b".RMF", "RealMedia video", _WRAP),
    (0, b"\x1f\x07\0", "raw DV video", _WRAP),
    (0, b"\0\0\0\1\x67", "a raw stream of H.264", _WRAP),
    (0, b"\0\0\1\x67", "a raw stream of H.264", _WRAP),
    (0, b"\0\0\0\1\x09", "a raw stream of H.264", _WRAP),
    (0, b"\0\0\0\1\x40\1", "a raw stream of HEVC", _WRAP),
    (0, b"\0\0\1\x40\1", "a raw stream of HEVC", _WRAP),
    (0, b"\0\0\0\1\x46\1", "a raw stream of HEVC", _WRAP),
    (0, b"\x12\0\x0a", "a raw stream of AV1", _WRAP),
    (0, b"%PDF", "PDF", "save its images as JPEG or PNG first"),
    (0, b"<svg", "SVG", _CONVERT),
    (0, b"<?xml", "XML", "name images or videos"),
    (0, b"<!DOCTYPE", "HTML", "download the image itself"),
    (0, b"<!doctype", "HTML", "download the image itself"),
    (0, b"<html", "HTML", "download the image itself"),
    (0, b"PK\3\4", "ZIP archive", "unpack it first"),
    (0, b"Rar!", "RAR archive", "unpack it first"),
    (0, b"7z\xbc\xaf", "7z archive", "unpack it first"),
    (0, b"\x1f\x8b", "gzip archive", "unpack it first"),
)  # fmt: skip
# Suffixes of unsupported images, for the report on a folder.
RAW_SUFFIXES = frozenset(
    ".dng .nef .nrw .cr2 .cr3 .crw .arw .srf .sr2 .raf .orf .rw2 .pef .srw .x3f .3fr .iiq .mrw .erf .kdc .dcr .mos .rwl"
    " .gpr".split()
)
OTHER_SUFFIXES = frozenset(
    ".jxl .psd .psb .exr .hdr .pfm .pam .dds .tga .ico .icns .cur .svg .jxr .wdp .hdp .qoi .fits .fit .pcx .sgi .xcf"
    " .jng .mng .eps .pdf".split()
)
VIDEO_SUFFIXES = frozenset(".ivf .nut .rmvb .swf .dv .h264 .264 .h265 .265 .hevc .obu".split())


def reason(head: bytes, suffix: str = "") -> str:
    """Why a file with these first bytes and this suffix is unsupported, and what to do."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for offset, mark, what, fix in _SIGNATURES:
        if head.startswith(mark, offset) or (offset == 0 and mark.startswith(b"<") and text.startswith(mark)):
            return f"{what} is not read: {fix}"
    if suffix.lower() in RAW_SUFFIXES:
        return f"a raw photo ({suffix}) is not read: {_DEVELOP}"
    if suffix.lower() in OTHER_SUFFIXES:
        return f"an image of kind {suffix} is not read: {_CONVERT}"
    if suffix.lower() in VIDEO_SUFFIXES:
        return f"a video of kind {suffix} is not read: {_WRAP}"
    return "not an image: its first bytes are of no known format"
