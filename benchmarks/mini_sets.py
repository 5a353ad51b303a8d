"""What `mini_accuracy.py` measures: sets of cases. A case is one prediction, with what it is compared with.

Scenes come from folders with images/ and cameras.json, or are drawn here by the ray caster that `mini` was trained
with, from seeds that no training uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distill_mini import MEASURED_SEED
from torch import Tensor

from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.sampling import SceneConfig
from lite3r_cli.data.procedural.scene_batches import TrainingBatch, render_batch, sample_batch
from lite3r_cli.data.procedural.textures import Atlas
from lite3r_cli.data.steps import load_steps
from lite3r_cli.distillation.distill_data import ProceduralSource, Sizes
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import ImageRecord, ImageSet
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.mini.facts import FAMILY
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines.evaluate_scenes import open_scene, windows
from lite3r_cli.pipelines.preprocess import fit
from lite3r_cli.scene.geometry import scale_intrinsics
from lite3r_cli.scene.posed_view import View

LENS_SEED, MANY_SEED = 4242, 91_000_000
LENS_SIZE, MANY_SIZE = (480, 640), (392, 518)  # height, width: those of `lite3r synth`, and of the network
STILL = CameraConfig(shuffled=0.0)  # views in the order of the path, as `lite3r synth` has them
RESOLUTION, PATCH = FAMILY.preparation.resolution, 14


@dataclass(frozen=True)
class Pictures:
    """Views of one scene in order: what the network sees, and the truth."""

    name: str
    truth: list[View]
    inputs: list[NetworkInput]

    def images(self, shown: Sequence[int]) -> ImageSet:
        """Names and sizes of some views, as `to_views` needs them; there are no files."""
        views = [self.truth[i] for i in shown]
        return ImageSet([ImageRecord(v.name, Path(v.name), v.width, v.height, stem=v.name) for v in views])


@dataclass(frozen=True)
class Case:
    """A prediction from the views `shown` of a scene, scored on the windows `judged` of its views.

    The picture of a `stranger` is shown after the others: (picture, its place among them).
    """

    pictures: Pictures
    shown: tuple[int, ...]
    judged: tuple[tuple[int, ...], ...]
    stranger: tuple[NetworkInput, int] | None = None
    focal_known: bool = False

    def inputs(self) -> list[NetworkInput]:
        """What the network sees, the stranger in its place."""
        found = [self.pictures.inputs[i] for i in self.shown]
        if self.stranger is not None:
            picture, place = self.stranger
            found.insert(place, picture)
        return found

    def cameras(self) -> dict[str, KnownCameras]:
        """What the network is told beside the images, by the name of the argument."""
        if not self.focal_known:
            return {}
        K = []
        for i in self.shown:
            view, (height, width) = self.pictures.truth[i], self.pictures.inputs[i].full
            K.append(scale_intrinsics(view.K, width / view.width, height / view.height))
        nothing = torch.full((len(K), 3, 4), torch.nan)
        return {"cameras": KnownCameras(nothing, torch.from_numpy(np.stack(K)).float())}


@dataclass(frozen=True)
class Set:
    """Cases that are scored together."""

    name: str
    cases: list[Case]
    against: str = ""  # name of an earlier set with the same scenes and pairs of views, that it is compared with


CARD = "card, 4 views"
PARTS = ("card", "beside", "lenses", "drawn", "many")


@dataclass(frozen=True)
class Amount:
    """How many scenes are drawn."""

    drawn: int = 128  # of eight views; the first 64 are those of `sparse_forms.py`
    lens: int = 8  # for each field of view
    fields_of_view: tuple[int, ...] = (20, 30, 90, 100)  # degrees, those of the goals
    many: tuple[tuple[int, int], ...] = ((8, 16), (24, 6), (100, 2))  # views, scenes
    strangers: int = 64


FEW = Amount(3, 1, (20, 90), ((8, 1),), 3)  # for a CPU


# -- scenes ------------------------------------------------------------------------------------------------------------


def read_scene(folder: Path) -> Pictures:
    """A scene on disk."""
    scene = open_scene(folder)
    inputs = [fit(scene.images.read(i), FAMILY.preparation, None, PATCH) for i in scene.indices]
    return Pictures(folder.name, read_cameras_json(folder), inputs)


def drawn_as_trained(count: int, source: ProceduralSource) -> Iterator[Pictures]:
    """Scenes as training draws them, in any order of views, dark and noisy ones among them; `sparse_forms.py` and
    `distill_mini.py` measure the first 64.
    """
    for i, batch in enumerate(islice(source.batches(0), count)):
        assert batch.targets is not None
        t = batch.targets
        yield pictures(f"drawn {i}", batch.images[0], t.depth[0], t.K[0], t.cam_from_world[0])


@dataclass(frozen=True)
class Draw:
    """A function: number → scene, not yet rendered."""

    scenes: SceneConfig
    cameras: CameraConfig
    views: int
    size: tuple[int, int]  # height, width
    seed: int
    samples: int  # rays a pixel

    def __call__(self, step: int) -> TrainingBatch:
        return sample_batch(self.scenes, self.cameras, (1, self.views, *self.size), self.seed, step, 0)


def rendered(draw: Draw, count: int, atlas: Atlas, device: torch.device, workers: int) -> Iterator[Pictures]:
    """The scenes of a draw."""
    for i, batch in enumerate(islice(load_steps(draw, 0, min(count, workers)), count)):
        images, depth, K, poses = render_batch(batch.to(device), atlas, samples=draw.samples)
        yield pictures(f"{draw.views} views {i}", images[0], depth[0], K[0], poses[0])


def pictures(name: str, images: Tensor, depth: Tensor, K: Tensor, poses: Tensor) -> Pictures:
    """S rendered views: images (S, 3, H, W) in [0, 1], depth (S, H, W), K (S, 3, 3), cam_from_world (S, 3, 4)."""
    rgbs = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    arrays = [x.cpu().numpy() for x in (depth, K.double(), poses.double())]
    height, width = rgbs.shape[1:3]
    truth = [
        View(f"{i}", width, height, K=k, cam_from_world=pose, depth=z) for i, (z, k, pose) in enumerate(zip(*arrays))
    ]
    return Pictures(name, truth, [fit(rgb, FAMILY.preparation, None, PATCH) for rgb in rgbs])


# -- sets --------------------------------------------------------------------------------------------------------------


def at_a_time(scenes: Sequence[Pictures], size: int) -> list[Case]:
    """Windows of `size` views, as `lite3r eval` cuts them, each predicted alone."""
    cut = [(scene, tuple(part)) for scene in scenes for part in windows(len(scene.truth), size)]
    return [Case(scene, part, (part,)) for scene, part in cut]


def each_alone(scene: Pictures, size: int) -> list[Case]:
    """Windows of one scene, each counted as a scene: their spread is all that one scene has. They overlap by half."""
    cut = [list(part) for part in windows(len(scene.truth), size)]
    parts = [[[those[i] for i in part] for those in (scene.truth, scene.inputs)] for part in cut]
    return at_a_time([Pictures(f"{scene.name} {part[0]}", *both) for part, both in zip(cut, parts)], size)


def all_at_once(scenes: Sequence[Pictures], size: int) -> list[Case]:
    """All views predicted together, and scored on windows of `size`: on the pairs of `at_a_time`."""
    parts = [(scene, windows(len(scene.truth), size)) for scene in scenes]
    return [Case(scene, tuple(range(len(scene.truth))), tuple(map(tuple, cut))) for scene, cut in parts]


def with_stranger(scenes: Sequence[Pictures]) -> tuple[list[Case], list[Case]]:
    """Seven views of each scene alone, and with a picture of the next scene among them, never the first one."""
    alone, beside = [], []
    for i, scene in enumerate(scenes):
        rng = np.random.default_rng([i, 27])
        shown = tuple(range(min(7, len(scene.truth))))
        other = scenes[(i + 1) % len(scenes)].inputs
        alone.append(Case(scene, shown, (shown,)))
        guest = other[int(rng.integers(len(other)))], int(rng.integers(1, len(shown) + 1))
        beside.append(replace(alone[-1], stranger=guest))
    return alone, beside


def told_focal(cases: Sequence[Case]) -> list[Case]:
    return [replace(case, focal_known=True) for case in cases]


def make_sets(
    card: Sequence[Path],
    beside: Sequence[Path],
    amount: Amount,
    only: Sequence[str],
    device: torch.device,
    workers: int,
) -> Iterator[Set]:
    """The sets, each made when it is asked for. `beside`: scenes that the card's means do not contain. `only`: some of
    PARTS.
    """
    given, others = ([read_scene(folder) for folder in some] for some in (card, beside))
    if given and "card" in only:
        yield Set(CARD, at_a_time(given, 4))
        yield Set(f"{CARD}, focal length told", told_focal(at_a_time(given, 4)), CARD)
        yield Set("card, 8 views", at_a_time(given, 8))
        yield Set("card, all views at once", all_at_once(given, 4), CARD)
    for scene in others if "beside" in only else ():
        for views in (4, 8):
            yield Set(f"{scene.name}, {views} views", each_alone(scene, views))
    if not {"drawn", "lenses", "many"} & set(only):
        return
    source = ProceduralSource(Sizes(8, 1, RESOLUTION, PATCH, MEASURED_SEED), device, 0, workers, None)

    def draw(views: int, count: int, **how: Any) -> list[Pictures]:
        return list(rendered(Draw(source.data.scenes, views=views, **how), count, source.data.atlas, device, workers))

    if "drawn" in only:
        drawn = list(drawn_as_trained(amount.drawn, source))
        yield Set("drawn, 8 views", at_a_time(drawn, 8))
        hosts = [*(scene for scene in [*given, *others] if len(scene.truth) >= 7), *drawn[: amount.strangers]]
        alone, beside_stranger = with_stranger(hosts)
        yield Set("7 views", alone)
        yield Set("7 views and an unrelated one", beside_stranger, "7 views")
    for degrees in amount.fields_of_view if "lenses" in only else ():
        lens = replace(STILL, any_lens=1.0, lenses=(float(degrees), float(degrees)))
        cases = at_a_time(draw(8, amount.lens, cameras=lens, size=LENS_SIZE, seed=LENS_SEED, samples=8), 4)
        yield Set(f"{degrees}°", cases)
        yield Set(f"{degrees}°, focal length told", told_focal(cases), f"{degrees}°")
    for views, count in amount.many if "many" in only else ():
        made = draw(views, count, cameras=STILL, size=MANY_SIZE, seed=MANY_SEED + views, samples=2)
        fours = f"{views} views in fours"
        yield Set(fours, at_a_time(made, 4))
        yield Set(f"{views} views at once", all_at_once(made, 4), fours)
