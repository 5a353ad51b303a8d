"""The kinds of networks: how a checkpoint of each is recognised, its configuration found, and what
of it is left out on purpose.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lite3r_cli.errors import Lite3RError, WeightsError
from lite3r_cli.networks.da3.network import DA3, SIZES, DA3Config
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.vggt.network import VGGT, VGGT_1B, VGGTConfig

Shapes = Mapping[str, tuple[int, ...]]

WRAPPERS = ("model.", "module.")  # prefixes that training programs put before every name
# Tensors of published checkpoints that nothing here computes with → why.
OMISSIONS: dict[str, str] = {
    "track_head.": "track head (tracks given points; not needed for depth and cameras)",
    "gs_head.": "Gaussian head (renders novel views; not needed for depth and cameras)",
}
# One tensor that a checkpoint may hold under any of four names; the last one counts.
SHARED = re.compile(r"(head\.scratch\.output_conv2_aux\.)([0-3])(\.2\.(?:weight|bias))")
PAIRS_OF_TAPS = {24: (4, 11, 17, 23), 4: (0, 1, 2, 3)}  # pairs of VGGT's blocks → tapped ones, which no tensor tells


@dataclass(frozen=True)
class Family:
    """`marker` is a tensor that only this kind has; `config` reads the configuration off
    names and shapes, or raises KeyError.
    """

    config_class: type
    build: Callable[[Any, str], nn.Module]
    marker: str
    config_from_shapes: Callable[[Shapes], Any]
    names: Callable[[Any], str]  # configuration → name of the model
    global_layers: Callable[[Any], list[str]]  # configuration → its attention modules across views
    high_precision: tuple[str, ...]  # patterns of the matrices that conversion keeps out of FP8 unless told otherwise
    last_projections: Callable[[Any], list[str]]  # configuration → the last two attention blocks' output layers


def _count(shapes: Shapes, pattern: str) -> int:
    """How many layers of a list there are: `pattern` has one group, the index."""
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(pattern, name))), default=-1)


def _head(shapes: Shapes, prefix: str) -> dict[str, Any]:
    return {
        "head_features": shapes[f"{prefix}.scratch.layer1_rn.weight"][0],
        "head_stages": tuple(shapes[f"{prefix}.projects.{i}.weight"][0] for i in range(4)),
    }


def _vggt_config(shapes: Shapes) -> VGGTConfig:
    dim = shapes["aggregator.camera_token"][-1]
    pairs = _count(shapes, r"aggregator\.frame_blocks\.(\d+)\.")
    return VGGTConfig(
        dim=dim,
        pairs=pairs,
        heads=dim // shapes["aggregator.frame_blocks.0.attn.q_norm.weight"][0],
        encoder_depth=_count(shapes, r"aggregator\.patch_embed\.blocks\.(\d+)\."),
        encoder_heads=dim // 64,  # as in every DINOv2
        taps=PAIRS_OF_TAPS[pairs],
        camera_depth=_count(shapes, r"camera_head\.trunk\.(\d+)\."),
        point_head="point_head.norm.weight" in shapes,
        position_grid=math.isqrt(shapes["aggregator.patch_embed.pos_embed"][1] - 1),
        **_head(shapes, "depth_head"),
    )


def _da3_config(shapes: Shapes) -> DA3Config:
    dim, depth = shapes["backbone.pretrained.cls_token"][-1], _count(shapes, r"backbone\.pretrained\.blocks\.(\d+)\.")
    return {(config.dim, config.depth): config for config in SIZES.values()}[dim, depth]


def _vggt_name(config: VGGTConfig) -> str:
    return "vggt-1b" if dataclasses.replace(config, point_head=True) == VGGT_1B else "vggt"


def _da3_name(config: DA3Config) -> str:
    return next((name for name, known in SIZES.items() if known == config), "da3")


def _no_config(shapes: Shapes) -> MiniConfig:
    raise KeyError("config")


def _alternating(prefix: str) -> Callable[[Any], list[str]]:
    return lambda config: [f"{prefix}{i}.attn" for i in range(config.depth) if config.is_global(i)]


def _last_two(prefix: str) -> Callable[[Any], list[str]]:
    return lambda config: [f"{prefix}{i}.attn.proj" for i in range(max(0, config.depth - 2), config.depth)]


FAMILIES: dict[str, Family] = {
    "vggt": Family(
        VGGTConfig,
        VGGT,
        "aggregator.camera_token",
        _vggt_config,
        _vggt_name,
        lambda config: [f"aggregator.global_blocks.{i}.attn" for i in range(config.pairs)],
        ("*.patch_embed.proj.*", "camera_head.*", "depth_head.*", "point_head.*", "*.proj_lin.*"),
        lambda config: [f"aggregator.{kind}_blocks.{config.pairs - 1}.attn.proj" for kind in ("frame", "global")],
    ),
    "da3": Family(
        DA3Config,
        DA3,
        "backbone.pretrained.cls_token",
        _da3_config,
        _da3_name,
        _alternating("backbone.pretrained.blocks."),
        ("*.patch_embed.proj.*", "head.*", "cam_dec.*", "cam_enc.*", "*.proj_lin.*"),
        _last_two("backbone.pretrained.blocks."),
    ),
    "mini": Family(
        MiniConfig,
        lambda config, name: Mini(config),
        "ray_head.weight",
        _no_config,
        lambda config: "mini",
        _alternating("blocks."),
        ("patch_embed.*", "head.*", "camera.*", "ray_head.*", "*.proj_lin.*"),
        _last_two("blocks."),
    ),
}


def family_of(model: nn.Module) -> Family | None:
    """The kind of a network, None for one of no known kind."""
    config = getattr(model, "config", None)
    return next((f for f in FAMILIES.values() if isinstance(config, f.config_class)), None)


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
    return (
        ()
        if family is None
        else family.high_precision + tuple(f"{n}.weight" for n in family.last_projections(model.config))
    )


@dataclass(frozen=True)
class Layout:
    """What a checkpoint is: its network, and which stored tensor each of the network's tensors comes from."""

    family: Family
    name: str
    config: Any
    sources: dict[str, str]  # name in the network → name in the file
    left_out: dict[str, list[str]]  # reason → names in the file

    def build(self) -> nn.Module:
        return self.family.build(self.config, self.name)


