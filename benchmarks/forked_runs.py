"""Forks a process that has imported everything, runs `lite3r` in the fork, and stops or refuses it at a chosen time."""

from __future__ import annotations

import builtins
import dataclasses
import errno
import functools
import io
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lite3r_cli.batch import work  # noqa: F401 (before the fork)
from lite3r_cli.cli import main
from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.networks import standin
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.pipelines import (  # noqa: F401 (likewise)
    add_photos,
    convert_checkpoint,
    distill_student,
    evaluate_scenes,
    locate_photos,
    merge_scenes,
    place_in_scene,
    predict,
    reconstruct_scene,
    render_scene,
    splat_scene,
    synthesise,
    train_mini,
    view_scene,
)
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.state import save_weights
from lite3r_cli.training.train_loop import Batch

TINY = MiniConfig(dim=32, depth=4, heads=2, alternate_from=1, taps=(0, 1, 2, 3), head_features=16,
                  head_stages=(8, 8, 8, 8), camera_hidden=16, position_grid=3)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
OPERATIONS = ("open", "rename", "replace", "mkdir", "unlink", "rmdir", "fsync", "write", "truncate", "link")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
LIMIT = 1200  # seconds of a run, which takes 10 on a quiet machine


class Seeded:
    """Batches of `lite3r train` that need no ray-caster."""

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def batches(self, first: int):
        while True:
            images = torch.rand(1, 2, 3, 28, 42, generator=torch.Generator().manual_seed(first))
            K = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]).expand(1, 2, 3, 3)
            path = torch.eye(3, 4).repeat(1, 2, 1, 1)
            path[:, 1, 0, 3] = 0.3
            yield Batch(images, Targets(1 + images.mean(2), K, path, torch.zeros(1, dtype=torch.long)))
            first += 1


