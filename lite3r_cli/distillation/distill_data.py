"""The training data of distillation: procedural scenes, photographs with or without cameras, or a mixture.

Every draw is a function of (seed, step, rank), so that a resumed run gets the same data as an uninterrupted one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lite3r_cli.data.blendedmvs import is_blendedmvs, is_one_scene, load_blendedmvs
from lite3r_cli.data.content import joined
from lite3r_cli.data.dtu import is_dtu, load_dtu
from lite3r_cli.data.folder import is_folder_of_scenes, is_scene, load_photographs, load_scenes
from lite3r_cli.data.procedural.augment import augment
from lite3r_cli.data.steps import load_steps
from lite3r_cli.data.views import Known, Split, Views, ViewSet, choose_views, read_views
from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.resize import network_size
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.shape_schedule import Shape
from lite3r_cli.training.train_data import TrainingData

PROCEDURAL = "procedural"
HELD_OUT_SEED = 1_000_003  # added to the seed for held-out scenes
ASPECTS = (4 / 3, 3 / 2, 16 / 9, 1.0)
PORTRAIT = 0.25  # share of procedural steps in portrait format
MOST_ATTEMPTS = 20  # draws for one step if the images of a draw cannot be read
MOST_TOLD = 20  # damaged files that are listed one by one
Tell = Callable[[str], None]


@dataclass(frozen=True)
class DistillBatch:
    """B scenes with S equally sized views, on the device."""

    images: Tensor  # (B, S, 3, H, W) in [0, 1]
    decoded: Tensor  # (V,) views whose depth is computed
    targets: Targets | None = None  # ground truth, reference view 0; depth is all 0 if only cameras are known
    sky: bool = False  # whether pixels without true depth are sky


@dataclass(frozen=True)
class Sizes:
    """The shape of a step's images."""

    views: int
    batch: int
    resolution: int  # longest side
    multiple: int  # both sides are multiples of this
    seed: int


class Source(Protocol):
    """A source of training batches."""

    def batches(self, first: int) -> Iterator[DistillBatch]:
        """Batches from this source's draw number `first` on."""
        ...


@dataclass(frozen=True)
class Data:
    """The sources of training and validation batches."""

    train: tuple[Source, ...]
    held_out: tuple[Source, ...]
    notes: tuple[str, ...]  # one line per source for the user
    damaged: tuple[str, ...] = ()  # one line per file that is left out; only the first ones if there are many
    content: str = ""  # hash of all data, see data/content.py

    def batches(self, first: int, seed: int) -> Iterator[DistillBatch]:
        """Training batches from step `first` on, each from a random source."""
        drawn = [_pick(seed, step, len(self.train)) for step in range(first)]
        running: dict[int, Iterator[DistillBatch]] = {}
        step = first
        while True:
            i = _pick(seed, step, len(self.train))
            if i not in running:
                running[i] = self.train[i].batches(drawn.count(i))
            yield next(running[i])
            step += 1

    def measured(self, count: int) -> list[DistillBatch]:
        """`count` held-out batches, the same in every call, from all sources in turn."""
        sources = [source.batches(0) for source in self.held_out]
        return [next(sources[i % len(sources)]) for i in range(count)]


def _pick(seed: int, step: int, count: int) -> int:
    return int(np.random.default_rng([seed, step, 7]).integers(count)) if count > 1 else 0


# -- procedural scenes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shapes:
    """The shape of a step's images, for the data engine of `lite3r train`."""

    sizes: Sizes

    def __call__(self, step: int) -> Shape:
        rng = np.random.default_rng([self.sizes.seed, step, 1])
        height, width = network_size(round(1000 * ASPECTS[rng.integers(len(ASPECTS))]), 1000, self.sizes.resolution,
                                     self.sizes.multiple)  # fmt: skip
        if rng.random() < PORTRAIT:
            height, width = width, height
        return Shape(self.sizes.batch, self.sizes.views, height, width)


class ProceduralSource:
    """Rendered procedural scenes with exact depth and cameras."""

    def __init__(self, sizes: Sizes, device: torch.device, rank: int, workers: int, textures: Path | None):
        self.data = TrainingData(_Shapes(sizes), device, rank, workers, textures, None, sizes.seed)

    def held_out(self) -> ProceduralSource:
        """A source of other scenes, the same for every rank. It shares the textures."""
        other = copy.copy(self)
        other.data = copy.copy(self.data)
        other.data.seed, other.data.rank, other.data.workers = self.data.seed + HELD_OUT_SEED, 0, 0
        return other

    def batches(self, first: int) -> Iterator[DistillBatch]:
        for batch in self.data.batches(first):
            t = batch.targets
            zero = torch.zeros_like(t.reference)
            assert batch.decoded is not None  # procedural scenes always set it
            yield DistillBatch(batch.images, batch.decoded, Targets(t.depth, t.K, t.cam_from_world, zero), sky=True)


# -- photographs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """A step's photographs, not yet on the device."""

    images: Tensor  # (B, S, H, W, 3) uint8
    K: Tensor | None
    cam_from_world: Tensor | None
    depth: Tensor | None
    seed: int
    left_out: tuple[str, ...] = ()  # files of earlier attempts that could not be read, with reasons


