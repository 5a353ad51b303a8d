"""Complete scenes that were made with other options than those of this batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.documents import read_json
from ..pipelines.result import plain
from .job import ELSEWHERE, THERE, Outcome
from .manifest import SceneInput
from .past import Past

# They do not change the result, or may have another form: paths, hardware, how much is done at a time.
NOT_COMPARED = {"input.inputs", "input.masks", "output", "overwrite", "gpus", "predict.device", "long.resume"}


def older_options(past: Past, scenes: list[SceneInput], outcomes: list[Outcome]) -> dict[str, list[str]]:
    """Scene → texts such as "predict.resolution = 56, not 70", for the scenes that this run did not make. A run.json
    that cannot be read, and options that an older version did not have, are not compared.
    """
    found = {}
    for scene, outcome in zip(scenes, outcomes):
        if outcome.status in (THERE, ELSEWHERE):
            now = dict(_flat(plain(past.config_of(scene))))
            before = dict(_flat(_arguments(Path(past.folder(scene)) / "run.json")))
            differing = [key for key in now if key in before and before[key] != now[key] and key not in NOT_COMPARED]
            if differing:
                found[scene.name] = [f"{key} = {before[key]}, not {now[key]}" for key in differing]
    return found


def told(found: dict[str, list[str]]) -> str:
    """The warning."""
    name, differing = next(iter(found.items()))
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return (
        f"{name}{others}: complete already, but made with other options ({differing[0]}{more}); "
        "--overwrite makes all scenes again"
    )


def _arguments(run_json: Path) -> dict[str, Any]:
    try:
        arguments = read_json(run_json)["arguments"]
    except (InputError, OSError, KeyError, TypeError):
        return {}
    return arguments if isinstance(arguments, dict) else {}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
