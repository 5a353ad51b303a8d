"""DTU as prepared for multi-view stereo (Aanæs et al., IJCV 2016): cameras that all scans share, pictures by scan.

    Cameras/00000000_cam.txt, pair.txt     (cameras of pictures of the stored size; millimetres)
    scan2/image/000000.png

This copy has no depth maps: it trains cameras, and depth through the teacher alone.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from lite3r_cli.data.blendedmvs import read_camera, read_partners
from lite3r_cli.data.views import Shot, Split, ViewSet, read_rgb
from lite3r_cli.errors import InputError
from lite3r_cli.io.probe import probe
from lite3r_cli.io.regular import open_regular

# The split that the field uses since MVSNet (arXiv 1804.02505).
TRAINING = (
    2, 6, 7, 8, 14, 16, 18, 19, 20, 22, 30, 31, 36, 39, 41, 42, 44, 45, 46, 47, 50, 51, 52, 53, 55, 57, 58, 60, 61, 63,
    64, 65, 68, 69, 70, 71, 72, 74, 76, 83, 84, 85, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102,
    103, 104, 105, 107, 108, 109, 111, 112, 113, 115, 116, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128,
)  # fmt: skip
VALIDATION = (3, 5, 17, 21, 28, 35, 37, 38, 40, 43, 56, 59, 66, 67, 82, 86, 106, 117)
TEST = (1, 4, 9, 10, 11, 12, 13, 15, 23, 24, 29, 32, 33, 34, 48, 49, 62, 75, 77, 110, 114, 118)
SCAN = re.compile(r"scan(\d+)")
PICTURES = (".png", ".jpg")


def is_dtu(folder: Path) -> bool:
    return (folder / "Cameras").is_dir() and any(folder.glob("scan*/image"))


def load_dtu(folder: Path) -> Split:
    """Scans of the training list to train on, those of the validation list held out; test scans are never opened.

    Raises InputError for a folder that holds none of them.
    """
    scans = _scan_folders(folder)
    train, held_out = (tuple(n for n in part if n in scans) for part in (TRAINING, VALIDATION))
    if not train and not held_out:
        raise InputError(f"{folder}: none of its {len(scans)} scans is in DTU's training or validation list")
    unused = len(scans) - len(train) - len(held_out)
    note = f"DTU: {len(train)} scans to train on, {len(held_out)} held out, {unused} test or unlisted scans left alone"
    cameras = _cameras(folder / "Cameras")
    trained, held = (tuple(_scan(scans[n], cameras) for n in part) for part in (train, held_out))
    return Split(trained, held, note)


def load_all_scans(folder: Path) -> tuple[ViewSet, ...]:
    """Every scan by number, those of the test list included: to be measured on, never to be trained on.

    Raises InputError for a folder without scans.
    """
    scans = _scan_folders(folder)
    if not scans:
        raise InputError(f"{folder}: no scanN/image below it; is it DTU?")
    cameras = _cameras(folder / "Cameras")
    return tuple(_scan(scans[n], cameras) for n in sorted(scans))


def _scan_folders(folder: Path) -> dict[int, Path]:
    return {int(m[1]): path.parent for path in folder.glob("scan*/image") if (m := SCAN.fullmatch(path.parent.name))}


def _cameras(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    files = {int(p.name.split("_")[0]): p for p in sorted(folder.glob("*_cam.txt")) if p.name.split("_")[0].isdigit()}
    if not files:
        raise InputError(f"{folder}: no 00000000_cam.txt in it; DTU's cameras belong there")
    return {number: read_camera(path) for number, path in files.items()}


def _scan(folder: Path, cameras: dict[int, tuple[np.ndarray, np.ndarray]]) -> ViewSet:
    files = sorted((folder / "image").iterdir())
    pictures = {int(p.stem): p for p in files if p.suffix in PICTURES and p.stem.isdigit()}
    missing = sorted(pictures.keys() - cameras.keys())
    if missing or not pictures:
        what = f"picture {missing[0]} has no camera in Cameras/" if missing else f"no picture ({' '.join(PICTURES)})"
        raise InputError(f"{folder / 'image'}: {what}")
    numbers = sorted(pictures)
    with open_regular(pictures[numbers[0]]) as stream:
        width, height = probe(stream).upright_size
    _check_size(folder, cameras[numbers[0]][0], width, height)
    shots = tuple(Shot(partial(read_rgb, pictures[n]), *cameras[n]) for n in numbers)
    return ViewSet(folder.name, shots, read_partners(folder.parent / "Cameras" / "pair.txt", numbers))


def _check_size(folder: Path, K: np.ndarray, width: int, height: int) -> None:
    """Copies of DTU come in several sizes, their cameras in others."""
    centre = K[:2, 2] / (width, height)
    if (abs(centre - 0.5) > 0.25).any():
        raise InputError(
            f"{folder}: its pictures have {width}×{height} pixels, but Cameras/ puts the principal point at "
            f"({K[0, 2]:.0f}, {K[1, 2]:.0f}); use the cameras of that size"
        )
