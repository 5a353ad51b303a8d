"""Splats as .spz or .sog: PlayCanvas' program splat-transform converts the .ply, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..errors import BackendError, OutputError
from ..io.names import printable

PROGRAM = "splat-transform"
INSTALL = "npm install -g @playcanvas/splat-transform"
CONVERTED = (".spz", ".sog")
LONGEST = 600  # seconds


def require_converter(target: Path) -> None:
    """Raise BackendError if `target` needs splat-transform and it is not there."""
    if target.suffix.lower() in CONVERTED and shutil.which(PROGRAM) is None:
        raise BackendError(f"{target.suffix} files are made by {PROGRAM}, which is not installed: {INSTALL}")


def trained_file(target: Path) -> Path:
    """The splat file that training writes for the output `target`: the output itself, or what becomes it."""
    return target.with_name(f"{target.name}.ply") if target.suffix.lower() in CONVERTED else target


def convert(ply: Path, target: Path) -> None:
    """Write `target` from a splat file. Raises OutputError with the program's last line if it fails, and BackendError
    if it is gone; both say where the splats are.
    """
    kept = f"the trained splats are in {printable(ply)}"
    program = shutil.which(PROGRAM)
    if program is None:
        raise BackendError(f"{PROGRAM} is not installed: {INSTALL}; {kept}")
    words = [program, str(ply.resolve()), str(target.resolve())]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=LONGEST, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutputError(f"{target.name}: {PROGRAM} did not finish: {error}; {kept}") from None
    if done.returncode or not target.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise OutputError(f"{target.name}: {PROGRAM} failed: {lines[-1]}; {kept}")
