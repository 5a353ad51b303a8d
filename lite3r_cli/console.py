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
from dataclasses import dataclass, field
from typing import Any

Tell = Callable[[str], None]  # a function that pipelines call to print a line; see Progress.note and warn


@dataclass
class _Settings:
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    debug: bool = False
    stdout_closed: bool = False
    began: float = field(default_factory=time.perf_counter)  # start of the program


settings = _Settings()
LONGEST_WORD = 16  # letters of a word in a table cell that are kept on one line
LONGEST_LINE = 2000  # letters
SECONDS_BETWEEN_LINES = 10.0  # for a stage that is running


class OutputClosed(BaseException):
    """The reader of standard output has closed it (`lite3r … | head`): end without a message.

    Not an Exception, so that no handler swallows it.
    """


class OutputLost(BaseException):
    """Standard output is closed, or its disk is full. The text says which."""


def reset(began: float | None = None) -> None:
    """Reset the options of an earlier call in the same process. `began` is a time of `time.perf_counter`; None: now."""
    settings.__dict__.update(vars(_Settings() if began is None else _Settings(began=began)))


def _setter(name: str) -> Callable[[bool], bool]:
    def set_flag(value: bool) -> bool:
        setattr(settings, name, bool(value))
        return value

    return set_flag


set_json, set_quiet, set_verbose, set_debug = (_setter(name) for name in ("json", "quiet", "verbose", "debug"))