def recognise(shapes: Shapes, metadata: Mapping[str, str], path: Path) -> Layout:
    """The layout of a checkpoint whose file holds tensors of these names and shapes. Raises
    WeightsError for an unknown one.
    """
    sources, left_out = _canonical(shapes)
    canonical = {name: shapes[stored] for name, stored in sources.items()}
    family = next((f for f in FAMILIES.values() if f.marker in canonical), None)
    if family is None and "config" in metadata:
        family = FAMILIES.get(metadata.get("model", "").split("-")[0])
    if family is None:
        raise WeightsError(
            f"{path}: not a Lite3R checkpoint, nor one of {', '.join(FAMILIES)}: "
            f"none of the tensors that mark them is in it (it starts with {next(iter(shapes), 'nothing')})"
        )
    config = _config(family, canonical, metadata, path)
    return Layout(family, family.names(config), config, sources, left_out)


def _canonical(shapes: Shapes) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Names without wrappers and without what is left out on purpose, each with the name in the file."""
    sources = {name: name for name in shapes}
    for wrapper in WRAPPERS:
        if sources and all(name.startswith(wrapper) for name in sources):
            sources = {name[len(wrapper) :]: stored for name, stored in sources.items()}
    left_out: dict[str, list[str]] = {}
    for name in list(sources):
        reason = next((why for prefix, why in OMISSIONS.items() if name.startswith(prefix)), None)
        if reason is not None:
            left_out.setdefault(reason, []).append(sources.pop(name))
    name_in_file = dict(sources)
    for name in sorted(
        name for name in sources if SHARED.fullmatch(name)
    ):  # in the order of their indices: the last stays
        for i in range(4):
            sources[SHARED.sub(rf"\g<1>{i}\g<3>", name)] = name_in_file[name]
    return sources, left_out


def _config(family: Family, shapes: Shapes, metadata: Mapping[str, str], path: Path) -> Any:
    known = [f.name for f in dataclasses.fields(family.config_class)]
    try:
        if "config" not in metadata:
            return family.config_from_shapes(shapes)
        values = json.loads(metadata["config"])
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise WeightsError(
                f"{path}: its configuration has entries this version does not know ({', '.join(unknown[:5])}); "
                f"known are {', '.join(known)}"
            )
        return family.config_class(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (KeyError, ValueError, TypeError, Lite3RError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path}: not a Lite3R checkpoint: its metadata holds no readable `config`, "
            f"and its tensors do not tell ({error})"
        ) from error
