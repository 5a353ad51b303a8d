"""The program: one Typer command for each entry of COMMANDS, and `main`, which turns every ending into an exit code.

Nothing heavy is imported here or by the modules in commands/: a command imports its pipeline when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeGuard

import typer

from . import __version__, console
from .commands.bench import bench
from .commands.convert import convert
from .commands.distill import distill
from .commands.evaluate import evaluate
from .commands.models import models
from .commands.reconstruct import reconstruct
from .commands.synth import synth
from .commands.train import train
from .errors import Lite3RError, MemoryLimitError

INTERRUPTED, TERMINATED, PIPE_CLOSED = 130, 143, 141
# Limit OpenMP's spin-waiting: by default it starves other processes on the same cores. Read when torch is imported.
SPINS = ("GOMP_SPINCOUNT", "3000")
OUT_OF_MEMORY = "out of memory; lower --resolution, or limit the images with --max-views"

COMMANDS: dict[str, Callable[..., None]] = {
    "reconstruct": reconstruct,
    "eval": evaluate,
    "models": models,
    "bench": bench,
    "convert": convert,
    "distill": distill,
    "train": train,
    "synth": synth,
}

app = typer.Typer(
    name="lite3r",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _function in COMMANDS.items():
    app.command(_name, no_args_is_help=_name != "models")(_function)


def _show_version(value: bool) -> None:
    if value:
        console.text(f"lite3r {__version__}")
        raise typer.Exit()


@app.callback(epilog="Start with: [bold]lite3r reconstruct PHOTOS -o scene.ply --preview[/bold]")
def lite3r(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """A folder of photos in; depth maps, camera poses and a coloured point cloud out."""


class _Complaint(Exception):
    """What a complaint about the command line has, see `_is_complaint`."""

    exit_code: int

    def format_message(self) -> str: ...


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that cleaning up is all that happens on the way out."""


def _raise_terminated(signum: int, frame: object) -> None:
    raise Terminated


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that temporary files are removed, as Ctrl-C does by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code (errors.py states the contract)."""
    console.reset()
    os.environ.setdefault(*SPINS)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with _sigterm_as_exception():
            code = app(args=arguments, prog_name="lite3r", standalone_mode=False)
            console.flush()
            if code == INTERRUPTED:  # Typer's form of KeyboardInterrupt
                raise KeyboardInterrupt
            return code if isinstance(code, int) else 0
    except Lite3RError as error:
        return _fail(error, str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        return _fail(error, "stopped; nothing half-written is left", INTERRUPTED, label="interrupted")
    except Terminated as error:
        return _fail(error, "stopped; nothing half-written is left", TERMINATED, label="terminated")
    except console.OutputClosed:
        console.abandon_stdout()
        return PIPE_CLOSED
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # Typer's answer to a reader that left its help page
            raise
        console.abandon_stdout()
        return PIPE_CLOSED
    except Exception as error:
        if _is_complaint(error):
            if not error.format_message():  # a command without arguments has shown its help
                return error.exit_code
            return _fail(error, _usage_message(error), error.exit_code)
        if _is_out_of_memory(error):
            return _fail(error, OUT_OF_MEMORY, MemoryLimitError.exit_code)
        return _fail(error, f"{type(error).__name__}: {error} (run again with --debug)", 1, label="bug")


def _is_complaint(error: Exception) -> TypeGuard[_Complaint]:
    """Whether Typer says that the command line is wrong. Its base class is click's, or a copy within Typer, by version:
    it is known by what it can do.
    """
    return callable(getattr(error, "format_message", None)) and isinstance(getattr(error, "exit_code", None), int)


def _is_out_of_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:  # do not import torch in order to ask
        return isinstance(error, MemoryError)
    from .runtime import is_out_of_memory

    return is_out_of_memory(error)


def _usage_message(error: _Complaint) -> str:
    """Click's complaint with the help that would have answered it."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "lite3r"
    return f"{error.format_message().rstrip('.')} (see {command} --help)"


def _fail(error: BaseException, message: str, code: int, label: str = "error") -> int:
    if console.settings.debug:
        console.traceback(error)
    console.error(message, label)
    return code


if __name__ == "__main__":
    sys.exit(main())
