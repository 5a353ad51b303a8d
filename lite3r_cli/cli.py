"""The program: the commands of commands/lazy.py, and `main`, which turns every outcome into an exit code.

Nothing heavy is imported here: a command is imported when it is called, and imports its pipeline when it runs.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, TypeGuard

import typer

from . import __version__, console
from .commands.lazy import COMMANDS, SETTINGS, LazyGroup
from .errors import BackendError, InputError, Lite3RError, MemoryLimitError, OutputError
from .io.open_files import TOO_MANY, require_descriptors
from .stopping import Terminated, signals_as_exceptions

INTERRUPTED, PIPE_CLOSED = 130, 141
BY_SIGNAL = 128  # plus the number of the signal
THREADS = {  # read when torch and NumPy are imported
    # limits OpenMP's spin-waiting, which by default starves other processes on the same cores
    "GOMP_SPINCOUNT": "3000",
    # NumPy's products are small, and our own threads compute them side by side; threads of OpenBLAS for each would spin
    "OPENBLAS_NUM_THREADS": "1",
}
# torch need not look for devices of other makers: it would read the metadata of all installed packages.
NO_MORE_DEVICES = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
# Large pages for torch's large tensors where the system has them: an eighth of the page faults of a prediction.
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
_PIXELS = r"0*[1-9]\d{0,17}([kKmM][bB])?"
READ_AT_IMPORT = {  # settings of OpenCV → values with which its import does not abort the process
    "OPENCV_IO_MAX_IMAGE_PIXELS": _PIXELS, "OPENCV_IO_MAX_IMAGE_WIDTH": _PIXELS, "OPENCV_IO_MAX_IMAGE_HEIGHT": _PIXELS,
    "OPENCV_BUFFER_AREA_ALWAYS_SAFE": "[01]|[Tt]rue|TRUE|[Ff]alse|FALSE",
}  # fmt: skip
VANISHED = "; the current folder exists no more: give absolute paths"
NOWHERE = "/proc/self/task"  # no file can be created here, not even by root
_STREAM_ERRORS = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT)
WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
LOOKING = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EIO, errno.ESTALE)
COMPLETION = "_LITE3R_COMPLETE"
TORCH = ("TORCH", "PYTORCH")  # settings whose names begin so
INSTALL = "--install-completion"
LONGEST_PATH = 300  # characters in a message
LESS_MEMORY = {  # advice per command: what needs less memory
    "reconstruct": "lower --resolution, or limit the images with --max-views",
    "batch": "lower --resolution, or limit the images with --max-views",
    "render": "lower --size",
    "locate": "lower --resolution or --views",
    "add": "lower --views",
    "merge": "lower --views",
    "splat": "lower --size",
    "eval": "lower --resolution or --views",
    "bench": "lower --resolution or --views",
    "convert": "leave out --calibrate, or lower --calibrate-resolution",
    "distill": "lower --resolution, --views or --batch",
    "train": "lower --tokens",
    "synth": "lower --width, --height or --samples",
}

ELSEWHERE = {  # a command without -o, or with other options besides → its advice instead of "write elsewhere with -o"
    "add": "copy the scene to another place and add to the copy",
    "bench": "name another file with --plot",
    "render": "choose another -o or --frames",
}

app = typer.Typer(
    name="lite3r",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=SETTINGS,
)


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
    for name, value in os.environ.items():
        if (allowed := READ_AT_IMPORT.get(name)) is not None and not re.fullmatch(allowed, value):
            raise BackendError(f"{name}={value}: OpenCV does not understand this value; unset it")
    require_descriptors()


class _Complaint(Exception):
    """The interface of a command-line error, see `_is_complaint`."""

    exit_code: int

    def format_message(self) -> str:
        """What is wrong."""
        raise NotImplementedError


def main(arguments: Sequence[str] | None = None, began: float | None = None) -> int:
    """Run the program and return its exit code (see errors.py). `began`: start of the process as a time of
    `time.perf_counter`; None: now.
    """
    console.reset(began)
    console.replace_closed_streams()
    for name, value in (THREADS | NO_MORE_DEVICES | LARGE_PAGES).items():
        os.environ.setdefault(name, value)
    _silence_libraries()
    lost = _leave_vanished_folder()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with signals_as_exceptions():
            code = app(args=arguments, prog_name="lite3r", standalone_mode=False)
            console.flush()
            if code == INTERRUPTED:  # Typer's form of KeyboardInterrupt
                raise KeyboardInterrupt
            return code if isinstance(code, int) else 0
    except Lite3RError as error:
        return _fail(error, f"{_advised(error, arguments)}{VANISHED if lost else ''}", error.exit_code)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # Typer treats every EOFError as Ctrl-D at a prompt
            return _fail(error.__cause__, _bug(error.__cause__), 1, label="bug")
        return _fail(error, "stopped; nothing half-written is left", INTERRUPTED, label="interrupted")
    except Terminated as error:
        return _fail(error, "stopped; nothing half-written is left", BY_SIGNAL + error.number, label="terminated")
    except console.OutputClosed:
        console.abandon(sys.stdout)
        return PIPE_CLOSED
    except console.OutputLost as error:
        return _stdout_lost(error, str(error))
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # the reader of the help page is gone
            raise
        console.abandon(sys.stdout)
        return PIPE_CLOSED
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in _STREAM_ERRORS:  # of the help page
            return _stdout_lost(error, error.strerror or str(error))
        if _is_complaint(error):
            if not error.format_message():  # a command without arguments has printed its help
                return error.exit_code
            return _fail(error, _usage_message(error), error.exit_code)
        if _is_out_of_memory(error):
            advice = LESS_MEMORY.get(_command(arguments), "end other programs, or use a machine with more")
            return _fail(error, f"out of memory; {advice}", MemoryLimitError.exit_code)
        if type(error).__module__ == "cv2" and (set_here := sorted(n for n in os.environ if n.startswith("OPENCV_"))):
            why = " ".join(str(error).split())[:200]
            return _fail(error, f"OpenCV failed ({why}); unset {', '.join(set_here)}", BackendError.exit_code)
        if (answer := _of_the_process(error)) is not None:
            return _fail(error, str(answer), answer.exit_code)
        if isinstance(error, (OSError, RuntimeError)) and any(word.startswith(INSTALL) for word in arguments):
            return _fail(error, _not_installed(error), OutputError.exit_code)
        if isinstance(error, OSError) and (answer := _of_the_system(error)) is not None:
            return _fail(error, _advised(answer, arguments), answer.exit_code)
        return _fail(error, _bug(error), 1, label="bug")


def _command(arguments: Sequence[str]) -> str:
    """The name of the command; empty without one."""
    return next((word for word in arguments if word in COMMANDS), "")


def _advised(error: Lite3RError, arguments: Sequence[str]) -> str:
    """The text of an error, without options that the command does not have."""
    command = _command(arguments)
    other = ELSEWHERE.get(command)
    if other is None or not isinstance(error, OutputError):
        return str(error)
    if command == "add":  # what is in the way in a scene is in the way in its copy, too
        text = re.sub(r",? or choose another -o\b", "", str(error))
        error = OutputError(text.replace("move or remove it", "put it back, or reconstruct the scene again"))
    return re.sub(r"(choose another|write elsewhere with|write to a local disk with) -o\b", other, str(error))


def _not_installed(error: OSError | RuntimeError) -> str:
    """The reason why shell completion could not be installed in the home folder; RuntimeError means that there is no
    home folder.
    """
    reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error).rstrip(".")
    return f"{INSTALL}: {reason}; print it with --show-completion and put it where your shell reads it"


def _bug(error: BaseException) -> str:
    return f"{type(error).__name__}: {error} (run again with --debug)"


def _of_the_process(error: Exception) -> Lite3RError | None:
    """The error where a limit of processes, or a setting of torch in the environment, is the reason."""
    text = str(error)
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return BackendError("no more threads can be started; allow more with `ulimit -u`, or for the container")
    if isinstance(error, KeyError) and COMPLETION in os.environ:
        return BackendError(f"{COMPLETION} is set, but no shell asks for a completion; unset it")
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or f"{os.sep}torch{os.sep}" not in frames[-1].filename:
        return None
    settings = {name: value for name, value in os.environ.items() if name.startswith(TORCH) and len(value) > 2}
    named = sorted(name for name, value in settings.items() if name in text or value in text)
    reason = " ".join(text.split())[:200]
    return BackendError(f"torch does not understand {named[0]} ({reason}); unset it") if named else None


def _of_the_system(error: OSError) -> Lite3RError | None:
    """An unexpected OSError, usually on a path that the user named, as an error with an exit code."""
    path = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    if not path or error.errno is None:
        return None
    shown = path if len(path) <= LONGEST_PATH else f"{path[:LONGEST_PATH]}…"
    if error.errno in WRITING:
        return OutputError(f"{shown}: cannot be written: {error.strerror}; write elsewhere with -o")
    if error.errno in TOO_MANY:
        return BackendError(f"{shown}: {TOO_MANY[error.errno]}")
    if error.errno in LOOKING:
        return InputError(f"{shown}: {error.strerror}; check the path and its permissions")
    return None


def _stdout_lost(error: BaseException, reason: str) -> int:
    """Standard output could not be written. The output files of the run, if it has any, are complete."""
    console.abandon(sys.stdout)
    message = f"standard output cannot be written ({reason}); any files that the run has written are complete"
    return _fail(error, message, OutputError.exit_code)


def _silence_libraries() -> None:
    """Disable the messages of Pillow and FFmpeg about damaged pictures: lite3r reports them itself,
    with the file name.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for name in ("PIL", "libav"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _leave_vanished_folder() -> bool:
    """Whether the current folder has been deleted. Libraries would abort the process; so the process changes to a
    folder where nothing can be found or written, and relative paths fail with an error.
    """
    try:
        os.getcwd()
    except OSError:
        os.chdir(NOWHERE if os.path.isdir(NOWHERE) else os.sep)
        return True
    return False


def _is_complaint(error: Exception) -> TypeGuard[_Complaint]:
    """Whether Typer reports an error in the command line. Depending on the version its base class is click's or a copy
    in Typer, so it is recognised by its methods.
    """
    return callable(getattr(error, "format_message", None)) and isinstance(getattr(error, "exit_code", None), int)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, ImportError):  # of a shared library, for which there was no room
        return "failed to map segment" in str(error)
    if "torch" not in sys.modules:  # do not import torch only for this check
        return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    from .runtime import is_out_of_memory

    return is_out_of_memory(error)


def _usage_message(error: _Complaint) -> str:
    """The message of click, and the command that shows the help."""
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
