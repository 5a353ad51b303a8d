"""The commands by name, each imported when it is called: `lite3r --help` needs their first lines alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

# Name → module of this package, whose function of the same name it is, and the first line of its docstring.
COMMANDS = {
    "reconstruct": (
        "reconstruct",
        "Reconstruct a scene: photographs in; a coloured cloud, depth maps and cameras out.",
    ),
    "batch": ("batch", "Reconstruct many scenes by one process that loads the network once, or by several."),
    "view": ("view", "Write a page to look at a scene: points, cameras and photographs, in one file."),
    "locate": (
        "locate",
        "Tell where new photos were taken in a scene: camera, focal length, and the nearest photographs.",
    ),
    "add": ("add", "Add new photos to a scene: cameras and depth in its frame and scale, and all of its outputs anew."),
    "merge": ("merge_pair", "Make one scene of two that overlap, in the frame and at the scale of the first."),
    "render": ("render", "Make a film of a flight through a scene; with its frames, depth and masks on request."),
    "splat": ("splat", "Train Gaussian splats on the photographs of a scene, on a GPU."),
    "eval": ("evaluate", "Score predictions against scenes with known cameras and depth."),
    "models": (
        "models",
        "List the models: size, licence, where the weights come from, whether they are here, and what they take.",
    ),
    "bench": ("bench", "Time and memory of a network, beside the least that the hardware could take."),
    "convert": (
        "convert",
        "Make a Lite3R checkpoint of a dense one: FP8 or bf16 weights, sparse-linear attention attached.",
    ),
    "distill": (
        "distill",
        "Teach the sparse-linear form of a network what its dense form answers; under torchrun on several GPUs.",
    ),
    "train": ("train", "Train mini for a given time; under torchrun on several GPUs."),
    "synth": (
        "synth",
        "Make procedural scenes: photographs with exact cameras and depth, in the format of the sample scenes.",
    ),
}
WITHOUT_ARGUMENTS = ("models",)  # the others show their help
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class PlainCommand(TyperCommand):
    """A command whose help has no names of Python's types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, --help among them."""
        return without_types(super().get_params(ctx))


def without_types(parameters: list[Any]) -> list[Any]:
    """Typer shows the type of what has no metavar: <bool> beside a flag, <list[Path]> beside an argument."""
    for parameter in parameters:
        if not isinstance(parameter, TyperArgument):
            parameter.metavar = "" if parameter.is_flag and parameter.metavar is None else parameter.metavar
            continue
        argument: Any = parameter
        argument.display_type_rich = _nothing
    return parameters


def _nothing(ctx: Any) -> None:
    """What stands in the column of types."""


class LazyGroup(TyperGroup):
    """A group that lists COMMANDS and builds the one that is called."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, --help and --install-completion among them."""
        return without_types(super().get_params(ctx))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, (_, summary) in COMMANDS.items():
            self.commands.setdefault(name, TyperCommand(name, help=summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with, as click wants it: its name, itself, and what follows."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name not in COMMANDS else build(name), rest


def build(name: str) -> Any:
    """One of COMMANDS with all its options."""
    module, _ = COMMANDS[name]
    function = getattr(import_module(f"{__package__}.{module}"), module)
    alone = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich", context_settings=SETTINGS
    )
    alone.command(name, cls=PlainCommand, no_args_is_help=name not in WITHOUT_ARGUMENTS)(function)
    return typer.main.get_command(alone)
