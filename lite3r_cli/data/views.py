"""Scenes of photographs on disk as training data: which views go together, and reading them at a step's size.

What a dataset's loader gives is a list of `ViewSet`; cameras and depth are there where the dataset has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from lite3r_cli.data.content import file_content
from lite3r_cli.errors import InputError
from lite3r_cli.io.decode import decode_rgb
from lite3r_cli.io.names import printable
from lite3r_cli.io.probe import check_size, probe
from lite3r_cli.io.regular import BadImage, open_regular, read_regular
from lite3r_cli.io.resize import network_size
from lite3r_cli.scene.geometry import scale_intrinsics

MOST_PARTNERS = 10  # of a view that are drawn from: its best ones
MOST_PIXELS = 200_000_000  # of a picture, as for --max-pixels
MOST_SKEW = 0.02  # by which the aspect ratios of a picture and its depth map may differ
MOST_OFF_CENTRE = 0.15  # of a picture's side: by how much a principal point may miss the middle
SAME_SCENE = 0.1  # share of their pictures that makes two scenes one
MOST_STRIDE = 3  # between views that follow one another, where nothing says which see the same


@dataclass(frozen=True)
class Shot:
    """One photograph. Its camera and depth are None where the dataset does not have them."""

    rgb: Callable[[], np.ndarray]  # reads (H, W, 3) uint8
    K: np.ndarray | None = None  # (3, 3), pixels of the image, centres at +0.5
    cam_from_world: np.ndarray | None = None  # (3, 4)
    depth: Callable[[], np.ndarray] | None = None  # reads (h, w) float32 z-depth, 0 = unknown; of the whole image
    content: str = ""  # of the picture, see content.py


@dataclass(frozen=True)
class ViewSet:
    """The photographs of one scene, in order."""

    name: str
    shots: tuple[Shot, ...]
    partners: tuple[tuple[int, ...], ...] = ()  # of each shot the ones that see the same, best first
    content: str = ""  # of pictures, cameras and depth, see content.py

    @property
    def pictures(self) -> frozenset[str]:
        """What a scene is known by: scenes that share a picture are one."""
        return frozenset(shot.content for shot in self.shots if shot.content)


@dataclass(frozen=True)
class Split:
    """What may be trained on and what may only be measured on; never the same scene in both unless it is said so."""

    train: tuple[ViewSet, ...]
    held_out: tuple[ViewSet, ...]
    note: str  # where the split comes from
    damaged: tuple[str, ...] = ()  # what was left out, and why; each names its file


@dataclass(frozen=True)
class Views:
    """S photographs of one scene at one size."""

    images: np.ndarray  # (S, H, W, 3) uint8
    K: np.ndarray | None  # (S, 3, 3) float32
    cam_from_world: np.ndarray | None  # (S, 3, 4) float32
    depth: np.ndarray | None  # (S, H, W) float32, 0 = unknown; None: no shot has any


def choose_views(views: ViewSet, rng: np.random.Generator, count: int) -> list[int]:
    """`count` different shots (all, should there be fewer) that see the same part of the scene, in random order.

    With partners the set grows from a random shot by partners of its members; else it is every n-th of a stretch.
    """
    total = len(views.shots)
    count = min(count, total)
    if not views.partners:
        stride = int(rng.integers(1, max(1, min(MOST_STRIDE, (total - 1) // max(1, count - 1))) + 1))
        first = int(rng.integers(total - stride * (count - 1)))
        return [int(i) for i in rng.permutation(range(first, first + stride * count, stride)[:count])]
    chosen = [int(rng.integers(total))]
    while len(chosen) < count:
        near = {j for i in chosen for j in views.partners[i][:MOST_PARTNERS]} - set(chosen)
        pool = sorted(near or set(range(total)) - set(chosen))
        chosen.append(pool[rng.integers(len(pool))])
    return [int(i) for i in rng.permutation(chosen)]


def read_views(shots: Sequence[Shot], longest: int, multiple: int, size: tuple[int, int] | None = None) -> Views:
    """The shots at one size: that of the first at `longest` pixels unless `size` (h, w) is given; the middle of each
    picture in that aspect ratio. Raises InputError for a picture or depth map that cannot be read.
    """
    parts = []
    for shot in shots:
        rgb = shot.rgb()
        size = size or network_size(rgb.shape[1], rgb.shape[0], longest, multiple)
        parts.append(_at_size(shot, rgb, *size))
    images, K, depth = ([part[k] for part in parts] for k in range(3))
    poses = [shot.cam_from_world for shot in shots]
    if any(part is not None for part in depth):
        depth = [np.zeros(size, np.float32) if part is None else part for part in depth]

    def stacked(values: list) -> np.ndarray | None:
        return None if any(v is None for v in values) else np.stack(values).astype(np.float32)

    return Views(np.stack(images), stacked(K), stacked(poses), stacked(depth))


class Known:
    """Scenes by their pictures: those that share a tenth of the smaller one's are the same scene, under whatever name.
    (A single black frame is the same in many videos.)
    """

    def __init__(self, scenes: Iterable[ViewSet] = ()) -> None:
        self._scenes: list[ViewSet] = []
        self._shown_by: dict[str, list[int]] = {}
        for scene in scenes:
            self.add(scene)

    def add(self, scene: ViewSet) -> None:
        for picture in scene.pictures:
            self._shown_by.setdefault(picture, []).append(len(self._scenes))
        self._scenes.append(scene)

    def find(self, scene: ViewSet) -> ViewSet | None:
        """The first known scene that is the same as this one."""
        shared = Counter(i for picture in scene.pictures for i in self._shown_by.get(picture, ()))
        for i in sorted(shared):
            if shared[i] >= SAME_SCENE * min(len(scene.pictures), len(self._scenes[i].pictures)):
                return self._scenes[i]
        return None


T = TypeVar("T")
Item = TypeVar("Item")


def usable(items: Iterable[Item], make: Callable[[Item], T], damaged: list[str]) -> list[T]:
    """make(item) for every item; what it raises as InputError costs that item alone and is added to `damaged`."""
    made = []
    for item in items:
        try:
            made.append(make(item))
        except InputError as error:
            damaged.append(str(error))
    return made


def look_at(picture: Path) -> tuple[tuple[int, int], str]:
    """Width and height, upright, and the content of a picture, by its header and its end. Raises InputError."""
    try:
        with open_regular(picture) as stream:
            header = probe(stream)
        check_size(header.width, header.height, MOST_PIXELS)
    except (BadImage, OSError) as error:
        raise InputError(f"{printable(picture)}: {error}") from error
    return header.upright_size, file_content(picture)


def require_own_size(picture: Path, size: tuple[int, int], K: np.ndarray) -> None:
    """Copies of a data set come in several sizes, their cameras in others. Raises InputError where K is of another."""
    centre = K[:2, 2] / size
    if (abs(centre - 0.5) > MOST_OFF_CENTRE).any():
        raise InputError(
            f"{printable(picture)}: has {size[0]}×{size[1]} pixels, but its camera's principal point is at "
            f"({K[0, 2]:.0f}, {K[1, 2]:.0f}); use the cameras of that size"
        )


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright. Raises InputError."""
    try:
        return decode_rgb(read_regular(path))[0]
    except (BadImage, OSError) as error:
        raise InputError(f"{path}: {error}") from error


