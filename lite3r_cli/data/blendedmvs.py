"""Read BlendedMVS (arXiv 1911.10127) in its published layout, and the MVSNet file formats of other multi-view sets.

    SCENE/blended_images/00000000.jpg      (…_masked.jpg are not read)
    SCENE/cams/00000000_cam.txt, pair.txt
    SCENE/rendered_depth_maps/00000000.pfm

Camera files have MVSNet's format: cam_from_world (4×4), K (3×3), depth range. Pixel centres are at +0.5 (MVSNet samples
at linspace(0.5, width − 0.5)), as in this program.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from lite3r_cli.data.content import file_content, joined
from lite3r_cli.data.views import Shot, Split, ViewSet, look_at, read_rgb, require_own_size, usable
from lite3r_cli.errors import InputError
from lite3r_cli.io.camera_fields import LARGEST
from lite3r_cli.io.documents import read_text
from lite3r_cli.io.names import printable
from lite3r_cli.io.regular import BadImage, read_regular

ROTATION_TOLERANCE = 1e-2  # largest deviation of R R^T from the identity; the published files are rounded
TRAINING, VALIDATION = "training_list.txt", "validation_list.txt"
# the published validation_list.txt, for copies without it
PUBLISHED_VALIDATION = (
    "5b7a3890fc8fcf6781e2593a", "5c189f2326173c3a09ed7ef3", "5b950c71608de421b1e7318f", "5a6400933d809f1d8200af15",
    "59d2657f82ca7774b1ec081d", "5ba19a8a360c7c30c1c169df", "59817e4a1bd4b175e7038d19",
)  # fmt: skip


def is_blendedmvs(folder: Path) -> bool:
    """Whether the folder has the layout of BlendedMVS."""
    return any(folder.glob("*/blended_images"))


def is_one_scene(folder: Path) -> bool:
    """Whether the folder is a scene of the set, not the set."""
    return (folder / "blended_images").is_dir() and (folder / "cams").is_dir()


def load_blendedmvs(folder: Path) -> Split:
    """Split the scenes by the lists in the folder; without lists, the published validation scenes are held out.

    Raises InputError if the folder has no scenes or if a scene is in both lists.
    """
    present = {path.parent.name for path in folder.glob("*/blended_images")}
    held_out = _listed(folder / VALIDATION) or PUBLISHED_VALIDATION
    listed = _listed(folder / TRAINING)
    both = sorted(set(listed or ()) & set(held_out))
    if both:
        raise InputError(f"{folder}: {both[0]} is in {TRAINING} and in {VALIDATION}; a scene belongs to one of them")
    train = sorted(present & set(listed) if listed else present - set(held_out))
    measured = sorted(present & set(held_out))
    if not train and not measured:
        raise InputError(f"{folder}: no SCENE/blended_images of the training list below it; is it BlendedMVS?")
    source = "its training_list.txt" if listed else "all scenes but the validation list's"
    damaged: list[str] = []
    parts = [tuple(usable(part, lambda name: _scene(folder / name, damaged), damaged)) for part in (train, measured)]
    note = f"BlendedMVS: {len(parts[0])} scenes to train on ({source}), {len(parts[1])} held out"
    return Split(parts[0], parts[1], note, tuple(damaged))


def _listed(path: Path) -> tuple[str, ...] | None:
    """The names in a list, None if it does not exist. Lines may have the suffix of an archive."""
    if not path.is_file():
        return None
    return tuple(line.split(".")[0] for line in read_text(path).split())


def _scene(folder: Path, damaged: list[str]) -> ViewSet:
    pictures = sorted(p for p in (folder / "blended_images").glob("*.jpg") if not p.stem.endswith("_masked"))
    if not pictures:
        raise InputError(f"{folder / 'blended_images'}: no .jpg in it; get the scene again")
    found = usable(pictures, lambda picture: _shot(folder, picture), damaged)
    if len(found) < 2:
        raise InputError(f"{folder}: {len(found)} of its {len(pictures)} images can be used; a scene needs two")
    numbers, shots, contents = zip(*found)
    pairs = folder / "cams" / "pair.txt"
    return ViewSet(folder.name, shots, read_partners(pairs, list(numbers)), joined(contents))


def _shot(folder: Path, picture: Path) -> tuple[int, Shot, str]:
    """Number, shot and content hash of one image with its camera and depth map. Raises InputError."""
    if not (picture.stem.isascii() and picture.stem.isdecimal()):
        raise InputError(f"{printable(picture)}: its name is not a number, as in this data set; rename or remove it")
    camera = folder / "cams" / f"{picture.stem}_cam.txt"
    K, pose = read_camera(camera)
    size, content = look_at(picture)
    require_own_size(picture, size, K)
    depth = folder / "rendered_depth_maps" / f"{picture.stem}.pfm"
    if not depth.is_file():
        raise InputError(f"{depth}: missing; get the scene {folder.name} again")
    shot = Shot(partial(read_rgb, picture, content), K, pose, partial(read_depth_pfm, depth), content)
    return int(picture.stem), shot, joined([content, file_content(camera), file_content(depth)])


# -- file formats of MVSNet --------------------------------------------------------------------------------------------


def read_camera(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) and cam_from_world (3, 4) of a `_cam.txt`. Raises InputError."""
    try:
        words = read_text(path).split()
        first, second = words.index("extrinsic") + 1, words.index("intrinsic") + 1
        pose = np.array(words[first : first + 16], np.float64).reshape(4, 4)
        K = np.array(words[second : second + 9], np.float64).reshape(3, 3)
    except ValueError as error:
        raise InputError(f"{path}: not a camera file with `extrinsic` (4×4) and `intrinsic` (3×3)") from error
    rotation = pose[:3, :3]
    if not (np.isfinite(pose).all() and np.isfinite(K).all() and max(abs(pose).max(), abs(K).max()) <= LARGEST):
        raise InputError(f"{path}: holds numbers that are not finite, or too large for a camera")
    if abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise InputError(f"{path}: its extrinsic does not start with a rotation (R R^T = I, det R = 1)")
    if min(K[0, 0], K[1, 1]) <= 0 or not np.array_equal([*K[1:, 0], *K[2, 1:]], [0, 0, 0, 1]):
        raise InputError(f"{path}: its intrinsic is not [fx s cx; 0 fy cy; 0 0 1] with positive focal lengths")
    return K, pose[:3]


