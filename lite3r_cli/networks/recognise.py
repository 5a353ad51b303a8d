"""Recognise the network of a checkpoint: its family, its configuration, and the stored name of each of its tensors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lite3r_cli.errors import Lite3RError, WeightsError
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import Family, Shapes, families, family_named, own_family

SMALL_NUMBER = 1024  # layer counts and widths up to this are always accepted, since building them is cheap
WRAPPERS = ("model.", "module.")  # prefixes that training programs add to every tensor name
LAYERS_IN_ORDER = {"register_pairs", "inject_after"}  # settings that list layers


@dataclass(frozen=True)
class CheckpointSpec:
    """The network of a checkpoint, and the stored name of each of its tensors."""

    family: Family
    name: str
    config: Any
    sources: dict[str, str]  # name in the network → name in the file
    left_out: dict[str, list[str]]  # reason → names in the file

    def build(self) -> Network:
        """The network; inside `layers.unfilled.unfilled` without values."""
        return self.family.made(self.config, self.name)


def recognise(shapes: Shapes, metadata: Mapping[str, str], path: Path) -> CheckpointSpec:
    """The spec of a checkpoint with tensors of these names and shapes. Raises WeightsError if it is unknown."""
    sources = _unwrapped(shapes)
    family = _family(sources, metadata)
    if family is None:
        raise WeightsError(
            f"{path}: not a Lite3R checkpoint, nor one of {', '.join(families())}: "
            f"none of the tensors that mark them is in it (it starts with {next(iter(shapes), 'nothing')})"
        )
    left_out = _leave_out(sources, family)
    _share(sources, family)
    config = _config(family, {name: shapes[stored] for name, stored in sources.items()}, metadata, path)
    return CheckpointSpec(family, family.name_of(config), config, sources, left_out)


def _unwrapped(shapes: Shapes) -> dict[str, str]:
    """Tensor name without WRAPPERS → name in the file."""
    sources = {name: name for name in shapes}
    for wrapper in WRAPPERS:
        if sources and all(name.startswith(wrapper) for name in sources):
            sources = {name[len(wrapper) :]: stored for name, stored in sources.items()}
    return sources


def _family(sources: Mapping[str, str], metadata: Mapping[str, str]) -> Family | None:
    """The family in the metadata, if it is a published model and its markers are present. Else the family whose markers
    are all present (of several, the one with the most), else the one in the metadata.
    """
    own = own_family(metadata.get("model", "")) if "config" in metadata else None
    if own is not None and all(name in sources for name in own.markers):
        return own
    marked = [f for f in families().values() if all(name in sources for name in f.markers)]
    if marked:
        return max(marked, key=lambda f: len(f.markers))
    return family_named(metadata.get("model", "")) if "config" in metadata else None


def _leave_out(sources: dict[str, str], family: Family) -> dict[str, list[str]]:
    """Remove the tensors that are deliberately not loaded from `sources`; returns reason → names in the file."""
    left_out: dict[str, list[str]] = {}
    for name in list(sources):
        reason = next((why for prefix, why in family.omissions.items() if name.startswith(prefix)), None)
        if reason is not None:
            left_out.setdefault(reason, []).append(sources.pop(name))
    return left_out


def _share(sources: dict[str, str], family: Family) -> None:
    """Map all names of a shared tensor to the stored tensor with the highest index."""
    if family.shared is None:
        return
    name_in_file = dict(sources)
    for name in sorted(name for name in sources if family.shared.fullmatch(name)):  # the highest index comes last
        for i in range(4):
            sources[family.shared.sub(rf"\g<1>{i}\g<3>", name)] = name_in_file[name]


def _config(family: Family, shapes: Shapes, metadata: Mapping[str, str], path: Path) -> Any:
    known = [f.name for f in dataclasses.fields(family.config_class)]
    try:
        if "config" not in metadata:
            return family.config_from_shapes(shapes)
        values = json.loads(metadata["config"])
        if not isinstance(values, dict):
            raise ValueError("its `config` is no object of settings")
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise WeightsError(
                f"{path}: its configuration has entries this version does not know ({', '.join(unknown[:5])[:200]}); "
                f"known are {', '.join(known)}"
            )
        _limit(values, family, shapes)
        return family.config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (KeyError, ValueError, TypeError, RecursionError, Lite3RError) as error:
        if isinstance(error, WeightsError):
            raise
        why = str(error)[:200]
        if isinstance(error, KeyError):
            key = error.args[0] if error.args else ""
            why = f"{key} is missing" if isinstance(key, str) else f"no {family.name} is known with the size {key}"
        what = "the `config` in its metadata cannot be used"
        if "config" not in metadata:
            what = "its metadata has no `config`, and its tensors do not tell"
        raise WeightsError(f"{path}: not a Lite3R checkpoint: {what} ({why})") from error


def _limit(values: Mapping[str, Any], family: Family, shapes: Shapes) -> None:
    """Check a stored configuration before the network is built: the types are those of the family, and no number is
    larger than the tensors of the file allow. Raises ValueError.
    """
    most = max(SMALL_NUMBER, len(shapes), *(side for shape in shapes.values() for side in shape))
    example = next(iter(family.sizes.values()))
    for name, value in values.items():
        usual = getattr(example, name)
        several = isinstance(usual, tuple)
        if several != isinstance(value, list):
            raise ValueError(f"{name} is {'no list' if several else 'a list'}")
        for number, kind in zip(value, [*usual, *usual[-1:] * len(value)]) if several else [(value, usual)]:
            if kind is not None and type(kind) is not type(number):
                raise ValueError(f"{name} = {str(number)[:20]} is of another kind")
            if isinstance(number, int) and not isinstance(number, bool) and not 0 <= number <= most:
                raise ValueError(f"{name} = {str(number)[:20]} fits none of its tensors")
    for name in (name for name in values if name.endswith("heads")):
        own = name.removesuffix("heads") + "dim"
        width = values.get(own, getattr(example, own, 2 * values.get("dim", example.dim)))  # of a camera head
        if not values[name] or width % values[name]:
            raise ValueError(f"{name} = {values[name]} does not divide {width} channels")
    layers = values.get("pairs", values.get("depth", getattr(example, "depth", most)))
    for name in LAYERS_IN_ORDER & values.keys():
        if sorted(set(values[name])) != values[name] or max(values[name], default=0) >= layers:
            raise ValueError(f"{name} = {str(values[name])[:40]} are not some of its {layers} layers, in order")
    if "taps" in values:
        taps = values["taps"]
        if len(taps) != len(example.taps) or sorted(set(taps)) != taps or taps[-1] >= layers:
            raise ValueError(f"taps = {str(taps)[:40]} are not {len(example.taps)} of its {layers} layers, in order")