@dataclass(frozen=True)
class _Draw:
    """A function: step → photographs."""

    scenes: Sequence[ViewSet]
    sizes: Sizes
    seed: int
    rank: int

    def __call__(self, step: int) -> _Drawn:
        """If a file cannot be read, another draw replaces it, which also depends only on the step.

        Raises InputError if MOST_ATTEMPTS draws fail.
        """
        left_out: list[str] = []
        for attempt in range(MOST_ATTEMPTS):
            rng = np.random.default_rng([self.seed, step, self.rank, 3, *([attempt] if attempt else [])])
            try:
                return replace(self._drawn(rng), left_out=tuple(left_out))
            except InputError as error:
                left_out.append(str(error))
        raise InputError(f"{MOST_ATTEMPTS} draws for step {step} could not be read, the last one: {left_out[-1]}")

    def _drawn(self, rng: np.random.Generator) -> _Drawn:
        scenes = [self.scenes[int(rng.integers(len(self.scenes)))] for _ in range(self.sizes.batch)]
        count = min(self.sizes.views, *(len(scene.shots) for scene in scenes))
        parts: list[Views] = []
        size: tuple[int, int] | None = None
        for scene in scenes:
            shots = [scene.shots[i] for i in choose_views(scene, rng, count)]
            parts.append(read_views(shots, self.sizes.resolution, self.sizes.multiple, size))
            size = parts[0].images.shape[1], parts[0].images.shape[2]
        images = torch.from_numpy(np.stack([part.images for part in parts]))
        K, poses, depth = (_stacked([getattr(p, name) for p in parts]) for name in ("K", "cam_from_world", "depth"))
        return _Drawn(images, K, poses, depth, seed=int(rng.integers(2**31)))


def _stacked(values: Sequence[np.ndarray | None]) -> Tensor | None:
    """All arrays stacked; None if one is missing."""
    known = [value for value in values if value is not None]
    return torch.from_numpy(np.stack(known)) if len(known) == len(values) else None


