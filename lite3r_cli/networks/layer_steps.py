"""Progress of a prediction: counts the layers that have run, then the views whose depth is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lite3r_cli.attention.module import attention_modules
from lite3r_cli.layers.heads.camera import CameraCorrection
from lite3r_cli.networks.family import family_of

Told = Callable[[str], None]  # receives the progress as text: "layer 7 of 24"


@contextmanager
def told_of_layers(model: nn.Module, views: int, tell: Told) -> Iterator[None]:
    """Inside this context, `tell` gets a text after each attention layer of `model` and after each
    batch of depth maps.
    """
    # those over one token a view take no time
    small = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, CameraCorrection))
    layers = {name: module for name, module in attention_modules(model).items() if not name.startswith(small)}
    done: set[str] = set()

    def layer(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            if name not in done:
                done.add(name)
                tell(f"layer {len(done)} of {len(layers)}")

        return hook

    def head() -> Callable[..., None]:
        maps = 0

        def hook(module: nn.Module, given: Any, found: Any) -> None:
            nonlocal maps
            found = found[0] if isinstance(found, (tuple, list)) and found else found
            if isinstance(found, Tensor) and found.ndim >= 4:  # views, channels, height, width
                maps += len(found)
                tell(f"depth of {min(maps, views)} of {views} views")

        return hook

    family = family_of(model)
    heads = [model.get_submodule(name) for name in family.heads] if family is not None else []
    hooks = [module.register_forward_hook(layer(name)) for name, module in layers.items()]
    hooks += [module.register_forward_hook(head()) for module in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
