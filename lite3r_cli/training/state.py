"""Files that training writes and reads: the EMA weights, and the complete state for resuming. Safetensors only."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lite3r_cli import __version__
from lite3r_cli.checkpoints.metadata import describe
from lite3r_cli.checkpoints.plain_path import plain_path
from lite3r_cli.checkpoints.weights import load_into, save_checkpoint
from lite3r_cli.checkpoints.write import save_tensors
from lite3r_cli.errors import Lite3RError, OutputError, UsageError, WeightsError
from lite3r_cli.io.locks import clear_lock
from lite3r_cli.io.transaction import recover
from lite3r_cli.ranks import lost_another
from lite3r_cli.stopping import uninterrupted
from lite3r_cli.training.optimiser import DivergedError, WeightAverage
from lite3r_cli.training.own_files import mark_of
from lite3r_cli.training.worker import Worker

OLDER_FORMATS = ("lite3r-1",)  # formats of states that cannot be resumed
STATE_FORMAT = "lite3r-state-1"  # increase the number whenever the meaning of a state changes
_STEP = "[0-9]{1,12}"
Tell = Callable[[str], None]


def save_weights(path: Path, state: Mapping[str, Tensor], model: nn.Module, dtype: torch.dtype, **extra: str) -> None:
    """Write a checkpoint of `mini` for `lite3r reconstruct --model PATH`, replacing an older one.
    Raises OutputError.
    """
    save_checkpoint(path, state, describe("mini", model.config, **extra), dtype)


ANEW = {"distill": "start anew with --overwrite", "train": "start anew with another -o"}  # train replaces no run


@dataclass(frozen=True)
class Dependencies:
    """Everything that determines the result of a run. It is stored in the state; a run with other dependencies cannot
    resume from it.
    """

    kind: str  # the command: "train" or "distill"
    parts: Mapping[str, Mapping[str, Any]]  # group → name → value, of JSON types
    anyway: bool = False  # resume even if something differs (--resume-anyway)

    def check_so_far(self, path: Path) -> None:
        """The same as `check` for the values that are known before something slow. The others follow, and with them
        what `--resume-anyway` allows is told.
        """
        if not self.anyway:
            stored = require_state(path, self.kind)
            known = {
                group: {name: value for name, value in stored.get(group, {}).items() if name in values}
                for group, values in self.parts.items()
            }
            self._require_equal(path, known, print)

    def check(self, path: Path, tell: Tell) -> None:
        """Raises UsageError if the state at `path` belongs to another run, WeightsError if it is not a state."""
        self._require_equal(path, require_state(path, self.kind), tell)

    def _require_equal(self, path: Path, stored: Mapping[str, Mapping[str, Any]], tell: Tell) -> None:
        found = differences(stored, json.loads(self.to_json()))
        if not found:
            return
        if self.anyway:
            tell(f"--resume-anyway: {path} was made with {'; '.join(found)}")
            return
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UsageError(
            f"--resume: {path} was made with {'; '.join(found[:3])}{more}; give the options and data of that run, "
            f"{ANEW[self.kind]}, or go on nevertheless with --resume-anyway"
        )

    @property
    def mark(self) -> str:
        """Found in every checkpoint that the run writes."""
        return mark_of(self.to_json())

    def to_json(self) -> str:
        """`parts` as JSON."""
        return json.dumps(self.parts, sort_keys=True)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A text such as "lr = 0.001, not 0.01" for each value that differs or is only in one of them."""
    found = []
    for group in sorted(before.keys() | now.keys()):
        old, new = before.get(group, {}), now.get(group, {})
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                found.append(f"{_short(name)} = {_short(old.get(name))}, not {_short(new.get(name))}")
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a state. Raises WeightsError if the file is not a state or is damaged."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # a pipe would block, and a link is not replaced later
            raise _not_a_state(path, "it is a link, a folder or a device, not a file")
        with plain_path(path) as plain, safe_open(plain, "pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _not_a_state(path, str(error)) from error
    if "step" in metadata and metadata.get("format") in OLDER_FORMATS:
        raise WeightsError(
            f"{path}: is a training state of an older version of lite3r, which does not hold what a run depends on "
            "(data, teacher, options), so that it cannot be gone on from to the bit; finish it with that version, or "
            "move it away and start anew"
        )
    if metadata.get("format") != STATE_FORMAT:
        raise _not_a_state(path, f"its format is {metadata.get('format')!r}, not {STATE_FORMAT!r}")
    if not all(metadata.get(key) for key in ("run", "settings", "step", "elapsed")):
        raise _not_a_state(path, "its metadata is not complete")
    return metadata


def _settings(metadata: Mapping[str, str], path: Path) -> dict[str, dict[str, Any]]:
    try:
        settings = json.loads(metadata["settings"])
    except (ValueError, RecursionError) as error:
        raise _not_a_state(path, "its settings are not JSON") from error
    if not isinstance(settings, dict) or not all(isinstance(part, dict) for part in settings.values()):
        raise _not_a_state(path, "its settings are not groups of values")
    return settings


def require_state(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """The settings of a state of the command `kind`. It reads the head of the file only: call it before anything slow.

    Raises UsageError for the state of another command, WeightsError for a damaged or truncated one.
    """
    metadata = read_metadata(path)
    if metadata["run"] != kind:
        raise UsageError(f"--resume: {path} is the state of lite3r {_short(metadata['run'])}, not of {kind}")
    _progress(metadata, path)
    return _settings(metadata, path)


def _progress(metadata: Mapping[str, str], path: Path) -> tuple[int, float]:
    """The step, and the seconds so far."""
    try:
        elapsed = float(metadata["elapsed"])
    except ValueError as error:
        raise _not_a_state(path, str(error)) from error
    if not re.fullmatch(_STEP, metadata["step"]) or not 0 <= elapsed < float("inf"):
        raise _not_a_state(path, f"step {_short(metadata['step'])} after {elapsed} seconds cannot be")
    return int(metadata["step"]), elapsed


def recover_run(folder: Path, *names: str) -> None:
    """Recover from a run that was killed while it wrote one of the files. Call it before reading the state. It also
    serves a run that is refused: what the killed one left has to go with the next command, whatever comes of it.
    """
    clear_lock(folder)
    for name in names:
        recover(folder, name, lambda entry: "/" not in entry)


class Run(Protocol):
    """The interface that `saved_as_it_stops` needs of a training."""

    step: int
    whole: bool  # whether weights, averages and step counter are consistent
    owns_folder: bool  # False while the folder still holds the files of an older run

    def save(self) -> None:
        """Save the state. Raises OutputError."""
        ...


@contextmanager
def saved_as_it_stops(run: Run, worker: Worker, tell: Tell) -> Iterator[None]:
    """Save the state if a signal or an expected error (full disk, missing file) ends the block; `tell` gets the step.
    If the run has diverged or another error occurs, the last saved state is kept.
    """
    try:
        yield
    except BaseException as error:
        by_hand = not isinstance(error, Exception)
        expected = (isinstance(error, Lite3RError) and not isinstance(error, DivergedError)) or lost_another(error)
        if worker.is_first and run.whole and (by_hand or (expected and run.owns_folder)):
            with uninterrupted():  # if another process has ended, torchrun sends a signal to this one, too
                try:
                    run.save()
                    tell(f"stopped at step {run.step}")
                except OutputError as failure:
                    tell(f"stopped at step {run.step}, whose state cannot be saved ({failure})")
        raise


def _not_a_state(path: Path, why: str) -> WeightsError:
    reason = " ".join(why.split())[:200]
    return WeightsError(
        f"{path}: not a training state to go on from ({reason}); move it away and start anew, or choose another -o"
    )


def save_training_state(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimisers: list[torch.optim.Optimizer],
    step: int,
    elapsed: float,
    run: Dependencies,
    beside: Mapping[str, bytes] | None = None,
    gone: Sequence[str] = (),
) -> None:
    """Write everything that `load_training_state` needs, replacing an older state. `beside` are files (name → content)
    that are written with it; the files `gone` are removed with the old state. Raises OutputError.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        for j, slot in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{j}.{k}": torch.as_tensor(v) for k, v in slot.items()}
    metadata = {
        "format": STATE_FORMAT, "run": run.kind, "settings": run.to_json(), "version": __version__,
        "step": str(step), "elapsed": repr(elapsed), "tensors": str(len(tensors)),
    }  # fmt: skip
    save_tensors(path, tensors, metadata, beside=beside, gone=gone)


def load_training_state(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimisers: list[torch.optim.Optimizer],
    last: int | None = None,
) -> tuple[int, float]:
    """Restore everything; returns the step and the elapsed seconds. `last` is the last step of the run, None: no limit.
    Raises WeightsError; then nothing but the model's parameters may have changed.
    """
    metadata = read_metadata(path)
    step, elapsed = _progress(metadata, path)
    if last is not None and step > last:
        raise _not_a_state(path, f"it is of step {step}, the run ends with step {last}")
    try:
        with plain_path(path) as plain, safe_open(plain, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        if metadata.get("tensors", str(len(tensors))) != str(len(tensors)):  # states of earlier versions lack it
            raise ValueError(f"it has {len(tensors)} tensors, not {_short(metadata['tensors'])}")
        _require_sound(_under(tensors, "model."), model.state_dict())
        _require_sound(_under(tensors, "average."), average.state_dict())
        slots = [_slots(each, _under(tensors, f"optimiser.{i}."), step) for i, each in enumerate(optimisers)]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _not_a_state(path, str(error)) from error
    averages = _under(tensors, "average.")
    wrong = [name for name, value in average.state_dict().items() if _shape(averages.get(name)) != tuple(value.shape)]
    if wrong or averages.keys() != average.state_dict().keys():
        raise _not_a_state(path, f"its averages are not those of this network: {', '.join(wrong[:3])}")
    load_into(model, _under(tensors, "model."), path)
    average.load_state_dict(averages)
    for optimiser, state in zip(optimisers, slots):
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return step, elapsed


def _require_sound(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a tensor of another type than its counterpart, or with values that are not finite."""
    for name, value in tensors.items():
        if name in like and value.dtype != like[name].dtype:
            raise ValueError(f"{name[:80]} has values of another type")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name[:80]} has values that are not finite")


def _slots(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], steps: int) -> dict[int, dict[str, Tensor]]:
    """Parameter index → state of the optimiser after `steps`. Raises ValueError if it does not fit the parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        slot, _, name = key.partition(".")
        place = int(slot)
        if not name or not 0 <= place < len(parameters):
            raise ValueError(f"the optimiser has no value called {key[:80]}")
        if name == "step":  # the only value that is not one for each value of the parameter
            if value.ndim or not 1 <= float(value.real) <= steps:
                raise ValueError(f"the optimiser's {key[:80]} is not one of {steps} steps")
        elif value.shape != parameters[place].shape:
            raise ValueError(f"the optimiser's {key[:80]} has the shape of another parameter")
        else:
            _require_sound({f"the optimiser's {key}": value}, {f"the optimiser's {key}": parameters[place]})
            if name == "exp_avg_sq" and bool((value < 0).any()):
                raise ValueError(f"the optimiser's {key[:80]} has negative squares")
        state.setdefault(place, {})[name] = value
    if len({frozenset(slot) for slot in state.values()}) > 1:
        raise ValueError("the optimiser's values are not complete")
    return state


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
