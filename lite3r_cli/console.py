"""The only place that prints. Results go to standard output, everything else to standard error.

On a terminal the stages of a run are a live display; elsewhere each finished stage is one plain line. `NO_COLOR` is
honoured by rich, which is imported only when there is something to draw.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Tell = Callable[[str], None]  # what pipelines are handed to say something with, see Progress.note and warn


@dataclass
class _Settings:
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    debug: bool = False


settings = _Settings()


class OutputClosed(BaseException):
    """The reader of standard output has gone (`lite3r … | head`): end quietly.

    Not an Exception, so that nothing swallows it on the way out.
    """


def reset() -> None:
    """Forget the options of an earlier call in the same process."""
    settings.__dict__.update(vars(_Settings()))


def _setter(name: str) -> Callable[[bool], bool]:
    def set_flag(value: bool) -> bool:
        setattr(settings, name, bool(value))
        return value

    return set_flag


set_json, set_quiet, set_verbose, set_debug = (_setter(name) for name in ("json", "quiet", "verbose", "debug"))


def _one_line(text: object) -> str:
    """File names may hold newlines and terminal codes: a message stays one printable line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _write(stream, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)  # a name need not fit the terminal's encoding
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error


def flush() -> None:
    """Hand over what is still buffered for standard output, help pages included."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error


def abandon_stdout() -> None:
    """Point standard output at the null device: the interpreter flushes it again at exit and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def info(text: object) -> None:
    """A line about progress; hidden by --quiet."""
    if not settings.quiet:
        _write(sys.stderr, _one_line(text))


def detail(text: object) -> None:
    """A line that only --verbose shows."""
    if settings.verbose and not settings.quiet:
        _write(sys.stderr, _one_line(text))


def _labelled(label: str, style: str, text: object) -> None:
    line = _one_line(text)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text.assemble((f"{label}: ", style), line))
    else:
        _write(sys.stderr, f"{label}: {line}")


def warn(text: object) -> None:
    """Something the user should know; shown even with --quiet."""
    _labelled("warning", "bold yellow", text)


def error(text: object, label: str = "error") -> None:
    """The one line of a failure."""
    _labelled(label, "bold red", text)


def traceback(error: BaseException) -> None:
    """The full traceback, for --debug."""
    import traceback as module

    _write(sys.stderr, "".join(module.format_exception(error)).rstrip())


def document(value: object) -> None:
    """The one JSON document of --json, on standard output."""
    _write(sys.stdout, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def text(value: str) -> None:
    """Plain result text on standard output; hidden by --quiet."""
    if not settings.quiet:
        _write(sys.stdout, value)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, numbers: bool = True
) -> None:
    """A table on standard output; hidden by --quiet and replaced by `document` with --json.

    Columns after the first are right-aligned when `numbers`. Away from a terminal they are padded text, never cut.
    """
    if settings.quiet:
        return
    cells = [[_one_line(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
        align = [str.ljust if i == 0 or not numbers else str.rjust for i in range(len(columns))]
        lines = ["  ".join(f(c, w) for f, c, w in zip(align, row, widths)).rstrip() for row in [list(columns), *cells]]
        lines = [line for line in lines if line]  # a table without headings has an empty first line
        _write(sys.stdout, "\n".join(([title] if title else []) + lines))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 or not numbers else "right", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


class Progress:
    """Stages of a run and the seconds that each took. This base shows nothing: what pipelines use by default."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}  # stage → wall time, in the order of the run

    @contextmanager
    def stage(self, name: str, total: int | None = None, minor: bool = False) -> Iterator[Callable[..., None]]:
        """Time a stage; the value given is called after each of its `total` steps, with figures to show if there are
        new ones. A name used twice adds up.

        A `minor` stage leaves a line only with --verbose.
        """
        start = time.perf_counter()
        with self._show(name, total) as step:
            yield step
        seconds = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._finished(name, seconds, total, minor)

    def note(self, text: str) -> None:
        """A fact that the user should see once, between stages."""

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        yield lambda figures="": None

    def _finished(self, name: str, seconds: float, total: int | None, minor: bool) -> None:
        pass


class PlainProgress(Progress):
    """One line for each finished stage, for logs."""

    def note(self, text: str) -> None:
        info(text)

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        yield lambda figures="": info(f"{name}: {figures}") if figures else None

    def _finished(self, name: str, seconds: float, total: int | None, minor: bool) -> None:
        count = f" ({total})" if total else ""
        (detail if minor else info)(f"{name}{count}: {seconds:.1f} s")


class LiveProgress(PlainProgress):
    """A bar for the running stage, one line for each finished one."""

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        columns += [BarColumn(bar_width=30), MofNCompleteColumn()] if total else []
        columns += [TimeElapsedColumn(), TextColumn("{task.fields[figures]}")]
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=total, figures="")
            yield lambda figures="": bar.update(task, advance=1, **({"figures": figures} if figures else {}))


def progress() -> Progress:
    """The display that fits where standard error goes."""
    if settings.quiet:
        return Progress()
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