def _at_size(shot: Shot, rgb: np.ndarray, height: int, width: int) -> tuple:
    """Picture, K and depth of the middle of a shot with the aspect ratio of the target, resized to it."""
    full_height, full_width = rgb.shape[:2]
    scale = min(full_height / height, full_width / width)
    tall, wide = round(height * scale), round(width * scale)
    top, left = (full_height - tall) // 2, (full_width - wide) // 2
    window = rgb[top : top + tall, left : left + wide]
    shrinks = tall >= height and wide >= width
    picture = cv2.resize(window, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    K = None
    if shot.K is not None:
        K = shot.K.astype(np.float64)
        K[:2, 2] -= (left, top)
        K = scale_intrinsics(K, width / wide, height / tall)
    depth = None
    if shot.depth is not None:
        whole = shot.depth()
        if abs(whole.shape[0] * full_width - whole.shape[1] * full_height) > MOST_SKEW * full_width * whole.shape[0]:
            raise InputError(
                f"a depth map has {whole.shape[1]}x{whole.shape[0]} pixels, its picture {full_width}x{full_height}: "
                "they do not show the same"
            )
        rows = (top + (np.arange(height) + 0.5) * tall / height) * whole.shape[0] / full_height
        columns = (left + (np.arange(width) + 0.5) * wide / width) * whole.shape[1] / full_width
        depth = whole[np.ix_(rows.astype(int), columns.astype(int))]  # the nearest pixel: depths are never mixed
    return picture, K, depth
