"""Samples the threads of one `lite3r` command every few milliseconds and reports where its wall time goes.

    python benchmarks/where_time_goes.py [--every 4] [--least 0.05] -- reconstruct photos -o scene.ply --device cuda

For each thread the calls in which it was, with the seconds that it spent inside them, in the order in which they were
first seen; threads of one pool are added up, and idle ones left out. A profiler that counts calls would slow Python
down and leave C alone; here both take what they take. The command runs in this process.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IDLE = {("threading.py", "wait"), ("queue.py", "get"), ("thread.py", "_worker"), ("stopping.py", "run")}
HIDDEN = ("<frozen importlib", "<frozen runpy")


class Node:
    """A call, with the seconds spent inside it."""

    def __init__(self, first: float) -> None:
        self.first, self.seconds = first, 0.0
        self.inside: dict[str, Node] = {}

    def add(self, calls: list[str], now: float, seconds: float) -> None:
        node = self
        node.seconds += seconds
        for call in calls:
            node = node.inside.setdefault(call, Node(now))
            node.seconds += seconds

    def show(self, name: str, least: float, depth: int) -> None:
        while len(self.inside) == 1 and next(iter(self.inside.values())).seconds > 0.97 * self.seconds:
            inner, self = next(iter(self.inside.items()))  # a call that only calls another
            name = f"{name.split(' → ')[0]} → {inner}" if name else inner
        print(f"{self.seconds:7.2f} s  from {self.first:6.2f}  {'  ' * depth}{name}")
        for inner, node in sorted(self.inside.items(), key=lambda item: item[1].first):
            if node.seconds >= least:
                node.show(inner, least, depth + 1)


class Sampler(threading.Thread):
    """A thread that samples the stacks of all threads until `stop`."""

    def __init__(self, every: float) -> None:
        super().__init__(name="sampler", daemon=True)
        self.every, self.began, self.looks = every, time.perf_counter(), 0
        self.threads: dict[str, Node] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        last = self.began
        while not self._ended.wait(self.every):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            frames = sys._current_frames()
            now = time.perf_counter()
            for ident, frame in frames.items():
                name = re.sub(r"[-_ ]?\d+( \(.*\))?$", "", names.get(ident, "not Python's"))
                calls = _calls(frame)
                if ident != self.ident and calls and not (name != "MainThread" and _idle(frame)):
                    self.threads.setdefault(name, Node(last - self.began)).add(calls, last - self.began, now - last)
            last, self.looks = now, self.looks + 1

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _idle(frame: object) -> bool:
    code = frame.f_code  # type: ignore[attr-defined]
    return (Path(code.co_filename).name, code.co_name) in IDLE


def _calls(frame: object) -> list[str]:
    calls = []
    while frame is not None:
        code = frame.f_code  # type: ignore[attr-defined]
        if not code.co_filename.startswith(HIDDEN):
            calls.append(_called(code.co_filename, code.co_name))
        frame = frame.f_back  # type: ignore[attr-defined]
    return calls[::-1]


def _called(path: str, name: str) -> str:
    shown = Path(path)
    try:
        place = str(shown.relative_to(ROOT / "lite3r_cli"))
    except ValueError:
        place = "/".join(shown.parts[-2:])
    return place if name == "<module>" else f"{place} {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=float, default=4, help="milliseconds between two looks")
    parser.add_argument("--least", type=float, default=0.05, help="seconds below which a call is not shown")
    parser.add_argument("command", nargs="+", help="of lite3r, after --")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    began = time.perf_counter()
    sampler = Sampler(asked.every / 1000)
    sampler.start()
    from lite3r_cli.cli import main as run

    code = run(asked.command, began=began)
    sampler.stop()
    print(f"\n{' '.join(asked.command)}: {time.perf_counter() - began:.2f} s, {sampler.looks} looks, exit code {code}")
    for name, node in sorted(sampler.threads.items(), key=lambda item: item[1].first):
        print(f"\nthread {name}")
        node.show("", asked.least, 0)
    sys.exit(code)


if __name__ == "__main__":
    main()
