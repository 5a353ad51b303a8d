"""`Family`: all facts about one kind of network, and the table of all families.

A network states its facts once, in `networks/NAME/facts.py`; no other package names it. A missing field raises
TypeError when that file is imported. A fact that names a module which the network does not have raises UsageError when
the network is built. `tests/networks/test_families.py` checks the rest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor, nn

from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Attention
from lite3r_cli.networks import NETWORKS, registry
from lite3r_cli.networks.base import Network, RawOutput
from lite3r_cli.networks.installed import load_installed
from lite3r_cli.networks.pictures import Preparation
from lite3r_cli.networks.publication import ModelInfo

Shapes = Mapping[str, tuple[int, ...]]
Scale = Literal["arbitrary", "mean depth", "metric"]
OPTIONS = ("poses", "reference_view", "cameras", "depth")  # fields of PredictConfig that only some networks support
TOLD = ("cameras", "depth")  # options passed to `predict`; the others go to `configure`


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of network, a `networks.base.Network`. A fact that depends on the size is a function of the
    configuration.
    """

    # What it is
    name: str  # "vggt"; the names of its models start with it
    models: tuple[ModelInfo, ...]  # its published checkpoints, with licence and repository
    sizes: Mapping[str, Any]  # model name → configuration
    config_class: type  # a frozen dataclass of numbers and tuples, stored in a checkpoint's metadata
    build: Callable[[Any, str], Network]  # (configuration, name) → the network with random weights
    name_of: Callable[[Any], str]  # configuration → model name

    # How its checkpoints are recognised
    markers: tuple[str, ...]  # names of tensors; only checkpoints of this family have all of them
    config_from_shapes: Callable[[Shapes], Any]  # tensor shapes → configuration; KeyError if they are not sufficient
    omissions: Mapping[str, str] = field(default_factory=dict)  # prefix of tensors that are not loaded → reason
    shared: re.Pattern[str] | None = None  # (prefix)(index)(suffix) of a tensor with several names; the last is used

    # How images are prepared
    preparation: Preparation

    # Attention and arithmetic
    special_tokens: int  # per view, before the patch tokens, in attention across views
    global_layers: Callable[[Any], list[str]]  # configuration → names of the cross-view attention modules, in order
    trunk: str | tuple[str, ...] | None  # modules whose weights may be in half precision; None: none
    high_precision: tuple[str, ...]  # name patterns of weights that `convert` does not store in FP8 by default
    last_projections: Callable[[Any], list[str]]  # configuration → output projections of the last two attention layers

    # Parts that `bench` times
    encoder: str  # the module that processes each image alone; timed as a whole
    heads: tuple[str, ...]  # modules that compute depth and cameras
    unused: tuple[str, ...] = ()  # modules that predictions do not use; a checkpoint may lack them

    # Output
    answer: Callable[..., RawOutput]  # (network, images (B, S, 3, H, W), views with depth (V,)), with gradients
    scale: Scale  # the unit of depth and camera centres

    # Optional features
    divides: bool = False  # `predict` can share the views among processes (`layers/view_shards.py`)
    options: tuple[str, ...] = ()  # some of OPTIONS; those not in TOLD go to the method `configure`
    partial_cameras: bool = False  # whether `cameras` may be known only for some views or only in part
    streams: bool = False  # whether it is a `networks.base.Streaming`
    fast: Callable[..., Any] | None = None  # (network, engine Settings) → its form for the fast engine
    recompute: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], dict[str, Tensor]] | None = None  # for parity

    def __post_init__(self) -> None:
        def require(ok: bool, problem: str) -> None:
            if not ok:
                raise ValueError(f"family {self.name!r}: {problem}")

        require(
            re.fullmatch(r"[a-z][a-z0-9-]*", self.name) is not None, "its name is not lower-case letters and digits"
        )
        require(dataclasses.is_dataclass(self.config_class), "its config_class is no dataclass")
        require(len(self.sizes) > 0, "it has no sizes")
        require(all(isinstance(c, self.config_class) for c in self.sizes.values()), "a size is no config_class")
        require(len(self.markers) > 0, "it has no markers")
        require(len(self.heads) > 0, "it has no heads")
        for name in ("markers", "high_precision", "heads", "unused", "options"):
            require(not isinstance(getattr(self, name), str), f"its {name} is a text; it has to be a tuple of names")
        require(self.scale in get_args(Scale), f"its scale is not one of {', '.join(get_args(Scale))}")
        require(self.special_tokens >= 0, "its special_tokens are fewer than 0")
        require(set(self.options) <= set(OPTIONS), f"its options are not some of {', '.join(OPTIONS)}")

    def made(self, config: Any, name: str) -> Network:
        """Build a network. Raises UsageError if a fact names a module that it does not have."""
        model = self.build(config, name)
        modules = dict(model.named_modules())
        trunk = (self.trunk,) if isinstance(self.trunk, str) else self.trunk or ()
        for fact, names, kind in (
            ("global_layers", self.global_layers(config), Attention),
            ("last_projections", self.last_projections(config), nn.Linear),
            ("encoder, heads or trunk", (self.encoder, *self.heads, *trunk), nn.Module),
        ):
            wrong = next((module for module in names if not isinstance(modules.get(module), kind)), None)
            if wrong is not None:
                known = [module for module, found in modules.items() if module and isinstance(found, kind)]
                raise UsageError(
                    f"family {self.name!r}: its {fact} names {wrong!r}, which is no {kind.__name__} of the network; "
                    f"there are {', '.join(known[:3]) or 'none'} …"
                )
        return model

    @property
    def takes_cameras(self) -> bool:
        """Whether `predict` takes KnownCameras as `cameras`."""
        return "cameras" in self.options


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Make a family available to every command. Raises ValueError if its name or a model's name is taken."""
    if family.name in _FAMILIES:
        raise ValueError(f"family {family.name!r}: there is one of this name already")
    for info in family.models:
        if registry.MODELS.setdefault(info.name, info) != info:
            raise ValueError(f"family {family.name!r}: there is another model {info.name!r} already")
    _FAMILIES[family.name] = family
    return family


