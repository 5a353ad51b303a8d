"""Scenes of photographs on disk as training data: choose overlapping views, and read them at the size of a step.

The loader of each data set returns `ViewSet`s, with cameras and depth if the data set has them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from lite3r_cli.data.content import file_content, stream_content
from lite3r_cli.errors import InputError
from lite3r_cli.io.decode import decode_rgb
from lite3r_cli.io.names import printable
from lite3r_cli.io.probe import check_size, probe
from lite3r_cli.io.regular import BadImage, open_regular, read_regular
from lite3r_cli.io.resize import network_size
from lite3r_cli.scene.geometry import scale_intrinsics

MOST_PARTNERS = 10  # only this many best partners of a view are drawn from
MOST_PIXELS = 200_000_000  # upper limit of the pixels of an image, as for --max-pixels
MOST_SKEW = 0.02  # largest relative difference between the aspect ratios of an image and its depth map
MOST_OFF_CENTRE = 0.15  # largest offset of the principal point from the image centre, relative to the side
SAME_SCENE = 0.1  # two scenes that share this part of their images count as one
MOST_STRIDE = 3  # largest stride between consecutive views if partners are unknown


@dataclass(frozen=True)
class Shot:
    """One photograph. Camera and depth are None if the data set does not have them."""

    rgb: Callable[[], np.ndarray]  # reads the image (H, W, 3) uint8
    K: np.ndarray | None = None  # (3, 3), pixels of the image, centres at +0.5
    cam_from_world: np.ndarray | None = None  # (3, 4)
    depth: Callable[[], np.ndarray] | None = None  # reads (h, w) float32 z-depth of the whole image, 0 = unknown
    content: str = ""  # hash of the image, see content.py


@dataclass(frozen=True)
class ViewSet:
    """The photographs of one scene, in order."""

    name: str
    shots: tuple[Shot, ...]
    partners: tuple[tuple[int, ...], ...] = ()  # per shot: indices of the shots that overlap with it, best first
    content: str = ""  # hash of images, cameras and depth, see content.py

    @property
    def pictures(self) -> frozenset[str]:
        """The content hashes of the images, by which `Known` recognises a scene."""
        return frozenset(shot.content for shot in self.shots if shot.content)


@dataclass(frozen=True)
class Split:
    """Training and validation scenes. No scene is in both unless the note says so."""

    train: tuple[ViewSet, ...]
    held_out: tuple[ViewSet, ...]
    note: str  # describes the split for the user
    damaged: tuple[str, ...] = ()  # messages about files that were left out


@dataclass(frozen=True)
class Views:
    """S photographs of one scene at one size."""

    images: np.ndarray  # (S, H, W, 3) uint8
    K: np.ndarray | None  # (S, 3, 3) float32
    cam_from_world: np.ndarray | None  # (S, 3, 4) float32
    depth: np.ndarray | None  # (S, H, W) float32, 0 = unknown; None: no shot has any


def choose_views(views: ViewSet, rng: np.random.Generator, count: int) -> list[int]:
    """Choose `count` different shots (all if there are fewer) of the same part of the scene, in random order.

    If partners are known, the set grows from a random shot by partners of its members; else it is every n-th shot of a
    random interval.
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
    """Read the shots at one size: `size` (h, w), or that of the first shot with its longest side scaled to `longest`
    pixels. Each image is cropped to the centre with this aspect ratio. Raises InputError for an unreadable image or
    depth map.
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
    """Finds duplicate scenes by their images: two scenes are the same if they share a tenth of the images of the
    smaller one. One shared image is not enough, because a black frame may be the same in many videos.
    """

    def __init__(self, scenes: Iterable[ViewSet] = ()) -> None:
        self._scenes: list[ViewSet] = []
        self._shown_by: dict[str, list[int]] = {}
        for scene in scenes:
            self.add(scene)

    def add(self, scene: ViewSet) -> None:
        """Add a scene."""
        for picture in scene.pictures:
            self._shown_by.setdefault(picture, []).append(len(self._scenes))
        self._scenes.append(scene)

    def find(self, scene: ViewSet) -> ViewSet | None:
        """The first known scene that is the same as this one; None if there is none."""
        shared = Counter(i for picture in scene.pictures for i in self._shown_by.get(picture, ()))
        for i in sorted(shared):
            if shared[i] >= SAME_SCENE * min(len(scene.pictures), len(self._scenes[i].pictures)):
                return self._scenes[i]
        return None


T = TypeVar("T")
Item = TypeVar("Item")


def usable(items: Iterable[Item], make: Callable[[Item], T], damaged: list[str]) -> list[T]:
    """`make(item)` for every item. An item that raises InputError is left out, and the message is
    added to `damaged`.
    """
    made = []
    for item in items:
        try:
            made.append(make(item))
        except InputError as error:
            damaged.append(str(error))
    return made


def look_at(picture: Path) -> tuple[tuple[int, int], str]:
    """Upright (width, height) from the header of an image, and its content hash. Raises InputError."""
    try:
        with open_regular(picture) as stream:
            header = probe(stream)
        check_size(header.width, header.height, MOST_PIXELS)
    except (BadImage, OSError) as error:
        raise InputError(f"{printable(picture)}: {error}") from error
    return header.upright_size, file_content(picture)


def require_own_size(picture: Path, size: tuple[int, int], K: np.ndarray) -> None:
    """Raises InputError if K belongs to another size of the image: some copies of data sets mix sizes."""
    centre = K[:2, 2] / size
    if (abs(centre - 0.5) > MOST_OFF_CENTRE).any():
        raise InputError(
            f"{printable(picture)}: has {size[0]}×{size[1]} pixels, but its camera's principal point is at "
            f"({K[0, 2]:.0f}, {K[1, 2]:.0f}); use the cameras of that size"
        )


def read_rgb(path: Path, content: str | None = None) -> np.ndarray:
    """Read an image as upright RGB (H, W, 3) uint8. Raises InputError, also if it no longer has the `content` that
    `look_at` found: camera and depth belong to that one.
    """
    try:
        data = read_regular(path)
        if content not in (None, stream_content(io.BytesIO(data))):
            raise BadImage("the file changed while it was in use: start again")
        return decode_rgb(data)[0]
    except (BadImage, OSError) as error:
        raise InputError(f"{path}: {error}") from error


def is_of_one_shape(depth: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether a depth map (h, w) has the proportions of an image (width, height)."""
    return abs(depth[0] * size[0] - depth[1] * size[1]) <= MOST_SKEW * size[0] * depth[0]


def not_of_one_shape(depth: tuple[int, ...], size: tuple[int, int]) -> str:
    """The reason why the two are of no use."""
    return f"a depth map has {depth[1]}x{depth[0]} pixels, its image {size[0]}x{size[1]}: they do not show the same"


def _at_size(shot: Shot, rgb: np.ndarray, height: int, width: int) -> tuple:
    """Image, K and depth of a shot, cropped to the centre with the target's aspect ratio and resized."""
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
        if not is_of_one_shape(whole.shape, (full_width, full_height)):
            raise InputError(not_of_one_shape(whole.shape, (full_width, full_height)))
        rows = (top + (np.arange(height) + 0.5) * tall / height) * whole.shape[0] / full_height
        columns = (left + (np.arange(width) + 0.5) * wide / width) * whole.shape[1] / full_width
        depth = whole[np.ix_(rows.astype(int), columns.astype(int))]  # nearest pixel: depth must not be interpolated
    return picture, K, depth
