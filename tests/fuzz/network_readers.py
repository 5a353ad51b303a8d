"""Checkpoints of the published networks, in their shapes and very small: with a configuration in the metadata, and as
published, where the shapes of the tensors tell it. Same rules as in readers.py.
"""

from __future__ import annotations

import dataclasses
import json
import random
from functools import cache
from pathlib import Path

from cases import Files, Reader
from mutate import mutated
from record_readers import _header as _other_header

_HEAD = {"head_features": 8, "head_stages": (8,) * 4}
_VGGT = {"dim": 32, "pairs": 4, "heads": 2, "encoder_depth": 1, "encoder_heads": 2, "taps": (0, 1, 2, 3),
         "camera_depth": 1, "camera_heads": 2, **_HEAD}  # fmt: skip
_PI3 = {"dim": 64, "depth": 2, "heads": 1, "encoder_depth": 1, "encoder_heads": 1, "head_dim": 64, "head_heads": 1,
        "head_depth": 1, "head_out": 32, "camera_out": 32, "position_grid": 3}  # fmt: skip
_PI3X = {"conv_channels": (32, 16, 16), "conv_last": 8, "metric_dim": 32, "metric_heads": 1, "metric_out": 8,
         "inject_after": (1,)}  # fmt: skip
_OMEGA = {"dim": 64, "pairs": 6, "register_pairs": (1, 3), "taps": (0, 2, 4, 5), "camera_heads": 4}
SIZES: dict[str, dict] = {
    "vggt": _VGGT | {"position_grid": 3},
    "vggt-omega": _VGGT | _OMEGA,
    "lingbot-map": _VGGT | {"dim": 64, "heads": 1, "encoder_heads": 1, "position_grid": 3},
    "da3": {"dim": 32, "depth": 8, "heads": 2, "alternate_from": 1, "taps": (1, 3, 5, 7), "position_grid": 3,
            "camera_heads": 2, "camera_depth": 1, **_HEAD},
    "pi3": _PI3,
    "pi3x": _PI3 | _PI3X,
    "map-anything": {"encoder_dim": 64, "dim": 64, "heads": 1, "depth": 4, "encoder_depth": 1, "encoder_heads": 1,
                     "taps": (1, 3), "position_grid": 3, "dense_widths": (8,) * 3, "global_widths": (8,) * 3, **_HEAD},
}  # fmt: skip


@cache
def _published(name: str) -> tuple[bytes, ...]:
    """The network as a file with its configuration, and as a file of tensors alone."""
    from safetensors.torch import save

    from lite3r_cli.networks import standin
    from lite3r_cli.networks.family import family_named

    family = family_named(name)
    example = family.sizes.get(name, next(iter(family.sizes.values())))
    known = {field.name for field in dataclasses.fields(example)}
    config = dataclasses.replace(example, **{key: value for key, value in SIZES[name].items() if key in known})
    model = family.build(config, name)
    standin.fill(model, 1)
    state = {key: tensor.half() for key, tensor in model.state_dict().items()}
    return save(state, {"model": name, "config": json.dumps(dataclasses.asdict(config))}), save(state)


def _setting(r: random.Random, data: bytes) -> bytes:
    """Another shape, type or name of one tensor, or another value of the configuration, within a sound header."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    told = header.get("__metadata__")
    if told and r.random() < 0.5:
        settings = json.loads(told["config"])
        name = r.choice(sorted(settings))
        odd = (0, -1, 1, 2, 3, 7, 10**6, 10**30, 1.5, True, None, "8", [], [0], [1, 2, 3, 4], [[1]], {}, [10**9] * 4)
        settings[name] = r.choice(odd)
        told["config"] = json.dumps(settings)
    else:
        name = r.choice([key for key in header if key != "__metadata__"])
        entry = header[name]
        what = r.randrange(5)
        if what == 0:
            del header[name]
        elif what == 1:
            header[r.choice(("model." + name, name.replace("0", "9", 1), name + ".x", "\x1b[2J"))] = header.pop(name)
        elif what == 2:
            entry["dtype"] = r.choice(("F8_E4M3", "I16", "U16", "BF16", "BOOL", "F64"))
        elif entry["shape"]:
            entry["shape"] = r.choice((entry["shape"][::-1], [*entry["shape"], 1], entry["shape"][1:], [0], [1 << 40]))
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + data[8 + size :]


def network_readers() -> dict[str, Reader]:
    """By name."""

    def make(r: random.Random) -> Files:
        data = r.choice(_published(r.choice(list(SIZES))))
        if r.random() < 0.7:
            return {"a.safetensors": _setting(r, data)}
        return {"a.safetensors": mutated(r, data, [data], (_other_header,) * (b"__metadata__" in data[:200]))}

    def read(folder: Path) -> str | None:
        from lite3r_cli.networks.checkpoint import open_checkpoint

        with open_checkpoint(folder / "a.safetensors") as checkpoint:
            model = checkpoint.load()
            values = list(model.state_dict().values())
        return None if all(v.isfinite().all() for v in values) else "weights that are not finite"

    return {"networks": Reader(make, read)}
