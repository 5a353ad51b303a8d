"""`lite3r splat`: trains Gaussian splats of a written scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.splatting import SplatConfig
from ..console import Progress, Tell
from ..errors import BackendError, InputError
from ..extras import is_installed
from ..io.files import write_json
from ..io.gaussians import gaussians, write_splats
from ..io.names import printable
from ..io.splat_start import point_normals
from ..io.transaction import Transaction, require_writable
from ..runtime import Choice, choose
from ..scene.posed_view import PointCloud, View
from ..scene.sparse_points import SparseModel
from ..scene.tracks import tracks_from_depth
from ..splats.fit import Fitted, Look, Recipe, fit
from ..splats.gaussian_set import GaussianSet
from ..splats.shots import held_out, inverse, moved_columns, shots_of, size_one
from ..splats.uncovered import cover
from .scene_formats import START_POINTS
from .splat_transform import convert, require_converter, trained_file
from .written_scene import WrittenScene

FEWEST = 2  # smallest number of photographs


@dataclass(frozen=True)
class Splatted:
    """The outcome of a training."""

    path: Path
    facts: dict[str, Any]


def splat_scene(config: SplatConfig, progress: Progress | None = None, warn: Tell = lambda text: None) -> Splatted:
    """Train, and write the splats and a JSON file of the same name with their quality.

    Raises InputError without a scene or photographs, BackendError without a GPU (unless `--device cpu`), OutputError if
    the output exists or cannot be written.
    """
    progress = progress or Progress()
    scene = WrittenScene.at(config.scene)
    stem = Path(scene.layout.cloud).stem
    target = config.output or scene.layout.root / f"{stem}-splats.ply"
    places = dict.fromkeys((target, _report(target), trained_file(target)))
    require_converter(target)
    scene.require_not_in(*places)
    require_writable(target, config.overwrite, *places)
    runtime = choose(config.device)
    _require_fast(runtime.device, warn)
    with progress.stage("Read"):
        views, pictures = _photographs(scene, warn)
        frame = size_one(views)
        columns = start_columns(views, scene.cloud(warn))
        shots = shots_of(views, pictures, frame, config.size, runtime.torch_device)
        kept = held_out(len(shots)) if config.hold_out else []
    if config.hold_out and not kept:
        warn(f"{len(shots)} photos are too few to hold some out: training runs for all {config.steps} steps")
    recipe = Recipe(steps=config.steps, seed=config.seed)
    splats = GaussianSet.of_columns(moved_columns(columns, frame), runtime.torch_device, recipe.degree)
    seen = [shot for i, shot in enumerate(shots) if i not in kept]
    with progress.stage("Train", config.steps) as step:

        def told(number: int, look: Look | None) -> None:
            step("" if look is None else f"held-out PSNR {look.psnr:.2f} dB, SSIM {look.ssim:.3f}")

        fitted = fit(cover(splats, seen), seen, [shots[i] for i in kept], recipe, told)
    facts = _facts(fitted, recipe, runtime.device, [shot.name for shot in shots], kept, len(columns))
    with progress.stage("Write", minor=True):
        found, harmonics = fitted.splats.columns()
        facts["seconds"] = progress.so_far()
        _write(target, moved_columns(found, inverse(frame)), harmonics, facts)
    return Splatted(target, facts)


def _report(target: Path) -> Path:
    """The JSON file with the quality of the splats at `target`."""
    return target.with_suffix(".json")


def _write(target: Path, columns: np.ndarray, harmonics: np.ndarray, facts: dict[str, Any]) -> None:
    """Write the splats and their report. What splat-transform converts is in its place before, and stays there if the
    conversion fails or is stopped: it took a training.
    """
    report, trained = _report(target), trained_file(target)
    names = {target.name, report.name, trained.name}
    if trained != target:
        with Transaction(target.parent, target.name, lambda name: name in names) as files:
            write_splats(files.new / trained.name, columns, harmonics)
            files.commit([trained.name], trained.name)
    with Transaction(target.parent, target.name, lambda name: name in names) as files:
        if trained == target:
            write_splats(files.new / target.name, columns, harmonics)
        else:
            convert(trained, files.new / target.name)
        write_json(files.new / report.name, facts)
        files.commit([report.name, *names - {report.name}], report.name)


def start_columns(views: Sequence[View], cloud: PointCloud) -> np.ndarray:
    """(N, 17) columns of the initial Gaussians: evenly spread points of the cloud that views agree on, as discs on the
    surface.
    """
    model = tracks_from_depth(views, cloud, START_POINTS)
    if not len(model):
        raise InputError("no point of the cloud is confirmed by two photos, so that training has no start")
    return gaussians(_as_cloud(model), point_normals(views, model.points, model))


def _as_cloud(model: SparseModel) -> PointCloud:
    assert model.confidence is not None  # `tracks_from_depth` sets it
    return PointCloud(model.points, model.colors, model.confidence)


def _photographs(scene: WrittenScene, warn: Tell) -> tuple[list[View], list[np.ndarray]]:
    """The views with trustworthy cameras and depth, and their photographs. Raises InputError."""
    from ..refine.verdicts import KEPT

    images = scene.facts.get("images")
    entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
    verdicts = {
        entry.get("name"): entry["refinement"] for entry in entries if isinstance(entry.get("refinement"), dict)
    }
    views = scene.views(load_depth=True)
    trusted = [view for view in views if verdicts.get(view.name, {}).get("cameras") != KEPT]
    if not verdicts and scene.frame.name != "given":
        warn("the cameras come from the network alone; splats will blur: make the scene again with --refine")
    elif FEWEST <= len(trusted) < len(views):
        warn(f"{len(views) - len(trusted)} of {len(views)} photos are left out because their cameras are not verified")
        views = trusted
    source = scene.photographs()
    read = [(view, source.read(view)) for view in views]
    lost = [view.name for view, picture in read if picture is None]
    there = [(view, picture) for view, picture in read if picture is not None]
    if len(there) < FEWEST:
        found = f"{len(there)} of {len(views)} photos of the scene are found; training needs at least two"
        raise InputError(f"{found}: {source.why_missing(lost)}" if lost else found)
    if lost:
        warn(f"{len(lost)} photos are left out ({printable(lost[0])}): {source.why_missing(lost)}")
    return [view for view, _ in there], [picture for _, picture in there]


def _require_fast(device: Choice, warn: Tell) -> None:
    if device.chosen != "cpu":
        if not is_installed("triton"):
            raise BackendError("lite3r splat needs the package triton on a GPU: pip install triton")
        return
    if device.asked != "cpu":
        raise BackendError("lite3r splat needs a CUDA device; with --device cpu it takes hours instead of a minute")
    warn("training on a CPU takes hours; on a GPU it takes a minute")


def _facts(
    fitted: Fitted, recipe: Recipe, device: Choice, names: Sequence[str], kept: Sequence[int], start: int
) -> dict[str, Any]:
    best = fitted.best
    return {
        "device": asdict(device),
        "recipe": asdict(recipe),
        "photographs": list(names),
        "held_out": [names[i] for i in kept],
        "start": start,
        "step": fitted.step,
        "gaussians": len(fitted.splats),
        "psnr": None if best is None else round(best.psnr, 3),
        "ssim": None if best is None else round(best.ssim, 4),
        "looks": [asdict(look) for look in fitted.looks],
    }
