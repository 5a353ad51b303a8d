"""`lite3r add`: add new photos to an existing scene."""

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
from ..io.images import ImageSet
from ..io.names import output_stems, printable, unique_names
from ..io.output_layout import files_of_run
from ..io.view_memory import source_of
from ..scene.posed_view import View
from .finding import find_images
from .place_in_scene import fitted_depth
from .rewritten import Rewriting, Written, adjusted, rewrite
from .scene_finder import Finder, Located, Refused
from .scene_members import Member, members_of, stored_config
from .stated_cameras import stated_cameras
from .written_scene import AGAIN, WrittenScene

KNOWN = "is in the scene already"


@dataclass(frozen=True)
class Added:
    """The outcome of the photos."""

    added: list[Located]
    refused: list[Refused]
    written: Written | None  # None: no photo was added, nothing has changed
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

    Raises InputError if there is no scene, if its photographs or its memory are missing, or if no photo is readable;
    OutputError if the scene cannot be written.
    """
    progress = progress or Progress()
    target = place_of(config.scene)
    with OutputSet(target, overwrite=True) as out:
        scene = WrittenScene.at(config.scene)
        made = stored_config(scene)
        predict = network_of(made, config.device, config.dtype, config.adjust)
        members = members_of(scene, made, warn)
        photos = find_images(InputConfig(config.inputs, panorama="off"), progress, warn, predict.model)
        photos, known = _new_ones(photos, members)
        cameras = stated_cameras(config.cameras, photos.records, [member.view for member in members])
        finder = Finder(scene, photos, replace(predict, refine=made.predict.refine), config.views, progress, warn)
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
    """The value of -o with which the scene was written. Cleans up what a stopped run has left there.
    Raises InputError.
    """
    beside = path.absolute().parent / f"{path.absolute().name}.ply"
    for each in (path, beside):
        if os.path.lexists(each) or os.path.lexists(each.with_suffix("")):
            bring_right(each)
    scene = WrittenScene.at(path)
    layout, listed = scene.layout, scene.facts.get("files")
    clouds = [name for name in listed if name.endswith(".ply")] if isinstance(listed, dict) else []
    if clouds and layout.cloud not in clouds:
        was = printable(clouds[0])
        raise InputError(f"{path}: was written as {was} and renamed since: rename the cloud and its folder back")
    scene.require_record()
    own = {layout.cloud, layout.inside("cameras.json")}
    if not own <= (files_of_run(layout) or {}).keys():
        raise InputError(f"{layout.root / layout.run_json}: does not list the scene's own files; {AGAIN}")
    return str(layout.root / layout.cloud if layout.folder else layout.root)


def network_of(made: ReconstructConfig, device: str, dtype: str, adjust: bool) -> PredictConfig:
    """The network that made the scene. Options about the cameras of the old photos are removed, because they do not
    hold for new ones.
    """
    own = replace(made.predict, cameras=None, depth=None, depth_scale=None, device=device, dtype=dtype)
    if own.intrinsics_file is not None:
        own = replace(own, intrinsics="auto")
    return replace(own, refine=True) if adjust else own


def place_all(finder: Finder, cameras: Mapping[str, View], progress: Progress) -> tuple[list[Located], list[Refused]]:
    """Place the photos one by one; a photo may be placed relative to those before it. Photos that do not fit are tried
    again as long as others have been placed since.
    """
    placed: list[Located] = []
    waiting: dict[int, Refused | None] = dict.fromkeys(finder.photos)
    with progress.stage("Locate", total=len(waiting)) as step:
        before = -1
        while waiting and len(placed) > before:
            before = len(placed)
            for i in list(waiting):
                camera = cameras.get(finder.images.records[i].name)
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
    """The photo with depth and confidence scaled to those of the photographs that it was placed by."""
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
    """The photos that the scene does not have yet, with unused names."""
    there = {m.source.identity: m.record.name for m in members if m.source is not None}
    new, known = [], []
    for record in photos.records:
        source = source_of(record.path, record.frame)
        name = None if source is None else there.get(source.identity)
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
    step: dict[str, Any] = {
        "command": "add",
        "photos": [str(path) for path in config.inputs],
        "cameras": None if config.cameras is None else str(config.cameras),
        "adjust": config.adjust,
        "added": [each.name for each in found],
    }
    accounts = {each.name: each.predictions.account for each in found if each.predictions.account is not None}
    if accounts:  # from --refine of each photo with its neighbours
        step["refinement"] = accounts
    return Rewriting(asked, [*members, *new], scene.facts, scene.frame, scene.up, others, refused, step)
