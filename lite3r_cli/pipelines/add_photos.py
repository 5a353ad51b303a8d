"""New photos become part of a scene that is there: `lite3r add`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import InputConfig, PredictConfig, ReconstructConfig
from ..config.adding import AddConfig
from ..console import Progress, Tell
from ..errors import InputError
from ..io.atomic import OutputSet, bring_right
from ..io.foreign_cameras import read_known_cameras
from ..io.images import ImageRecord, ImageSet
from ..io.names import output_stems, printable, unique_names
from ..scene.posed_view import View
from .beforehand import find_camera
from .finding import find_images
from .place_in_scene import fitted_depth
from .rewritten import Rewriting, Written, adjusted, rewrite
from .scene_finder import Finder, Located, Refused
from .scene_members import Member, file_of, members_of, stored_config
from .written_scene import WrittenScene

KNOWN = "is in the scene already"


@dataclass(frozen=True)
class Added:
    """What became of the photos."""

    added: list[Located]
    refused: list[Refused]
    written: Written | None  # None: no photo was added, nothing is changed
    choices: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        return {
            "added": [each.document() for each in self.added],
            "refused": [vars(each) for each in self.refused],
            "scene": None if self.written is None else self.written.document(),
            "runtime": self.choices,
        }


def add(config: AddConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Added:
    """Add photos; the scene changes as a whole or not at all.

    Raises InputError where there is no scene, its photographs or its memory are gone, or no photo can be read;
    OutputError where the scene cannot be written.
    """
    progress = progress or Progress()
    target = place_of(config.scene)
    with OutputSet(target, overwrite=True) as out:
        scene = WrittenScene.at(config.scene)
        made = stored_config(scene)
        cameras = {} if config.cameras is None else {v.name: v for v in read_known_cameras(config.cameras)}
        predict = network_of(made, config.device, config.dtype, config.adjust)
        members = members_of(scene, made, warn)
        photos = find_images(InputConfig(config.inputs, panorama="off"), progress, warn, predict.model)
        photos, known = _new_ones(photos, members)
        finder = Finder(scene, photos, replace(predict, refine=made.predict.refine), config.views, progress, warn)
        _require_cameras(config, cameras, photos)
        found, refused = place_all(finder, cameras, progress)
        refused = [*known, *finder.unreadable, *refused]
        written = None
        if found:
            plan = _plan(config, scene, made, members, found, refused, photos)
            if config.adjust:
                plan = adjusted(plan, finder.predictor, progress)
            written = rewrite(out, plan, finder.predictor, progress, warn)
    return Added(found, refused, written, finder.predictor.choices())


def place_of(path: Path) -> str:
    """What -o was when the scene was written; what a stopped run has left there is brought right. Raises InputError."""
    beside = path.absolute().parent / f"{path.absolute().name}.ply"
    for each in (path, beside):
        if os.path.lexists(each) or os.path.lexists(each.with_suffix("")):
            bring_right(each)
    layout = WrittenScene.at(path).layout
    return str(layout.root / layout.cloud if layout.folder else layout.root)


def network_of(made: ReconstructConfig, device: str, dtype: str, adjust: bool) -> PredictConfig:
    """The network that the scene was made with; what is known of the old photos does not hold for new ones."""
    own = replace(made.predict, cameras=None, depth=None, depth_scale=None, device=device, dtype=dtype)
    if own.intrinsics_file is not None:
        own = replace(own, intrinsics="auto")
    return replace(own, refine=True) if adjust else own


def place_all(finder: Finder, cameras: Mapping[str, View], progress: Progress) -> tuple[list[Located], list[Refused]]:
    """Place photo after photo; each may stand beside those that were placed before it. Those that do not fit are tried
    again as long as others have been placed since.
    """
    placed: list[Located] = []
    waiting: dict[int, Refused | None] = dict.fromkeys(finder.photos)
    with progress.stage("Locate", total=len(waiting)) as step:
        before = -1
        while waiting and len(placed) > before:
            before = len(placed)
            for i in list(waiting):
                camera = _camera_of(finder.images.records[i], cameras)
                found = finder.locate(i) if camera is None else finder.place(i, camera)
                if isinstance(found, Refused):
                    waiting[i] = found
                    continue
                found = _in_terms_of_the_scene(found)
                finder.accept(found)
                placed.append(found)
                del waiting[i]
                step()
    return placed, [each for each in waiting.values() if each is not None]


def _in_terms_of_the_scene(found: Located) -> Located:
    """With its depth and its confidence at the scale of those photographs' that it stands beside."""
    own = [view for view, _ in found.nearest]
    view = fitted_depth(found.view, own)
    ratios = []
    for mine, seen in zip(own, found.predictions.views):
        before, now = (np.zeros(0) if v.confidence is None else v.confidence[v.confidence > 0] for v in (mine, seen))
        if len(before) and len(now):
            ratios.append(float(np.median(before) / np.median(now)))
    if ratios and view.confidence is not None:
        view = replace(view, confidence=view.confidence * np.float32(np.median(ratios)))
    return replace(found, placement=replace(found.placement, view=view))


