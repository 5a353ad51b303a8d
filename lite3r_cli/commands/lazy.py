"""The commands by name. Each is imported when it is called; `lite3r --help` needs only their first lines."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

# Command → module of this package (which has a function of that name), and the first line of its docstring.
COMMANDS = {
    "reconstruct": (
        "reconstruct",
        "Reconstruct a scene: photos in; point cloud, depth maps and cameras out.",
    ),
    "batch": ("batch", "Reconstruct many scenes with one or several processes."),
    "view": ("view", "Write one HTML page that shows a scene: points, cameras and photos."),
    "locate": (
        "locate",
        "Find the cameras of new photos in a scene.",
    ),
    "add": ("add", "Add new photos to a scene and rewrite all of its outputs."),
    "merge": ("merge_pair", "Merge two overlapping scenes into a new one, in the frame and scale of the first."),
    "render": ("render", "Render a video of a flight through a scene; frames, depth and masks on request."),
    "splat": ("splat", "Train Gaussian splats on the photos of a scene, on a GPU."),
    "eval": ("evaluate", "Score predictions against scenes with known cameras and depth."),
    "models": (
        "models",
        "List the networks: size, licence, source of the weights, accepted inputs, published accuracy.",
    ),
    "bench": ("bench", "Measure time and memory of a network and compare them with the limit of the hardware."),
    "convert": (
        "convert",
        "Convert a dense checkpoint: FP8 or bf16 weights, sparse-linear attention.",
    ),
    "distill": (
        "distill",
        "Train the sparse-linear form of a network to match its dense form.",
    ),
    "train": ("train", "Train mini for a given time."),
    "synth": (
        "synth",
        "Generate procedural scenes: photos with exact cameras and depth.",
    ),
}
WITHOUT_ARGUMENTS = ("models",)  # the others show their help
SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class PlainCommand(TyperCommand):
    """A command whose help shows no Python types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, including --help."""
        return without_types(super().get_params(ctx))


def without_types(parameters: list[Any]) -> list[Any]:
    """Removes the types that Typer shows without a metavar: <bool> for a flag, <list[Path]> for an argument."""
    for parameter in parameters:
        if not isinstance(parameter, TyperArgument):
            parameter.metavar = "" if parameter.is_flag and parameter.metavar is None else parameter.metavar
            continue
        argument: Any = parameter
        argument.display_type_rich = _nothing
    return parameters


def _nothing(ctx: Any) -> None:
    """The empty content of the type column."""


class LazyGroup(TyperGroup):
    """A group that lists COMMANDS and builds the one that is called."""

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, including --help and --install-completion."""
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
