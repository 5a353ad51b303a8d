"""`Family`: everything that the program asks about one kind of network, and the table of all kinds.

A network states its facts once, in `networks/NAME/facts.py`, and no other package names it. A field without a default
that is left out is a TypeError when that file is imported. A fact that names a module which the network does not have
is a UsageError when the network is built. `tests/networks/test_families.py` looks for what else can be wrong.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

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
OPTIONS = ("poses", "reference_view", "cameras", "depth")  # fields of PredictConfig that only some networks know
TOLD = ("cameras", "depth")  # those that `predict` is told; a network is configured by the others


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of network.

    A network is a `networks.base.Network`. Where a fact depends on the size of the network, it is a
    function of the configuration.
    """

    # What it is
    name: str  # "vggt"; the names of its models start with it
    models: tuple[ModelInfo, ...]  # its published checkpoints, with licence and repository
    sizes: Mapping[str, Any]  # name of a model → its configuration
    config_class: type  # a frozen dataclass of numbers and tuples, stored in a checkpoint's metadata
    build: Callable[[Any, str], Network]  # (configuration, name) → the network, its values at random
    name_of: Callable[[Any], str]  # configuration → name of the model

    # How its checkpoints are recognised
    markers: tuple[str, ...]  # tensors that only this kind has all of
    config_from_shapes: Callable[[Shapes], Any]  # names and shapes → configuration; KeyError where they do not tell
    omissions: Mapping[str, str] = field(default_factory=dict)  # prefix of tensors that are not loaded → why
    shared: re.Pattern[str] | None = None  # (prefix)(index)(suffix) of one tensor under several names: the last counts

    # What it is shown
    preparation: Preparation

    # Its attention and arithmetic
    special_tokens: int  # of a view, before its patch tokens, in attention across views
    global_layers: Callable[[Any], list[str]]  # configuration → its attention modules across views, first layer first
    trunk: str | tuple[str, ...] | None  # the modules whose weights may be kept in half precision; None: none
    high_precision: tuple[str, ...]  # patterns of the matrices that conversion keeps out of FP8 unless told otherwise
    last_projections: Callable[[Any], list[str]]  # configuration → the last two attention blocks' output layers

    # Its parts, as `bench` accounts for time
    encoder: str  # module that sees each picture alone; its time is not told apart further
    heads: tuple[str, ...]  # modules that make depth and cameras
    unused: tuple[str, ...] = ()  # modules that no prediction runs; a checkpoint may lack them

    # Its answer
    answer: Callable[..., RawOutput]  # (network, images (B, S, 3, H, W), views with depth (V,)), with gradients
    scale: Literal["arbitrary", "mean depth", "metric"]  # the unit of depth and camera centres

    # What not every network has
    divides: bool = False  # `predict` works on a part of the views beside other processes (`layers/view_shards.py`)
    options: tuple[str, ...] = ()  # of OPTIONS; others than TOLD go to its method `configure`
    partial_cameras: bool = False  # whether `cameras` may be known of some views, or in some respects, alone
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
        require(set(self.options) <= set(OPTIONS), f"its options are not some of {', '.join(OPTIONS)}")

    def made(self, config: Any, name: str) -> Network:
        """A network of this kind, as `build` gives it. Raises UsageError if a fact names a module that it lacks."""
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
    """Make a family known to every command. Raises ValueError for a name that is taken, by a family or a model."""
    if family.name in _FAMILIES:
        raise ValueError(f"family {family.name!r}: there is one of this name already")
    for info in family.models:
        if registry.MODELS.setdefault(info.name, info) != info:
            raise ValueError(f"family {family.name!r}: there is another model {info.name!r} already")
    _FAMILIES[family.name] = family
    return family


def families() -> Mapping[str, Family]:
    """Name → family: those of this package, of other installed packages, and those that were registered by hand.

    Raises BackendError for an installed one that cannot be imported.
    """
    for name in NETWORKS:
        import_module(f"{__package__}.{name}.facts")
    load_installed()
    return _FAMILIES


def family_of(model: object) -> Family | None:
    """The kind of a network, None for one of no known kind."""
    config = getattr(model, "config", None)

    def found_in(known: Mapping[str, Family]) -> Family | None:
        return next((f for f in known.values() if isinstance(config, f.config_class)), None)

    return found_in(_FAMILIES) or found_in(families())  # whoever has a network has mostly imported its family


def require_family(model: object) -> Family:
    """The kind of a network. Raises UsageError for one of no known kind."""
    family = family_of(model)
    if family is None:
        name = getattr(model, "name", type(model).__name__)
        raise UsageError(f"{name}: a network of no known family; docs/adding-a-network.md says how to register one")
    return family


def family_named(model: str) -> Family | None:
    """The kind of the model of this name; None for a name that no family has."""
    for family in families().values():
        if model in family.sizes or any(info.name == model for info in family.models):
            return family
    starts = [f for f in families().values() if re.match(rf"{f.name}(-|$)", model)]
    return max(starts, key=lambda f: len(f.name), default=None)


def preparation_of(model: object) -> Preparation:
    """How a network is shown pictures; a network of no family: at the usual size."""
    family = family_of(model)
    return Preparation() if family is None else family.preparation


def trunk_of(model: nn.Module) -> nn.Module | None:
    """The part of a network whose weights may be kept in half precision."""
    family = family_of(model)
    if family is None or family.trunk is None:
        return None
    if isinstance(family.trunk, str):
        return model.get_submodule(family.trunk)
    return nn.ModuleList(model.get_submodule(name) for name in family.trunk)


def global_layers_of(model: nn.Module) -> list[str]:
    """The names of a network's attention modules across views, first layer first; none of a network of no family."""
    family = family_of(model)
    return [] if family is None else family.global_layers(model.config)


def exact_products(model: nn.Module) -> tuple[str, ...]:
    """Patterns of the matrices that never multiply in FP8, however they are stored: those that conversion spares, and
    the last two attention blocks' output layers. What broad attention gives is nearly the same for all tokens, so that
    its rounding error is, too: it adds up, and there it turned `mini`'s cameras as much as all other layers together.
    """
    family = family_of(model)
    if family is None:
        return ()
    return family.high_precision + tuple(f"{name}.weight" for name in family.last_projections(model.config))
