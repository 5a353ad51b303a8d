"""The settings of sparse-linear attention: what a checkpoint stores, the presets, and how a request changes them.

Every caller (`reconstruct`, `convert`, `distill`, `bench`, `sparsify`) gets its settings from `settle`, so that one
network has one sparse form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lite3r_cli.attention.block_map import SCORES
from lite3r_cli.attention.features import FEATURES
from lite3r_cli.attention.keep_schedule import SHALLOW, keep_ratios
from lite3r_cli.attention.packed import GROUPS
from lite3r_cli.attention.reference import BLOCK
from lite3r_cli.config import LiteConfig
from lite3r_cli.errors import UsageError

METADATA_KEY = "attention"  # in a checkpoint: which modules are sparse-linear, and their settings
LINEAR_OVER = ("all", "rest")
MIXES = ("sum", "convex")  # how the two branches are mixed, see `dispatch.py`
PROTECT = ("none", "specials", "reference")  # keys critical to every query: none, special tokens, or these and a frame


@dataclass(frozen=True)
class Formula:
    """What one layer computes, independent of the back end."""

    keep_ratio: float = 1.0  # share of the key blocks with exact attention (k_h in SLA)
    drop_ratio: float = 0.0  # share of the key blocks that are ignored (k_l in SLA)
    feature: str = "elu"  # φ, a key of FEATURES
    linear_over: str = "all"  # tokens of the linear branch: "all", or "rest": those neither kept nor dropped
    summaries: bool = False  # blocks neither kept nor dropped count in the sparse branch as one token each
    scores: str = "pooled"  # how the blocks to keep are chosen, one of SCORES
    keep_views: float | None = None  # packed tokens only: upper limit of the keys per query, in views

    def ratio(self, views: int) -> float:
        """The keep ratio for `views` views: `keep_ratio`, or less if `keep_views` limits it."""
        return self.keep_ratio if self.keep_views is None else min(self.keep_ratio, self.keep_views / views)

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"the keep ratio must lie above 0 and at most at 1, not {self.keep_ratio}")
        if not 0 <= self.drop_ratio < 1:
            raise UsageError(f"the drop ratio must be at least 0 and below 1, not {self.drop_ratio}")
        if self.feature not in FEATURES:
            raise UsageError(f"the feature map must be one of {', '.join(FEATURES)}, not {self.feature!r}")
        if self.scores not in SCORES:
            raise UsageError(f"blocks are kept by one of {', '.join(SCORES)} scores, not {self.scores!r}")
        if self.linear_over not in LINEAR_OVER:
            raise UsageError(f"the linear branch sees one of {', '.join(LINEAR_OVER)}, not {self.linear_over!r}")


@dataclass(frozen=True)
class SparseConfig:
    """Which attention modules of a network are sparse-linear, and how. The defaults are the published form."""

    layers: tuple[str, ...]  # names of the attention modules
    keep_ratio: float = 1.0  # share of key blocks that get exact attention
    block: int = BLOCK  # tokens of a query block
    official: bool = False  # the modules hold the unused scalar of the official checkpoints
    keep_ratios: tuple[float, ...] = ()  # one per layer, in the order of `layers`; empty: `keep_ratio` for all
    drop_ratio: float = 0.0  # share of key blocks that are ignored
    feature: str = "elu"  # φ of the linear branch
    linear_over: str = "all"  # tokens of the linear branch: "all" or "rest"
    mix: str = "sum"  # one of MIXES
    protect: str = "specials"  # one of PROTECT
    tiles: bool = False  # blocks are rectangles of patches, not runs of tokens
    walk: bool = False  # with `tiles`: almost rectangles, with few empty slots, see `_walked` in `tiling.py`
    summaries: bool = False  # blocks that are not kept count in the sparse branch as one token each
    key_block: int | None = None  # tokens of a key block; None: `block`
    scores: str = "pooled"  # how the blocks to keep are chosen: "pooled" or "mass", see `block_map.py`
    packed: bool = False  # cross-view layers use `packed.py`; the fields on blocks then hold for layers within views
    group: int = GROUPS[0]  # with `packed`: queries that share a list of keys
    parts: float = 0.0  # with `packed`: for each block kept, so many of the next best count as means of 4 tokens
    keep_views: int | None = None  # with `packed`: upper limit of the keys per query in views, mean over the layers

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"the keep ratio must lie above 0 and at most at 1, not {self.keep_ratio}")
        for size in (self.block, self.key_block):
            if size is not None and size < 1:
                raise UsageError(f"a block of attention must have at least one token, not {size}")
        if self.official and self.key_block not in (None, self.block):
            raise UsageError("official checkpoints have key blocks of as many tokens as query blocks")
        if self.walk and not self.tiles:
            raise UsageError("`walk` is a way to cut `tiles`, which are off")
        if self.packed and (self.official or self.linear_over != "all" or self.drop_ratio):
            raise UsageError(
                "over packed tokens the linear branch sees all, nothing is dropped, and nothing is official"
            )
        if self.group not in GROUPS:
            raise UsageError(f"{' or '.join(map(str, GROUPS))} queries share a list of keys, not {self.group}")
        if self.keep_views is not None and (self.keep_views < 1 or not self.packed):
            raise UsageError(f"the views kept must be at least 1, and need packed tokens, not {self.keep_views}")
        if self.parts < 0 or (self.parts and not self.packed):
            raise UsageError(f"the parted blocks must be at least 0, and need packed tokens, not {self.parts}")
        if self.mix not in MIXES:
            raise UsageError(f"the branches are mixed by {' or '.join(MIXES)}, not {self.mix!r}")
        if self.protect not in PROTECT:
            raise UsageError(f"protected are {', '.join(PROTECT)}, not {self.protect!r}")
        if len(self.keep_ratios) not in (0, len(self.layers)):
            raise UsageError(f"{len(self.keep_ratios)} keep ratios were given for {len(self.layers)} sparse layers")
        for layer in self.layers or ("",):
            self.formula(layer)

    def formula(self, layer: str) -> Formula:
        """The formula of the attention module `layer`."""
        own = dict(zip(self.layers, self.keep_ratios)) if self.keep_ratios else {}
        ratio = own.get(layer, self.keep_ratio)
        views = None if self.keep_views is None else self.keep_views * ratio / self.mean_ratio
        return Formula(ratio, self.drop_ratio, self.feature, self.linear_over, self.summaries, self.scores, views)

    @property
    def mean_ratio(self) -> float:
        """The mean keep ratio of the sparse-linear modules."""
        return sum(self.keep_ratios) / len(self.keep_ratios) if self.keep_ratios else self.keep_ratio

    @property
    def unset(self) -> bool:
        """Whether only the layers and the mix are set, as `lite3r convert` writes it without a keep ratio. The other
        settings then come from the preset.
        """
        return replace(self, layers=(), keep_ratios=(), mix="sum") == SparseConfig(()) and not self.keep_ratios

    def to_json(self) -> str:
        """The JSON text that is stored in a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SparseConfig:
        """The settings from the parsed JSON of `to_json`. Raises UsageError for invalid values, TypeError for unknown
        fields.
        """
        sequences = {name: tuple(values[name]) for name in ("layers", "keep_ratios") if name in values}
        return cls(**{**values, **sequences})