def _one_line(text: object) -> str:
    """Replaces line breaks and terminal codes, which file names may contain: a message is one printable line. A long
    text, for example with a value from a damaged file, is shortened in the middle.
    """
    line = str(text)
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} … {line[-LONGEST_LINE // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class _Sturdy:
    """A stream for messages. If it cannot be written to, messages are lost but the result is not."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            self.stream.write(_encodable(self.stream, text))
        except (OSError, ValueError):
            abandon(self.stream)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError):
            abandon(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _encodable(stream: Any, text: str) -> str:
    """Replaces characters that the encoding of the terminal lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _messages() -> Any:
    return _Sturdy(sys.stderr)


def _say(text: str) -> None:
    """Print a line on standard error."""
    stream = _messages()
    stream.write(text + "\n")
    stream.flush()


def _write(text: str) -> None:
    """Write text to standard output. Raises OutputClosed or OutputLost."""
    try:
        sys.stdout.write(_encodable(sys.stdout, text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except (OSError, ValueError) as error:
        raise OutputLost(getattr(error, "strerror", None) or str(error)) from error


def flush() -> None:
    """Flush standard output, including help pages. Raises OutputClosed or OutputLost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except (OSError, ValueError) as error:
        raise OutputLost(getattr(error, "strerror", None) or str(error)) from error


def abandon(stream: Any) -> None:
    """Redirect a stream to the null device: the interpreter flushes it again at exit and would report an error."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        return  # not a real file descriptor


def replace_closed_streams() -> None:
    """Replace a standard stream that was closed at start (None in Python) by the null device."""
    settings.stdout_closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def info(text: object) -> None:
    """Print a line about progress; hidden by --quiet."""
    if not settings.quiet:
        _say(_one_line(text))


def detail(text: object) -> None:
    """Print a line that only --verbose shows."""
    if settings.verbose and not settings.quiet:
        _say(_one_line(text))


def _labelled(label: str, style: str, text: object) -> None:
    line = _one_line(text)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        Console(file=_messages(), soft_wrap=True).print(Text.assemble((f"{label}: ", style), line))
    else:
        _say(f"{label}: {line}")


def warn(text: object) -> None:
    """Print a warning; shown even with --quiet."""
    _labelled("warning", "bold yellow", text)


def error(text: object, label: str = "error") -> None:
    """Print the one line of a failure."""
    _labelled(label, "bold red", text)


def traceback(error: BaseException) -> None:
    """Print the full traceback, for --debug."""
    import traceback as module

    lines = "".join(module.format_exception(error)).rstrip().splitlines()
    _say("\n".join(map(_one_line, lines)))


def document(value: object) -> None:
    """Print the JSON document of --json on standard output. ASCII is valid JSON in every locale and has no terminal
    codes.

    Raises OutputClosed or OutputLost.
    """
    if settings.stdout_closed:
        raise OutputLost("it is closed")
    text = json.dumps(value, indent=2, allow_nan=False)
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        _write(text)
        return
    flush()
    try:
        binary.write(text.encode("ascii") + b"\n")
    except BrokenPipeError as error:
        raise OutputClosed from error
    except (OSError, ValueError) as error:
        raise OutputLost(getattr(error, "strerror", None) or str(error)) from error
    flush()


def text(value: str) -> None:
    """Print a plain result on standard output; hidden by --quiet."""
    if not settings.quiet:
        _write(value)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, numbers: bool = True
) -> None:
    """Print a table on standard output; hidden by --quiet and replaced by `document` with --json.

    With `numbers`, columns after the first are right-aligned. Outside a terminal the table is padded text and never
    cut. On a terminal that is too narrow, each row becomes a paragraph of "heading: value" lines.
    """
    if settings.quiet:
        return
    cells = [[_one_line(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
        align = [str.ljust if i == 0 or not numbers else str.rjust for i in range(len(columns))]
        lines = ["  ".join(f(c, w) for f, c, w in zip(align, row, widths)).rstrip() for row in [list(columns), *cells]]
        lines = [line for line in lines if line]  # a table without headings has an empty first line
        _write("\n".join(([title] if title else []) + lines))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = Console()
    if _least_width([list(columns), *cells]) > terminal.width:
        head = [Text(title)] if title else []
        terminal.print(Text("\n\n").join([*head, *(_paragraph(columns, row) for row in cells)]))
        return
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 or not numbers else "right", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    terminal.print(drawn)


def _least_width(rows: Sequence[Sequence[str]]) -> int:
    """Width in terminal columns of a table whose cells break only between words. A column has one space before and two
    behind it; long paths may break anywhere.
    """
    longest = [max((len(word) for cell in column for word in cell.split()), default=0) for column in zip(*rows)]
    return sum(min(width, LONGEST_WORD) + 3 for width in longest)


def _paragraph(columns: Sequence[str], row: Sequence[str]) -> Any:
    """One row as a paragraph: the first cell, then the others with their headings, as rich's Text."""
    from rich.text import Text

    named = [f"{heading}: {cell}" if heading else cell for heading, cell in zip(columns[1:], row[1:]) if cell]
    return Text("\n").join([Text(row[0], "bold"), *map(Text, named)])


class Progress:
    """Measures the stages of a run. This base class displays nothing; pipelines use it by default."""

    def __init__(self, began: float | None = None) -> None:
        """`began`: start of the run as a time of `time.perf_counter`; None: now."""
        self.began = time.perf_counter() if began is None else began
        self.seconds: dict[str, float] = {}  # stage → wall time, in the order of the run; stages may overlap
        self._running: dict[str, float] = {}  # stage → when it began

    def restart(self) -> None:
        """Set the start of the run to now."""
        self.began = time.perf_counter()

    @property
    def wall(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    def so_far(self) -> dict[str, float]:
        """`seconds`, with the time of running stages so far."""
        now, taken = time.perf_counter(), dict(self.seconds)
        for name, start in list(self._running.items()):
            taken[name] = taken.get(name, 0.0) + now - start
        return taken

    @contextmanager
    def stage(self, name: str, total: int | None = None, minor: bool = False) -> Iterator[Callable[..., None]]:
        """Time a stage. The yielded function is called after each of its `total` steps, with new `figures` to show, or
        with `where`, the present part, if the steps differ. A repeated name adds up. With `lane`, the name of one of
        several workers, the call is no step: it reports `where` that worker is.

        A `minor` stage prints a line only with --verbose.
        """
        start = self._running[name] = time.perf_counter()
        self.seconds.setdefault(name, 0.0)
        try:
            with self._show(name, total) as step:
                yield step
        finally:
            del self._running[name]
        seconds = time.perf_counter() - start
        self.seconds[name] += seconds
        self._finished(name, seconds, total, minor)

    def record(self, name: str, seconds: float) -> None:
        """Record a finished stage, or the rest of one, that ran in parallel with others. Its line tells the sum."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._finished(name, self.seconds[name], None, minor=False)

    def note(self, text: str) -> None:
        """Print a fact once, between stages."""

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        yield lambda figures="", where="", lane="": None

    def _finished(self, name: str, seconds: float, total: int | None, minor: bool) -> None:
        pass


class PlainProgress(Progress):
    """One line per finished stage, for logs; long stages report their progress from time to time."""

    def note(self, text: str) -> None:
        info(text)

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        done, last = 0, time.monotonic()

        def step(figures: str = "", where: str = "", lane: str = "") -> None:
            nonlocal done, last
            if lane:
                return
            done += 1
            under_way = where or (total and done < total)
            if figures:
                info(f"{name}: {figures}")
            elif under_way and time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                info(f"{name}: {where or f'{done} of {total}'}")

        yield step

    def _finished(self, name: str, seconds: float, total: int | None, minor: bool) -> None:
        count = f" ({total})" if total else ""
        (detail if minor else info)(f"{name}{count}: {seconds:.1f} s")


class LiveProgress(PlainProgress):
    """A bar for the running stage, one line per finished stage."""

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        columns += [BarColumn(bar_width=30), MofNCompleteColumn()] if total else []
        columns += [TimeElapsedColumn(), TextColumn("{task.fields[figures]}")]
        with Bar(*columns, console=Console(file=_messages()), transient=True) as bar:
            task = bar.add_task(name, total=total, figures="")
            lanes: dict[str, Any] = {}

            def step(figures: str = "", where: str = "", lane: str = "") -> None:
                if lane:
                    if lane not in lanes:
                        lanes[lane] = bar.add_task(f"  {lane}", total=None, figures="")
                    return bar.update(lanes[lane], figures=where)
                bar.update(task, advance=1)
                if figures or where:
                    bar.update(task, figures=figures or where)

            yield step


def progress() -> Progress:
    """The display that suits standard error. The time of the program so far is the stage `Start`."""
    kind = Progress if settings.quiet else LiveProgress if sys.stderr.isatty() else PlainProgress
    made = kind(settings.began)
    made.seconds["Start"] = made.wall
    return made