def _new_ones(photos: ImageSet, members: Sequence[Member]) -> tuple[ImageSet, list[Refused]]:
    """The photos with names that are free, without those that the scene has already."""
    there = {key: m.record.name for m in members if (key := file_of(m.record)) is not None}
    new, known = [], []
    for record in photos.records:
        key = file_of(record)
        name = None if key is None else there.get(key)
        if name is None:
            new.append(record)
        else:
            known.append(Refused(record.name, KNOWN if name == record.name else f"{KNOWN}, as {printable(name)}"))
    if not new:
        told = "; ".join(f"{printable(each.name)} {each.reason}" for each in known[:3])
        raise InputError(f"all photos given are in the scene already: {told}{'; …' if len(known) > 3 else ''}")
    taken, stems = ([getattr(m.record, what) for m in members] for what in ("name", "stem"))
    names = unique_names([*taken, *(record.name for record in new)])[len(taken) :]
    free = unique_names([*stems, *output_stems(names)])[len(stems) :]
    return replace(photos, records=[replace(r, name=n, stem=s) for r, n, s in zip(new, names, free)]), known


def _camera_of(record: ImageRecord, cameras: Mapping[str, View]) -> View | None:
    """By the name of the photo's file, which it may not have in the scene."""
    name = record.name if record.frame is not None else record.path.name
    return find_camera(dict(cameras), record.name) or find_camera(dict(cameras), name)


def _require_cameras(config: AddConfig, cameras: Mapping[str, View], photos: ImageSet) -> None:
    """Raises InputError for cameras that are of no photo, or of pictures of another size."""
    if config.cameras is None:
        return
    pairs = [(record, _camera_of(record, cameras)) for record in photos.records]
    if all(camera is None for _, camera in pairs):
        raise InputError(f"{config.cameras}: has a camera for none of the photos ({photos.records[0].name}, …)")
    for record, camera in pairs:
        if camera is not None and (camera.width, camera.height) != (record.width, record.height):
            raise InputError(
                f"{config.cameras}: the camera of {record.name} is of {camera.width}x{camera.height} pixels, the photo "
                f"has {record.width}x{record.height}"
            )
        if camera is not None and camera.lens is not None:
            raise InputError(f"{config.cameras}: the camera of {record.name} bends lines: give undistorted pictures")


def _plan(
    config: AddConfig,
    scene: WrittenScene,
    made: ReconstructConfig,
    members: Sequence[Member],
    found: Sequence[Located],
    refused: Sequence[Refused],
    photos: ImageSet,
) -> Rewriting:
    new = []
    for each in found:
        verdicts = each.predictions.verdicts
        new.append(
            Member(
                each.view, photos.records[each.photo], each.predictions.network_sizes[-1],
                verdict=None if verdicts is None else dict(verdicts[-1]),
            )
        )  # fmt: skip
    images = scene.facts.get("images")
    others = (
        [e for e in images if isinstance(e, dict) and e.get("verdict") != "used"] if isinstance(images, list) else []
    )
    inputs = (*made.input.inputs, *(Path(os.path.abspath(path)) for path in config.inputs))
    layout = scene.layout
    asked = replace(
        made,
        input=replace(made.input, inputs=inputs),
        output=str(layout.root / layout.cloud if layout.folder else layout.root),
        overwrite=True,
    )
    step = {
        "command": "add",
        "photos": [str(path) for path in config.inputs],
        "cameras": None if config.cameras is None else str(config.cameras),
        "adjust": config.adjust,
        "added": [each.name for each in found],
    }
    return Rewriting(asked, [*members, *new], scene.facts, scene.frame, scene.up, others, refused, step)