# `published` is the form of SLA and of the official Lite3R checkpoints. `deep` and `shallow` are this project's forms
# (docs/method.md): packed tokens, which are fast on a GPU. In shallow networks half as many queries share a list,
# because their attention is broad and no later layer corrects an error. `… blocks` are older forms, for checkpoints
# that were made with them and for requests that set a field of OF_BLOCKS.
PRESETS: dict[str, Mapping[str, Any]] = {
    "published": {},
    "deep": {"packed": True, "summaries": True, "keep_views": 40},
    "shallow": {"packed": True, "summaries": True, "keep_views": 40, "group": 64, "parts": 4.0},
    "shallow blocks": {"tiles": True, "summaries": True, "key_block": 16, "scores": "mass", "linear_over": "rest"},
    "deep blocks": {"tiles": True, "walk": True, "summaries": True, "linear_over": "all"},
}
OF_BLOCKS = {"block", "key_block", "tiles", "walk", "summaries", "scores", "protect", "linear_over", "drop_ratio"}


def preset_for(across: int, asked: Mapping[str, Any]) -> str:
    """The key of PRESETS for a network with `across` cross-view attention layers, if the fields `asked` are set."""
    depth = "shallow" if across <= SHALLOW else "deep"
    return depth if asked.get("packed") or OF_BLOCKS.isdisjoint(asked) else f"{depth} blocks"


def settle(
    across: Sequence[str],
    stored: SparseConfig | None = None,
    keep_ratio: float | None = None,
    layers: Sequence[str] | None = None,
    **asked: Any,
) -> SparseConfig:
    """The settings of a network whose cross-view attention modules are `across`. A field comes from `asked`, else from
    the checkpoint (`stored`), else from the preset.

    `keep_ratio` is the mean over all `layers`; None: the checkpoint's, else `LiteConfig.default_keep_ratio`. If the
    layers are exactly the cross-view ones, `keep_schedule.py` distributes it, else every layer gets the same ratio.
    `layers`: None for the checkpoint's, else those in `across`. Raises UsageError for invalid settings.
    """
    known = None if stored is None or stored.unset else stored
    if known is None:
        base = dict(PRESETS[preset_for(len(across), asked)])
        if "block" in asked and "key_block" in base:
            base["key_block"] = asked["block"]
        if stored is not None:
            base["mix"] = stored.mix
    else:
        own = ("layers", "keep_ratio", "keep_ratios")
        base = {name: value for name, value in vars(known).items() if name not in own}
        if known.packed and not OF_BLOCKS.isdisjoint(asked):
            base |= {"packed": False, "keep_views": None, "parts": 0.0}
    if not asked.get("tiles", True):
        base["walk"] = False  # a way to cut tiles
    settings = base | asked
    names = tuple(layers or (stored.layers if stored is not None else across))
    if set(names) == set(across):
        names = tuple(across)  # the schedule needs this order
    if keep_ratio is None:
        keep_ratio = LiteConfig.default_keep_ratio if known is None else known.keep_ratio
    if "keep_ratios" not in settings:
        if known is not None and names == known.layers and keep_ratio == known.keep_ratio:
            settings["keep_ratios"] = known.keep_ratios
        elif names == tuple(across) and not settings.get("official"):
            settings["keep_ratios"] = keep_ratios(len(across), keep_ratio)
    return SparseConfig(names, keep_ratio, **settings)
