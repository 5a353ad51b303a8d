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

Tell = Callable[[str], None]  # what pipelines are handed to say something with, see Progress.note and warn


@dataclass
class _Settings:
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    debug: bool = False
    stdout_closed: bool = False
    began: float = field(default_factory=time.perf_counter)  # when the program began


settings = _Settings()
LONGEST_WORD = 16  # letters of a table's cell that are kept on one line
SECONDS_BETWEEN_LINES = 10.0  # of a stage that is under way


class OutputClosed(BaseException):
    """The reader of standard output has gone (`lite3r … | head`): end quietly.

    Not an Exception, so that nothing swallows it on the way out.
    """


class OutputLost(BaseException):
    """Standard output is closed, or the disk behind it is full. Says why."""


def reset(began: float | None = None) -> None:
    """Forget the options of an earlier call in the same process; `began` as of `time.perf_counter`, None: now."""
    settings.__dict__.update(vars(_Settings() if began is None else _Settings(began=began)))


def _setter(name: str) -> Callable[[bool], bool]:
    def set_flag(value: bool) -> bool:
        setattr(settings, name, bool(value))
        return value

    return set_flag


set_json, set_quiet, set_verbose, set_debug = (_setter(name) for name in ("json", "quiet", "verbose", "debug"))


def _one_line(text: object) -> str:
    """File names may hold newlines and terminal codes: a message stays one printable line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class _Sturdy:
    """A stream for messages: one that cannot be written to any more costs messages, never a result."""

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
    """A name need not fit the terminal's encoding."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _messages() -> Any:
    return _Sturdy(sys.stderr)


def _say(text: str) -> None:
    """A line on standard error."""
    stream = _messages()
    stream.write(text + "\n")
    stream.flush()


def _write(text: str) -> None:
    """Text on standard output. Raises OutputClosed or OutputLost."""
    try:
        sys.stdout.write(_encodable(sys.stdout, text) + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except (OSError, ValueError) as error:
        raise OutputLost(getattr(error, "strerror", None) or str(error)) from error


def flush() -> None:
    """Hand over what is still buffered for standard output, help pages included. Raises OutputClosed or OutputLost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except (OSError, ValueError) as error:
        raise OutputLost(getattr(error, "strerror", None) or str(error)) from error


def abandon(stream: Any) -> None:
    """Point a stream at the null device: the interpreter flushes it again at exit and would complain."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        return  # not a stream of the process


def replace_closed_streams() -> None:
    """A standard stream that was closed when the process began is None in Python: the null device takes its place."""
    settings.stdout_closed = sys.stdout is None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def info(text: object) -> None:
    """A line about progress; hidden by --quiet."""
    if not settings.quiet:
        _say(_one_line(text))


def detail(text: object) -> None:
    """A line that only --verbose shows."""
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
    """Something the user should know; shown even with --quiet."""
    _labelled("warning", "bold yellow", text)


def error(text: object, label: str = "error") -> None:
    """The one line of a failure."""
    _labelled(label, "bold red", text)


def traceback(error: BaseException) -> None:
    """The full traceback, for --debug."""
    import traceback as module

    lines = "".join(module.format_exception(error)).rstrip().splitlines()
    _say("\n".join(map(_one_line, lines)))


def document(value: object) -> None:
    """The one JSON document of --json, on standard output, in ASCII: JSON in every locale, and no terminal codes.

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
    """Plain result text on standard output; hidden by --quiet."""
    if not settings.quiet:
        _write(value)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None, numbers: bool = True
) -> None:
    """A table on standard output; hidden by --quiet and replaced by `document` with --json.

    Columns after the first are right-aligned when `numbers`. Away from a terminal they are padded text, never cut. On a
    terminal where the columns would break words, each row is a paragraph of "heading: value" lines.
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
    """Terminal columns of a table whose cells break between words only; each column has a space before and two behind,
    and of a long path what fits is shown on several lines.
    """
    longest = [max((len(word) for cell in column for word in cell.split()), default=0) for column in zip(*rows)]
    return sum(min(width, LONGEST_WORD) + 3 for width in longest)


def _paragraph(columns: Sequence[str], row: Sequence[str]) -> Any:
    """The first cell, and below it the others by their headings, as rich's Text."""
    from rich.text import Text

    named = [f"{heading}: {cell}" if heading else cell for heading, cell in zip(columns[1:], row[1:]) if cell]
    return Text("\n").join([Text(row[0], "bold"), *map(Text, named)])


class Progress:
    """Stages of a run and the seconds that each took. This base shows nothing: what pipelines use by default."""

    def __init__(self, began: float | None = None) -> None:
        """`began`: when the run began, as of `time.perf_counter`; None: now."""
        self.began = time.perf_counter() if began is None else began
        self.seconds: dict[str, float] = {}  # stage → wall time, in the order of the run; stages may overlap
        self._running: dict[str, float] = {}  # stage → when it began

    def restart(self) -> None:
        """The run begins now."""
        self.began = time.perf_counter()

    @property
    def wall(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    def so_far(self) -> dict[str, float]:
        """`seconds`, with what the running stages have taken until now."""
        now, taken = time.perf_counter(), dict(self.seconds)
        for name, start in list(self._running.items()):
            taken[name] = taken.get(name, 0.0) + now - start
        return taken

    @contextmanager
    def stage(self, name: str, total: int | None = None, minor: bool = False) -> Iterator[Callable[..., None]]:
        """Time a stage; the value given is called after each of its `total` steps, with `figures` to show if there are
        new ones, or with `where` the stage is now if its steps are of several kinds. A name used twice adds up. With
        `lane`, the name of one of several who work on the stage, it is no step: it says `where` that one is.

        A `minor` stage leaves a line only with --verbose.
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
        """A stage that ran beside others and is over."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self._finished(name, seconds, None, minor=False)

    def note(self, text: str) -> None:
        """A fact that the user should see once, between stages."""

    @contextmanager
    def _show(self, name: str, total: int | None) -> Iterator[Callable[..., None]]:
        yield lambda figures="", where="", lane="": None

    def _finished(self, name: str, seconds: float, total: int | None, minor: bool) -> None:
        pass


class PlainProgress(Progress):
    """One line for each finished stage, for logs; long stages say how far they are now and then."""

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
    """A bar for the running stage, one line for each finished one."""

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
    """The display that fits where standard error goes. What the program has taken until now is its stage `Start`."""
    kind = Progress if settings.quiet else LiveProgress if sys.stderr.isatty() else PlainProgress
    made = kind(settings.began)
    made.seconds["Start"] = made.wall
    return made