def read_depth_pfm(path: Path) -> np.ndarray:
    """z-depth (h, w) float32 of a greyscale PFM, whose rows are stored from bottom to top. Values that are not positive
    and finite become 0 = unknown. Raises InputError.
    """
    try:
        data = read_regular(path)
        kind, size, scale, values = data.split(b"\n", 3)
        width, height = (int(word) for word in size.split())
        if kind.strip() != b"Pf" or min(width, height) < 1 or len(values) < 4 * width * height:
            raise ValueError
        order = "<f4" if float(scale) < 0 else ">f4"
        depth = np.frombuffer(values, order, width * height).reshape(height, width)[::-1].astype(np.float32)
    except (BadImage, OSError) as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a grey PFM, or cut off; get it again") from error
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def read_partners(path: Path, numbers: list[int]) -> tuple[tuple[int, ...], ...]:
    """The partners of each image in `numbers`, as indices into `numbers`, best first; () without a `pair.txt`. Raises
    InputError.

    Format: the number of images; then per image a line with its number, and a line with a count and pairs of number and
    score.
    """
    if not path.is_file():
        return ()
    place = {number: i for i, number in enumerate(numbers)}
    try:
        lines = read_text(path).split("\n")[1:]
        found = {int(a): [int(word) for word in b.split()[1::2]] for a, b in zip(lines[::2], lines[1::2]) if a.strip()}
    except ValueError as error:
        raise InputError(f"{path}: not a list of view pairs ({error})") from error
    return tuple(tuple(place[n] for n in found.get(number, ()) if n in place) for number in numbers)