class PhotographSource:
    """Photographs of some scenes; `augmented` varies colours, blur and noise as between cameras."""

    def __init__(
        self, scenes: Sequence[ViewSet], sizes: Sizes, device: torch.device, rank: int, workers: int, seed: int,
        augmented: bool = True, tell: Tell = lambda text: None,
    ):  # fmt: skip
        """`tell` gets one message for each file that could not be read when it was drawn."""
        self.tell, self.told = tell, set[str]()
        self.scenes, self.sizes, self.device, self.rank = scenes, sizes, device, rank
        self.workers, self.seed, self.augmented = workers, seed, augmented

    def batches(self, first: int) -> Iterator[DistillBatch]:
        draw = _Draw(self.scenes, self.sizes, self.seed, self.rank)
        return map(self._on_device, load_steps(draw, first, self.workers))

    def _on_device(self, drawn: _Drawn) -> DistillBatch:
        for text in drawn.left_out:
            if text not in self.told:
                self.told.add(text)
                self.tell(f"left out, another draw takes its place ({len(self.told)} so far): {text}")
        images = drawn.images.to(self.device).permute(0, 1, 4, 2, 3).float() / 255
        if self.augmented:
            images = augment(images, torch.Generator(self.device).manual_seed(drawn.seed))
        views = images.shape[1]
        decoded = np.random.default_rng([drawn.seed, 1]).permutation(views)[: (views + 1) // 2]
        return DistillBatch(images, torch.from_numpy(decoded).to(self.device), self._targets(drawn))

    def _targets(self, drawn: _Drawn) -> Targets | None:
        if drawn.K is None or drawn.cam_from_world is None:
            return None
        batch, views, height, width = drawn.images.shape[:4]
        depth = torch.zeros(batch, views, height, width) if drawn.depth is None else drawn.depth
        reference = torch.zeros(batch, dtype=torch.long)
        K, poses = drawn.K.to(self.device), drawn.cam_from_world.to(self.device)
        return Targets(depth.to(self.device), K, poses, reference.to(self.device))


# -- what was asked for ------------------------------------------------------------------------------------------------

Loader = Callable[[list[Path]], Split]


def _one_by_one(load: Callable[[Path], Split]) -> Loader:
    """Turn a loader of one folder into a loader of several folders, whose parts are concatenated."""

    def load_all(folders: list[Path]) -> Split:
        parts = [load(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
        train, held_out = (tuple(s for p in parts for s in getattr(p, name)) for name in ("train", "held_out"))
        return Split(train, held_out, "; ".join(p.note for p in parts), tuple(t for p in parts for t in p.damaged))

    return load_all


# Kind → test whether a folder has this layout, and loader. The first match is used.
KINDS: dict[str, tuple[Callable[[Path], bool], Loader]] = {
    "blendedmvs": (is_blendedmvs, _one_by_one(load_blendedmvs)),
    "dtu": (is_dtu, _one_by_one(load_dtu)),
    "scenes": (lambda folder: is_scene(folder) or is_folder_of_scenes(folder), load_scenes),
    "photographs": (Path.is_dir, load_photographs),
}


def kind_of(path: Path) -> str:
    """The kind of data in a folder, a key of KINDS. Raises UsageError if the folder does not exist."""
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; data are folders of photos or datasets, or {PROCEDURAL}")
    if is_one_scene(path):
        raise UsageError(
            f"{path}: one scene of BlendedMVS; name the folder of the set, in which it is: {path.absolute().parent}"
        )
    return next(kind for kind, (fits, _) in KINDS.items() if fits(path))


def open_data(
    inputs: Sequence[str],
    sizes: Sizes,
    device: torch.device,
    rank: int,
    workers: int,
    textures: Path | None,
    strict: bool = False,
    tell: Tell = lambda text: None,
    is_content: Tell = lambda content: None,
) -> Data:
    """The sources for the inputs of the command line, one per kind of data. Damaged files are left out and listed; with
    `strict` they raise InputError. `tell` gets messages about damage that is found later, and `is_content` the hash of
    all data, before anything slow is made of them. Raises UsageError or InputError if there is nothing to train on.
    """
    train: list[Source] = []
    held_out: list[Source] = []
    notes: list[str] = []
    left_out: list[str] = []
    seed = sizes.seed
    splits = [with_enough_views(each, sizes.views) for each in _splits(inputs)]
    damaged = [text for each in splits for text in each.damaged]
    if damaged and strict:
        raise InputError(f"{damaged[0]}" + (f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""))
    splits = without_held_out(splits)
    scenes = [scene for each in splits for part in (each.train, each.held_out) for scene in part]
    content = joined([*([PROCEDURAL] if PROCEDURAL in inputs else []), *(scene.content for scene in scenes)])
    is_content(content)
    if PROCEDURAL in inputs:
        source = ProceduralSource(sizes, device, rank, workers, textures)
        train.append(source)
        held_out.append(source.held_out())
        notes.append("procedural scenes, others held out")
    for split in splits:
        notes.append(split.note)
        left_out += _damage_in_words(split.damaged)
        if split.train:
            train.append(PhotographSource(split.train, sizes, device, rank, workers, seed, tell=tell))
        if split.held_out:
            other = seed + HELD_OUT_SEED
            held_out.append(PhotographSource(split.held_out, sizes, device, 0, 0, other, augmented=False, tell=tell))
    if not train:
        raise (InputError if damaged else UsageError)(f"nothing to train on: {'; '.join([*notes, *damaged[:1]])}")
    if not held_out:
        held_out, notes = train, [*notes, "nothing is held out: what is measured was trained on, too"]
    return Data(tuple(train), tuple(held_out), tuple(notes), tuple(left_out), content)


def _splits(inputs: Sequence[str]) -> list[Split]:
    by_kind: dict[str, list[Path]] = {}
    for name in inputs:
        if name != PROCEDURAL:
            by_kind.setdefault(kind_of(Path(name)), []).append(Path(name))
    return [KINDS[kind][1](folders) for kind, folders in by_kind.items()]


def _damage_in_words(damaged: Sequence[str]) -> list[str]:
    """Lines for the first MOST_TOLD damaged files, and the number of the others."""
    more = len(damaged) - MOST_TOLD
    return [f"left out: {text}" for text in damaged[:MOST_TOLD]] + ([f"left out: {more} more"] if more > 0 else [])


def without_held_out(splits: Sequence[Split]) -> list[Split]:
    """The splits without training scenes that are also held out, in the same or another folder or data set.

    A split whose single scene is used for both is not changed; its note says so.
    """
    alone = [each.train == each.held_out for each in splits]
    held = Known(scene for each, one in zip(splits, alone) if not one for scene in each.held_out)
    kept = []
    for split, one in zip(splits, alone):
        both = [] if one else [scene for scene in split.train if held.find(scene)]
        if both:
            names = ", ".join(scene.name for scene in both[:5])
            note = f"{split.note}; not trained on, because held out: {names}"
            split = replace(split, train=tuple(scene for scene in split.train if scene not in both), note=note)
        kept.append(split)
    return kept


def with_enough_views(split: Split, views: int) -> Split:
    """The split without scenes that have fewer photographs than a step needs, because attention over few tokens is a
    different task. If no scene has enough, those with the most photographs stay.
    """
    every = [*split.train, *split.held_out]
    needed = min(views, max((len(scene.shots) for scene in every), default=0))
    short = sorted({scene.name for scene in every if len(scene.shots) < needed})
    if not short:
        return split
    train, held_out = (tuple(s for s in part if len(s.shots) >= needed) for part in (split.train, split.held_out))
    note = f"{split.note}; {len(short)} left out, below {needed} views: {', '.join(short[:5])}"
    return Split(train, held_out, note, split.damaged)


def first_batches(data: Data, count: int, seed: int) -> list[DistillBatch]:
    """The first `count` training batches, for work before the first step."""
    return list(islice(data.batches(0, seed), count))
