"""Read DTU as prepared for multi-view stereo (Aanæs et al., IJCV 2016): cameras shared by all scans, images per scan.

    Cameras/00000000_cam.txt, pair.txt     (for images of the stored size; millimetres)
    scan2/image/000000.png

This copy has no depth maps: distillation uses its cameras, and depth only from the teacher.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lite3r_cli.data.blendedmvs import read_camera, read_partners
from lite3r_cli.data.content import file_content, joined
from lite3r_cli.data.views import Shot, Split, ViewSet, look_at, read_rgb, require_own_size, usable
from lite3r_cli.errors import InputError

# The usual split since MVSNet (arXiv 1804.02505).
TRAINING = (
    2, 6, 7, 8, 14, 16, 18, 19, 20, 22, 30, 31, 36, 39, 41, 42, 44, 45, 46, 47, 50, 51, 52, 53, 55, 57, 58, 60, 61, 63,
    64, 65, 68, 69, 70, 71, 72, 74, 76, 83, 84, 85, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102,
    103, 104, 105, 107, 108, 109, 111, 112, 113, 115, 116, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128,
)  # fmt: skip
VALIDATION = (3, 5, 17, 21, 28, 35, 37, 38, 40, 43, 56, 59, 66, 67, 82, 86, 106, 117)
SCAN = re.compile(r"scan(\d+)")
PICTURES = (".png", ".jpg")


def is_dtu(folder: Path) -> bool:
    """Whether the folder has the layout of DTU."""
    return (folder / "Cameras").is_dir() and any(folder.glob("scan*/image"))


def load_dtu(folder: Path) -> Split:
    """Training scans to train on, validation scans held out; test scans are not opened.

    Raises InputError if the folder has none of them.
    """
    scans = _scan_folders(folder)
    train, held_out = (tuple(n for n in part if n in scans) for part in (TRAINING, VALIDATION))
    if not train and not held_out:
        raise InputError(f"{folder}: none of its {len(scans)} scans is in DTU's training or validation list")
    unused = len(scans) - len(train) - len(held_out)
    damaged: list[str] = []
    cameras = _cameras(folder / "Cameras", damaged)
    sets = [tuple(usable(part, lambda n: _scan(scans[n], cameras, damaged), damaged)) for part in (train, held_out)]
    note = f"DTU: {len(sets[0])} scans to train on, {len(sets[1])} held out, {unused} test or unlisted scans left alone"
    return Split(sets[0], sets[1], note, tuple(damaged))


def load_all_scans(folder: Path) -> tuple[ViewSet, ...]:
    """All scans in the order of their numbers, including test scans, for evaluation only.

    Raises InputError if there are no scans or if any file is damaged: an evaluation must not leave out data.
    """
    scans = _scan_folders(folder)
    if not scans:
        raise InputError(f"{folder}: no scanN/image below it; is it DTU?")
    damaged: list[str] = []
    cameras = _cameras(folder / "Cameras", damaged)
    found = usable(sorted(scans), lambda n: _scan(scans[n], cameras, damaged), damaged)
    if damaged:
        raise InputError(damaged[0])
    return tuple(found)


def _scan_folders(folder: Path) -> dict[int, Path]:
    return {int(m[1]): path.parent for path in folder.glob("scan*/image") if (m := SCAN.fullmatch(path.parent.name))}


@dataclass(frozen=True)
class _Camera:
    K: np.ndarray
    pose: np.ndarray
    content: str


def _number(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdecimal() else None


def _cameras(folder: Path, damaged: list[str]) -> dict[int, _Camera]:
    files = {n: p for p in sorted(folder.glob("*_cam.txt")) if (n := _number(p.name.split("_")[0])) is not None}
    if not files:
        raise InputError(f"{folder}: no 00000000_cam.txt in it; DTU's cameras belong there")
    read = usable(files, lambda n: (n, _Camera(*read_camera(files[n]), file_content(files[n]))), damaged)
    return dict(read)


def _scan(folder: Path, cameras: dict[int, _Camera], damaged: list[str]) -> ViewSet:
    files = sorted((folder / "image").iterdir())
    pictures = {n: p for p in files if p.suffix in PICTURES and (n := _number(p.stem)) is not None}
    if not pictures:
        raise InputError(f"{folder / 'image'}: no image ({' '.join(PICTURES)})")
    found = usable(sorted(pictures), lambda n: (n, _shot(pictures[n], cameras.get(n))), damaged)
    if len(found) < 2:
        raise InputError(f"{folder}: {len(found)} of its {len(pictures)} images can be used; a scene needs two")
    numbers, shots = zip(*found)
    content = joined([*(shot.content for shot in shots), *(cameras[n].content for n in numbers)])
    partners = read_partners(folder.parent / "Cameras" / "pair.txt", list(numbers))
    return ViewSet(folder.name, shots, partners, content)


def _shot(picture: Path, camera: _Camera | None) -> Shot:
    if camera is None:
        raise InputError(f"{picture}: has no camera in Cameras/ that can be used")
    size, content = look_at(picture)
    require_own_size(picture, size, camera.K)
    return Shot(partial(read_rgb, picture, content), camera.K, camera.pose, content=content)
