"""Decides whether a set is processed in chunks, their size, and which options exclude chunks."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..config import ReconstructConfig
from ..config.sequence import ONE_PASS, SMALLEST_CHUNK, LongConfig
from ..console import Progress, Tell
from ..cores import count_cores
from ..errors import InputError, UsageError
from ..io.images import ImageSet
from ..io.video import DEFAULT_VIEWS
from ..long.chunk_plan import ChunkPlan, plan_chunks
from ..world.ties import TIED, Keypoints, evidence, find_keypoints
from .result import plain

if TYPE_CHECKING:
    from .long_order import Arranged
    from .predict import Predictor

CHUNK_VIEWS = {"cpu": 24, "cuda": 60}  # of a chunk: with more views, attention across them costs more than it gains
TOKEN_BYTES = {2: 48_000, 4: 96_000}  # bytes per number → memory per token of a pass (mini on a CPU, the highest)
SHARE = 0.8  # of the free memory that a pass may use
_LOOKED_AT, _FEWEST_TIED = 12, 0.7  # neighbours that are matched, and the share of them that must match
_MOST_THREADS = 16
_FEW = 6  # smaller sets have no distant pictures
_NEARER = 0.8  # share of neighbours that must have stronger matches than distant pictures
_WITHOUT = ("mesh", "textured-mesh", "3dgs")  # formats that need all depth maps at once


@dataclass(frozen=True)
class LongPlan:
    """How a long set is processed: chunks in order, or subsets of overlapping pictures."""

    chunks: ChunkPlan
    arranged: Arranged | None = None  # with subsets: the set in their order


def long_plan(
    config: ReconstructConfig, images: ImageSet, predictor: Predictor, progress: Progress, tell: Tell
) -> LongPlan | None:
    """The chunks of the set; None for one pass. `tell` is called with the reason if a long set is not divided.

    Raises UsageError if `--chunk N` and another option exclude each other.
    """
    asked, count = config.long, len(images)
    refused = not_in_chunks(config)
    if any(record.facing is not None for record in images.records):
        refused = refused or "a set with 360° images"
    if asked.size is not None:
        if count <= asked.size:
            return None
        if refused is not None:
            raise UsageError(f"--chunk {asked.size}: {refused} does not go with chunks; use --chunk off")
        return _divided(config, images, asked.size, "asked for", progress, tell)
    fits = int(SHARE * free_memory(predictor) / view_bytes(images, predictor))
    limit = _one_pass(images, predictor)
    if asked.chunk == "off" or predictor.streams or count <= min(limit, max(fits, SMALLEST_CHUNK)):
        return None
    if refused:
        tell(f"all {count} views in one pass: {refused} does not go with chunks")
        return None
    usual = CHUNK_VIEWS[predictor.runtime.torch_device.type]
    size = max(SMALLEST_CHUNK, min(usual, fits))
    why = f"one pass is for up to {limit} views" if count > limit else "more do not fit into memory"
    needs = size * view_bytes(images, predictor) / 2**30
    return _divided(config, images, size, f"{why}; a chunk takes about {needs:.1f} GiB", progress, tell)


def _divided(
    config: ReconstructConfig, images: ImageSet, size: int, reason: str, progress: Progress, tell: Tell
) -> LongPlan:
    """Chunks of ordered pictures, else subsets; also chunks if the order is unknown."""
    from .grouping import explain, one_group  # torch: only after the images are found
    from .long_order import arrange

    if not in_order(images):
        arranged = arrange(config.input, images, size, reason, progress, tell)
        if arranged is not None:
            return LongPlan(arranged.subsets.plan, arranged)
        tell(explain(one_group(len(images), judged=False), [record.name for record in images.records])[0])
    return LongPlan(plan_chunks(len(images), size, reason))


def _one_pass(images: ImageSet, predictor: Predictor) -> int:
    """Largest number of views in one pass; smaller for a video, which is certainly ordered, if one pass is slow."""
    of_video = all(record.frame is not None for record in images.records)
    return DEFAULT_VIEWS if of_video and predictor.runtime.torch_device.type == "cpu" else ONE_PASS


def view_bytes(images: ImageSet, predictor: Predictor) -> float:
    """Approximate memory per view of a pass."""
    tokens = max(predictor.tokens(record) for record in images.records[:: max(1, len(images) // 16)])
    return tokens * TOKEN_BYTES[predictor.runtime.torch_dtype.itemsize]


def free_memory(predictor: Predictor) -> int:
    """Bytes that a pass could use now."""
    import torch

    device = predictor.runtime.torch_device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            lines = dict(line.split(":", 1) for line in stream)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 8 * 2**30  # not Linux


def options_of(config: ReconstructConfig) -> dict[str, Any]:
    """The options that affect the output of a run in chunks; a resumed run must have the same."""
    compared = replace(config, output="", overwrite=False, long=replace(config.long, resume=False))
    return {"lite3r": __version__, **plain(compared)}


def chunks_are_possible(config: ReconstructConfig) -> bool:
    """Whether the options allow chunks."""
    return config.long.chunk != "off" and not_in_chunks(config) is None


def not_in_chunks(config: ReconstructConfig) -> str | None:
    """The first option that needs one pass."""
    if config.predict.camera_model not in ("auto", "pinhole"):
        return f"--camera-model {config.predict.camera_model}"
    if config.predict.cameras is not None:
        return "--cameras"
    if config.predict.depth is not None:
        return "--depth"
    return next((f"--format {name}" for name in config.formats if name in _WITHOUT), None)


def refuse_in_memory(config: LongConfig) -> None:
    """Raises UsageError for options of chunks in a run that holds scenes in memory."""
    if config != LongConfig():
        raise UsageError("chunk, loops and resume are options of `lite3r reconstruct`: here a scene is one pass")


def in_order(images: ImageSet) -> bool:
    """Whether the pictures are ordered: frames of one video, or numbered names whose neighbours match, and more
    strongly than distant pictures.
    """
    records = images.records
    if all(record.frame is not None for record in records):
        return len({record.path for record in records}) == 1
    names = [PurePosixPath(record.name) for record in records]
    numbered = {(str(name.parent), re.sub(r"\d+", "0", name.stem)) for name in names}
    if len(numbered) > 1 or not re.search(r"\d", names[0].stem):
        return False
    count, step = len(records), max(1, (len(records) - 1) // _LOOKED_AT)
    places = range(0, count - 1, step)
    strangers, farther = (int((1 - share) * len(places) + 1e-9) for share in (_FEWEST_TIED, _NEARER))  # may do so
    with ThreadPoolExecutor(min(_MOST_THREADS, count_cores())) as pool:
        wanted = dict.fromkeys(k % count for i in places for k in (i, i + 1, i + count // 2))
        looked = {k: pool.submit(_features, images, k) for k in wanted}
        try:
            for i in places:
                here = looked[i].result()
                near = evidence(here, looked[i + 1].result())
                strangers -= near >= TIED
                if strangers < 0:
                    return False
                far = looked[(i + count // 2) % count].result()
                farther -= count >= _FEW and near >= evidence(here, far)
                if farther < 0:
                    return False
        finally:
            pool.shutdown(cancel_futures=True)
    return True


def _features(images: ImageSet, i: int) -> Keypoints:
    try:
        return find_keypoints(images.read(i), 518, 1000)
    except InputError:  # damaged: reported when it is read
        return find_keypoints(np.zeros((64, 64, 3), np.uint8), 518, 1000)
