"""Writes a scene of known views again, as `reconstruct` writes one. The last step of `add` and `merge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..config import ReconstructConfig
from ..console import Progress, Tell
from ..io.atomic import OutputSet
from ..io.documents import read_json
from ..io.files import write_json
from ..io.formats import EXTRA_FORMATS
from ..io.images import ImageSet
from ..io.output_layout import OutputLayout, files_of_run
from ..networks.pictures import NetworkInput
from ..scene.frame import WorldFrame, local_origin, move_views, translation
from ..scene.geometry import camera_centres
from ..scene.lazy_views import cameras_of
from ..scene.posed_view import View
from ..scene.priors import CameraPriors, FocalPrior
from ..scene.sparse_points import SparseModel
from ..world.gravity import Up
from ..world.level import level_scene
from ..world.registration import similarity_from_cameras
from ..world.undistort import UndistortedImages
from .depth_request import DepthFiles, depth_warnings
from .fuse_views import fuse_views
from .predict import Predictions, Predictor
from .result import Scene, write_scene
from .run_info import Part, run_info, seconds_info
from .scene_finder import Refused
from .scene_formats import format_warnings
from .scene_members import Member
from .view_files import ViewFiles


@dataclass(frozen=True)
class Rewriting:
    """The scene to write."""

    config: ReconstructConfig
    members: Sequence[Member]
    facts: Mapping[str, Any]  # run.json of the scene that defines the frame
    frame: WorldFrame
    up: np.ndarray | None  # (3,) up direction, if known
    others: Sequence[Mapping[str, Any]]  # entries of run.json for images without a view
    refused: Sequence[Refused]
    step: Mapping[str, Any]  # the entry of `history` in run.json
    account: dict[str, object] | None = None  # of a refinement of all cameras together
    sparse: SparseModel | None = None  # points that `--refine` matched in the images


@dataclass(frozen=True)
class Written:
    """The outcome, for the table and for --json."""

    cloud: Path
    folder: Path
    views: int
    points: int
    warnings: list[str]

    def document(self) -> dict[str, Any]:
        return {
            "cloud": str(self.cloud), "folder": str(self.folder), "views": self.views, "points": self.points,
            "warnings": self.warnings,
        }  # fmt: skip


def rewrite(out: OutputSet, plan: Rewriting, predictor: Predictor, progress: Progress, warn: Tell) -> Written:
    """Fuse the views and write every output that the scene has. Raises OutputError, InputError."""
    warnings: list[str] = []
    made_before = _made_of_the_scene_before(out.layout)

    def tell(text: str) -> None:
        warnings.append(text)
        warn(text)

    plan = _with_points(plan, progress)
    members, config = plan.members, plan.config
    images, found = _images(plan), _predictions(plan)
    device = predictor.runtime.torch_device
    cloud, statistics = fuse_views(config, images, found, device, progress, tell, None)
    for text in (*format_warnings(config, found), *depth_warnings(config, found.views, found.frame.metric)):
        tell(text)
    level = None if plan.up is None else level_scene(cameras_of(found.views), cloud, Up(plan.up, "stated", True))
    part = Part(found, cloud, statistics, level)
    facts = run_info(config.predict.seed, predictor, images, [part], [], [], predictor.network.ran, warnings, progress)
    scene = Scene(config, cloud, _facts(plan, facts), predictor.fingerprint, images, found, level)
    kept = {member.record.stem: member.kept for member in members if member.kept is not None}
    with (
        progress.stage("Write"),
        ViewFiles(out, config.previews, config.save_npy, DepthFiles.of(config), kept) as files,
    ):
        write_scene(out, scene, files)
        _keep_cameras(out.path("cameras.json"), members)
        out.commit(scene.info | seconds_info(progress))
    layout = out.layout
    if made_before:
        names = ", ".join(made_before)
        warn(f"{names}: made from the scene as it was; `lite3r view`, `render` or `splat` makes them anew")
    return Written(
        layout.root / layout.cloud, layout.root / layout.folder, len(members), len(cloud), list(scene.warnings)
    )


def _made_of_the_scene_before(layout: OutputLayout) -> list[str]:
    """Pages, videos and splats next to an existing scene, under the default names of their commands."""
    title, run = Path(layout.cloud).stem, files_of_run(layout)
    if run is None:  # a new place: what lies there is not of this scene
        return []
    names = (f"{title}.html", f"{title}.mp4", f"{title}-splats.ply")
    return [name for name in names if name not in run and (layout.root / name).is_file()]


def adjusted(plan: Rewriting, predictor: Predictor, progress: Progress) -> Rewriting:
    """The scene with all cameras adjusted together, in its old frame and scale."""
    members, before = plan.members, _predictions(plan)
    nothing = [NetworkInput(np.zeros((*each.size, 3), np.uint8), each.size) for each in members]
    straight = _straight(before.views)
    priors = _fixed_intrinsics(straight) if plan.config.predict.fix_intrinsics else before.priors
    predictor.config = replace(predictor.config, refine=True, camera_model="pinhole")
    found = predictor.refine(_images(plan), replace(before, views=straight, inputs=nothing, priors=priors), progress)
    old, new = (np.stack([view.cam_from_world for view in each]) for each in (before.views, found.views))
    back = similarity_from_cameras(new, old)
    views = move_views(found.views, back)
    verdicts: Sequence[dict[str, object] | None] = found.verdicts or [None for _ in members]
    moved = [
        replace(member, view=replace(view, lens=member.view.lens), camera=None, kept=None, verdict=verdict)
        for member, view, verdict in zip(members, views, verdicts, strict=True)
    ]
    sparse = None if found.sparse is None else found.sparse.moved(back)
    return replace(plan, members=moved, account=found.account, sparse=sparse)


def _with_points(plan: Rewriting, progress: Progress) -> Rewriting:
    """The plan with the matched points of a refined scene, if one of its formats stores them (COLMAP's model and
    database): they are found again, because there are new views. The cameras do not change.
    """
    stored = any(EXTRA_FORMATS[name].tracks for name in plan.config.formats)
    if plan.sparse is not None or not stored or not any(member.verdict for member in plan.members):
        return plan
    from ..refine.backend import quiet_pycolmap  # imports pycolmap, an extra
    from ..refine.camera_refinement import triangulate
    from ..refine.refine_config import RefineConfig

    images, views = _images(plan), _straight([member.view for member in plan.members])
    origin = local_origin(camera_centres(np.stack([view.cam_from_world for view in views])))
    near = move_views(views, translation(None if origin is None else -origin))
    config = RefineConfig(seed=plan.config.predict.seed)
    with progress.stage("Match images", total=len(views)) as step, quiet_pycolmap():
        found = triangulate(near, images.read, images.read_mask, config, step)
    return plan if found.sparse is None else replace(plan, sparse=found.sparse.moved(translation(origin)))


def _fixed_intrinsics(views: Sequence[View]) -> CameraPriors:
    """Priors that keep the focal lengths, for a scene made with --fix-intrinsics."""
    exact = (FocalPrior(float(view.K[0, 0]), float(view.K[1, 1]), 0.0, "--fix-intrinsics", True) for view in views)
    return replace(CameraPriors.nothing(len(views)), focal=tuple(exact))


def _straight(views: Sequence[View]) -> list[View]:
    """The views without lens distortion, because images are undistorted when they are read."""
    return [replace(view, lens=None) for view in views]


def _images(plan: Rewriting) -> ImageSet:
    """The pictures of the views."""
    lenses = {member.record.name: member.lens for member in plan.members if member.lens is not None}
    records = [member.record for member in plan.members]
    return UndistortedImages.through(ImageSet(records, masks=plan.config.input.masks), lenses)


def _predictions(plan: Rewriting) -> Predictions:
    members = plan.members
    verdicts = [member.verdict for member in members]
    anchor = plan.facts.get("anchor")
    return Predictions(
        views=[member.view for member in members],
        indices=list(range(len(members))),
        network_sizes=[member.size for member in members],
        verdicts=[verdict or {} for verdict in verdicts] if any(verdicts) else None,
        account=plan.account,
        sparse=plan.sparse,
        anchor=anchor if isinstance(anchor, dict) else None,
        priors=CameraPriors.nothing(len(members)),
        frame=plan.frame,
        colors=[None] * len(members),
    )


def _facts(plan: Rewriting, now: dict[str, Any]) -> dict[str, Any]:
    """run.json: facts about the old views are kept."""
    before = {name: value for name, value in plan.facts.items() if name not in ("files", "arguments")}
    fresh = {entry["name"]: entry for entry in now["images"]}
    images = [fresh[m.record.name] if m.entry is None else _as_before(m) for m in plan.members]
    left_out = [{"name": each.name, "verdict": "left out", "reason": each.reason} for each in plan.refused]
    history = before.get("history")
    history = history if isinstance(history, list) else []
    step = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **plan.step}
    merged = {**before, **now, "images": [*images, *plan.others, *left_out], "history": [*history, step]}
    told = ("up", "folders") if plan.account is not None else ("up", "folders", "refinement")
    return merged | {name: before[name] for name in told if name in before}


def _as_before(member: Member) -> dict[str, Any]:
    """The old entry of run.json of a view, with its name in a merged scene and the new verdict on its camera."""
    assert member.entry is not None
    verdict = {} if not member.verdict else {"refinement": member.verdict}
    return {**member.entry, "name": member.record.name, **verdict}


def _keep_cameras(path: Path, members: Sequence[Member]) -> None:
    """Restore the old entries of the old views in cameras.json."""
    document = read_json(path)
    for member in members:
        if member.camera is not None:
            document["images"][member.record.name] = member.camera
    write_json(path, document)
