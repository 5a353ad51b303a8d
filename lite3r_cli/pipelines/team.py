"""One scene on several processes: rank 0 runs the whole program, the others only compute their share of each prediction
(`layers/view_shards.py`).

Rank 0 distributes the pictures as bytes and collects the depth maps. A process that fails writes the reason to their
common store. Rank 0 checks the store during the prediction and raises the error; processes that wait for the failed one
end with rank 0.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import errors, runtime
from ..attention.module import attention_modules
from ..config import PredictConfig
from ..errors import BackendError, Lite3RError, UsageError
from ..layers import view_shards as shards
from ..networks.base import KnownCameras, Network, Prediction
from ..networks.family import Family, require_family
from ..networks.layer_steps import Told
from ..ranks import LOST, Rank, cannot_meet, lost_another
from ..runtime import Choice
from ..stopping import responsive

if TYPE_CHECKING:
    from .planned import PlannedNetwork

FOREVER = timedelta(days=7)  # other processes wait while rank 0 refines, fuses and writes
CPU = torch.device("cpu")
LOOK = 0.2  # seconds between two checks of the store
FAILED, JOINED = "lite3r/failed", "lite3r/joined"  # keys of the store
LAST_WORDS = 5.0  # seconds in which rank 0 can report the reason of a failed process


@dataclass(frozen=True)
class Job:
    """A prediction of all processes together."""

    runs: tuple[range, ...]
    sizes: tuple[tuple[int, int], ...]
    patch_size: int
    masks: list[np.ndarray | None]
    cameras: KnownCameras | None


class Team:
    """This process in the team. `alive` raises if another process is known to be dead."""

    def __init__(self, rank: Rank, device: torch.device, store: Any, alive: Callable[[], None] = lambda: None) -> None:
        import torch.distributed as dist

        self.rank, self.device, self._alive = rank, device, alive
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        self._store = store
        facts = {"store": store, "rank": rank.number, "world_size": rank.count, "timeout": FOREVER}
        responsive(lambda: dist.init_process_group(backend, **facts))  # waits for the others, and takes no signal
        self.broken = False
        self._divided = False  # whether a prediction had enough images

    @property
    def choice(self) -> Choice:
        """The entry of run.json."""
        if not self._divided:
            return Choice(str(self.rank.count), "1 process", "fewer images than processes")
        kind = "GPUs" if self.device.type == "cuda" else "processes"
        return Choice(str(self.rank.count), f"{self.rank.count} {kind}", "views are divided, attention by heads")

    # -- rank 0 --------------------------------------------------------------------------------------------------------

    def predict(
        self,
        network: PlannedNetwork,
        batch: Sequence[np.ndarray],
        unseen: Sequence[np.ndarray | None],
        tell: Told,
        cameras: KnownCameras | None = None,
    ) -> Prediction:
        """The prediction for all pictures (h, w, 3) uint8, on the CPU. Raises the error of another process."""
        job = Job(
            divide([rgb.shape[0] * rgb.shape[1] for rgb in batch], self.rank.count),
            tuple((rgb.shape[0], rgb.shape[1]) for rgb in batch),
            network.backbone.patch_size,
            list(unseen),
            cameras,
        )
        self._divided = True
        return self._watched(lambda: self._lead(network, job, batch, tell))

    def _lead(self, network: PlannedNetwork, job: Job, batch: Sequence[np.ndarray], tell: Told) -> Prediction:
        import torch.distributed as dist

        dist.broadcast_object_list([job], src=0, device=CPU)
        for other in range(1, self.rank.count):
            own = [batch[i].reshape(-1) for i in job.runs[other]]
            dist.send(torch.from_numpy(np.concatenate(own)), other)
        mine = self._share(network, job, [batch[i] for i in job.runs[0]], tell)
        depth, confidence = list(mine.depth), list(mine.confidence)
        for other in range(1, self.rank.count):
            sizes = [job.sizes[i] for i in job.runs[other]]
            values = torch.empty(2 * sum(h * w for h, w in sizes))
            dist.recv(values, other)
            parts = [part.view(size) for part, size in zip(values.split([h * w for h, w in sizes * 2]), sizes * 2)]
            depth += parts[: len(sizes)]
            confidence += parts[len(sizes) :]
        return replace(mine, depth=depth, confidence=confidence)

    def _watched(self, work: Callable[[], Prediction]) -> Prediction:
        """Run `work()` in a thread, and abandon it if another process has failed, because nothing else would end its
        wait.
        """
        found: list[Prediction] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(work())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="divided prediction", daemon=True)
        self.broken = True  # until it has succeeded
        thread.start()
        while thread.is_alive():
            thread.join(LOOK)
            self._raise_failure()
        if failed:
            time.sleep(LOOK)
            self._raise_failure()  # usually the reason of a lost connection
            if lost_another(failed[0]):
                raise BackendError(LOST) from failed[0]
            raise failed[0]
        self.broken = False
        return found[0]

    def _raise_failure(self) -> None:
        self._alive()
        if self._store.check([FAILED]):
            kind, _, text = self._store.get(FAILED).decode().partition(" ")
            raise getattr(errors, kind, BackendError)(text)

    def dismiss(self) -> None:
        """End the other processes. After a failure they end with the connections of this process."""
        import torch.distributed as dist

        if not self.broken:
            dist.broadcast_object_list([None], src=0, device=CPU)
            dist.destroy_process_group()

    # -- the others ----------------------------------------------------------------------------------------------------

    def help(self, network: PlannedNetwork) -> None:
        """Take part in predictions until rank 0 dismisses the team or is gone."""
        import torch.distributed as dist

        while True:
            given: list[Job | None] = [None]
            try:
                dist.broadcast_object_list(given, src=0, device=CPU)
            except RuntimeError:
                return  # rank 0 has failed and reports it
            if given[0] is None:
                return dist.destroy_process_group()
            self._follow(network, given[0])

    def _follow(self, network: PlannedNetwork, job: Job) -> None:
        import torch.distributed as dist

        sizes = [job.sizes[i] for i in job.runs[self.rank.number]]
        counts = [3 * height * width for height, width in sizes]
        pixels = torch.empty(sum(counts), dtype=torch.uint8)
        dist.recv(pixels, 0)
        pictures = [part.view(*size, 3).numpy() for part, size in zip(pixels.split(counts), sizes)]
        mine = self._share(network, job, pictures, lambda _: None)
        dist.send(torch.cat([maps.flatten() for maps in (*mine.depth, *mine.confidence)]), 0)

    def say(self, error: BaseException) -> None:
        """Tell rank 0 why this process ends."""
        kind, text = type(error).__name__, str(error)
        if runtime.is_out_of_memory(error):
            kind = "MemoryLimitError"
            text = f"out of memory on {self.device}; lower --resolution, or limit the images with --max-views"
        elif not isinstance(error, Lite3RError):
            kind, text = "BackendError", f"{kind}: {text}"
        self._store.set(FAILED, f"{kind} process {self.rank.number + 1} of {self.rank.count}: {text}")

    # -- all -----------------------------------------------------------------------------------------------------------

    def _share(self, network: PlannedNetwork, job: Job, pictures: Sequence[np.ndarray], tell: Told) -> Prediction:
        """Depth of this process's views, and cameras of all views, on the CPU."""
        masks = [None if pixels is None else torch.from_numpy(pixels) for pixels in job.masks]
        whole = masks if any(mask is not None for mask in masks) else None
        own = job.runs[self.rank.number]
        more = {} if job.cameras is None else {"cameras": job.cameras}
        with shards.divided(shards.Shards(self.rank.number, job.runs, job.sizes, job.patch_size, whole)):
            found = network.answer(pictures, job.masks[own.start : own.stop], tell, **more)
        depth, confidence = ([each.cpu() for each in part] for part in (found.depth, found.confidence))
        return replace(found, depth=depth, confidence=confidence)