def families() -> Mapping[str, Family]:
    """Name → family, of this package, of other installed packages, and of calls to `register`.

    Raises BackendError if an installed network cannot be imported.
    """
    for name in NETWORKS:
        import_module(f"{__package__}.{name}.facts")
    load_installed()
    return _FAMILIES


def own_family(model: str) -> Family | None:
    """The family of a published model of this package; None for another name. Imports only this network: all of them
    take a tenth of a second.
    """
    if model not in registry.OWN:
        return None
    import_module(f"{__package__}.{registry.OWN[model]}.facts")
    return next(f for f in _FAMILIES.values() if any(info.name == model for info in f.models))


def family_of(model: object) -> Family | None:
    """The family of a network (or of any object with its `config`); None if it is unknown."""
    config = getattr(model, "config", None)

    def found_in(known: Mapping[str, Family]) -> Family | None:
        return next((f for f in known.values() if isinstance(config, f.config_class)), None)

    return found_in(_FAMILIES) or found_in(families())  # usually registered already: avoids importing all families


def require_family(model: object) -> Family:
    """The family of a network. Raises UsageError if it is unknown."""
    family = family_of(model)
    if family is None:
        name = getattr(model, "name", type(model).__name__)
        raise UsageError(f"{name}: a network of no known family; docs/adding-a-network.md says how to register one")
    return family


def family_named(model: str) -> Family | None:
    """The family of the model with this name; None if there is none."""
    for family in families().values():
        if model in family.sizes or any(info.name == model for info in family.models):
            return family
    starts = [f for f in families().values() if re.match(rf"{f.name}(-|$)", model)]
    return max(starts, key=lambda f: len(f.name), default=None)


def preparation_of(model: object) -> Preparation:
    """How images are prepared for a network; the defaults if its family is unknown."""
    family = family_of(model)
    return Preparation() if family is None else family.preparation


def trunk_of(model: nn.Module) -> nn.Module | None:
    """The modules of a network whose weights may be in half precision; None if there are none."""
    family = family_of(model)
    if family is None or family.trunk is None:
        return None
    if isinstance(family.trunk, str):
        return model.get_submodule(family.trunk)
    return nn.ModuleList(model.get_submodule(name) for name in family.trunk)


def global_layers_of(model: nn.Module) -> list[str]:
    """Names of a network's cross-view attention modules, in order; empty if its family is unknown."""
    family = family_of(model)
    return [] if family is None else family.global_layers(model.config)


def exact_products(model: nn.Module) -> tuple[str, ...]:
    """Name patterns of the weights whose products never run in FP8: `Family.high_precision`, and the output projections
    of the last two attention layers.

    The output of broad attention is nearly the same for all tokens, and so is its rounding error, which therefore does
    not average out. In `mini` these projections changed the cameras as much as all other layers together.
    """
    family = family_of(model)
    if family is None:
        return ()
    return family.high_precision + tuple(f"{name}.weight" for name in family.last_projections(model.config))