def inputs(folder: Path) -> None:
    for name, seed in (("photos", 0), ("others", 1)):
        (folder / name).mkdir()
        for i in range(3):
            noise = np.random.default_rng(10 * seed + i).integers(0, 255, (7, 9, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / name / f"{i}.png"), cv2.resize(noise, (98, 70), interpolation=cv2.INTER_CUBIC))
    for i, name in enumerate(("photos", "others")):  # one after the other, a walk of seven
        for path in sorted((folder / name).iterdir()):
            (folder / "walk").mkdir(exist_ok=True)
            shutil.copy(path, folder / "walk" / f"{i}{path.name}")
    shutil.copy(folder / "walk/00.png", folder / "walk/20.png")
    (folder / "facade").mkdir()  # photographs with features that match
    for path in sorted((ROOT / "sample_scenes/facade/images").iterdir())[:3]:
        picture = cv2.imread(str(path))
        cv2.imwrite(str(folder / "facade" / f"{path.stem}.png"), cv2.resize(picture, None, fx=0.5, fy=0.5))
    (folder / "second").mkdir()  # the same, a little darker: a network of random values sees the same room
    for path in sorted((folder / "photos").iterdir()):
        cv2.imwrite(str(folder / "second" / path.name), np.clip(cv2.imread(str(path)), 1, 255) - 1)
    (folder / "new").mkdir()
    shutil.copy(folder / "others/0.png", folder / "new/n.png")
    camera = {"K": [[90.0, 0, 49], [0, 90, 35], [0, 0, 1]], "cam_from_world": np.eye(4)[:3].tolist()}
    document = {"images": {"n.png": {**camera, "width": 98, "height": 70}}}
    (folder / "new/cameras.json").write_text(json.dumps(document))
    (folder / "new/walk.txt").write_text("# 0 n.png\n0 0.1 0 0 0 0 0 1\n")
    for sets, one, two in (("sets", "photos", "others"), ("othersets", "others", "photos")):
        shutil.copytree(folder / one, folder / sets / "one")
        shutil.copytree(folder / two, folder / sets / "two")
    for name, seed in (("tiny", 1), ("other", 2)):
        model = Mini(TINY)
        standin.fill(model, seed)
        save_weights(folder / f"{name}.safetensors", model.state_dict(), model, torch.float16)
    synthesise.build_atlas = functools.cache(functools.partial(build_atlas, variants=1))  # type: ignore[assignment]
    synthesise.build_atlas(None)
    train_mini.Mini = lambda config: Mini(dataclasses.replace(TINY, known_cameras=True))  # type: ignore[misc,assignment]
    train_mini.TrainingData = Seeded  # type: ignore[misc,assignment]
    # what a network of random values sees fits into no scene; here it is written all the same
    place_in_scene.Placement.stands = property(lambda self: True)  # type: ignore[misc,assignment]
    merge_scenes._require_agreement = lambda *given: None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a run is disturbed, and how: by a signal before or after the n-th file operation of the main thread, or
    after a time; by an error of the system at that operation; or by a limit on the size of its files.
    """

    signal: int = 0
    error: int = 0  # errno
    at: int = 0
    after: bool = False
    delay: float = 0.0  # seconds
    file_size: int = -1  # bytes

    @property
    def name(self) -> str:
        if self.file_size >= 0:
            return "no room"
        return errno.errorcode[self.error] if self.error else signal.Signals(self.signal).name


class Operations:
    """Counts file operations of the main thread (of `open`, those that write), and disturbs the n-th one."""

    def __init__(self, moment: Moment) -> None:
        self.count, self.moment = 0, moment
        for name in OPERATIONS:
            setattr(os, name, self._watched(getattr(os, name), _opens_to_write if name == "open" else _always))
        builtins.open = io.open = self._watched(builtins.open, _is_written)  # type: ignore[assignment]

    def _watched(self, function, counts):
        def watched(*arguments, **options):
            if threading.current_thread() is not threading.main_thread() or not counts(*arguments, **options):
                return function(*arguments, **options)
            self.count += 1
            mine = self.count == self.moment.at
            if mine and not self.moment.after:
                self._disturb(arguments[0])
            result = function(*arguments, **options)
            if mine and self.moment.after:
                self._disturb(arguments[0])
            return result

        return watched

    def _disturb(self, path: object) -> None:
        if self.moment.error:
            raise OSError(self.moment.error, os.strerror(self.moment.error), path if isinstance(path, str) else None)
        os.kill(os.getpid(), self.moment.signal)


def _always(*arguments, **options) -> bool:
    return True


def _opens_to_write(path, flags=0, *arguments, **options) -> bool:
    return bool(flags & WRITING)


def _is_written(file, mode="r", *arguments, **options) -> bool:
    return isinstance(file, (str, Path)) and str(file) != os.devnull and any(letter in mode for letter in "wax+")


def run(words: str, moment: Moment = Moment()) -> tuple[int, int, float]:
    """A forked run: its exit code, its file operations and its seconds. What it says is in the file `stderr`."""
    reading, writing = os.pipe()
    hearing, saying = os.pipe()  # a file would be limited, too
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for stream, target in enumerate((null, null, saying)):
            os.dup2(target, stream)
        if moment.file_size >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (moment.file_size, resource.RLIM_INFINITY))
        write = os.write
        seen = Operations(moment)
        code = main(words.split())
        write(writing, f"{seen.count}".encode())
        os._exit(code)
    os.close(writing)
    os.close(saying)
    listener = threading.Thread(target=_keep, args=(hearing,), daemon=True)
    listener.start()
    timer = threading.Timer(moment.delay, os.kill, (child, moment.signal)) if moment.delay else None
    guard = threading.Timer(LIMIT, os.kill, (child, signal.SIGKILL))
    for each in (timer, guard):
        if each is not None:
            each.start()
    _, status = os.waitpid(child, 0)
    for each in (timer, guard):
        if each is not None:
            each.cancel()
    listener.join(20)  # a worker of a batch that was killed may live a little longer
    counted = os.read(reading, 20)
    os.close(reading)
    return os.waitstatus_to_exitcode(status), int(counted or 0), time.monotonic() - start


def _keep(hearing: int) -> None:
    with open(hearing, "rb") as stream:
        Path("stderr").write_bytes(stream.read())