def divide(sizes: Sequence[int], parts: int) -> tuple[range, ...]:
    """Non-empty runs of views with sums of sizes as equal as possible. There must be at least as many
    views as parts.
    """
    ends = list(accumulate(sizes))
    edges = [0]
    for part in range(1, parts):
        wanted = ends[-1] * part / parts
        nearest = min(range(len(sizes) + 1), key=lambda i: abs((ends[i - 1] if i else 0) - wanted))
        edges.append(min(max(nearest, edges[-1] + 1), len(sizes) - parts + part))
    return tuple(range(a, b) for a, b in pairwise([*edges, len(sizes)]))


def require_divides(family: Family | None, model: str) -> None:
    """Raise UsageError if the networks of `family` (None: unknown yet) cannot be divided."""
    if family is not None and not family.divides:
        raise UsageError(f"{model}: one process only; mini, vggt and da3 can be divided among several GPUs")


def require_divisible(backbone: Network, config: PredictConfig, count: int) -> None:
    """Raise UsageError if `count` does not divide the heads of the network's attention across views."""
    family = require_family(backbone)
    require_divides(family, backbone.name)
    if config.poses == "rays":
        raise UsageError("--poses rays: one process only; leave it out, or --gpus")
    heads = attention_modules(backbone)[family.global_layers(backbone.config)[0]].heads
    if heads % count:
        fitting = ", ".join(str(n) for n in range(2, min(heads, 16) + 1) if heads % n == 0)
        raise UsageError(
            f"{backbone.name} has {heads} heads of attention across views, which {count} processes cannot share: "
            f"use {fitting}"
        )


def for_rank(config: PredictConfig, rank: Rank) -> PredictConfig:
    """The configuration with the device of this process. Raises UsageError, BackendError."""
    return replace(config, device=runtime.device_of(rank, config.device))


def launched_team(config: PredictConfig, rank: Rank) -> Team:
    """The team of processes that torchrun started; `config` is that of this process. Raises BackendError."""
    from torch.distributed.rendezvous import rendezvous

    device = runtime.choose(config.device, config.dtype).torch_device
    try:
        store, _, _ = responsive(lambda: next(rendezvous("env://", rank.number, rank.count, timeout=FOREVER)))
        return Team(rank, device, store)
    except RuntimeError as error:
        raise cannot_meet(error) from error


def help_out(config: PredictConfig, join: Callable[[PredictConfig], Team]) -> None:
    """The main function of ranks other than 0: load the network, take part in predictions, end."""
    from .predict import Predictor

    team = join(config)
    try:
        team.help(Predictor(config).network)
    except Exception as error:
        team.say(error)
        time.sleep(LAST_WORDS)
        os._exit(1)  # collective operations may be pending
