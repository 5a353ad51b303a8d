"""Sends signals at many moments of every command that writes, and checks what is left and whether the next run works.

    python benchmarks/kill.py [--moments 500] [--suites "synth, new;convert, new"] [--json benchmarks/results/kill.json]
    python benchmarks/kill.py --jobs 8 --whole 4 --seconds 240 --json …    # 8 processes, which share the suites

Run again with the same --json, it adds other moments to those that are there. The file is written after every few
moments, so that a run which is cut keeps what it did.

This process imports everything once and forks a child for each run, so that a run takes seconds and starts at the
command line; with `--whole N` there are N runs of whole processes, too. The network is a tiny `mini` of random values.
A moment is uniform in time, or before or after the n-th file operation of the main thread (open, mkdir, rename, unlink,
rmdir, fsync, write), with SIGKILL (half of them), SIGTERM or SIGINT. After it every visible file has to be the old or
the new one to the byte (files that hold times, or a state on the way: one that reads back); after SIGTERM and SIGINT no
hidden file may be there. Then the same command runs again, with --resume where a state is left: it has to succeed, its
files have to be those of a run that nobody stopped, and no hidden file may be there.

With --errors there are no signals: an operation fails (ENOSPC, EDQUOT, EROFS), or no file may grow beyond a size. Then
the exit code has to be 7, with one line that says why, unless the run could do without.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import torch
from forked_runs import LIMIT, Moment, inputs, run
from kill_suites import KEPT, SUITES, TIMED, WELL

from lite3r_cli.errors import Lite3RError
from lite3r_cli.training.state import read_metadata

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CLEANED_UP = ("SIGTERM", "SIGINT")  # after which no hidden file may be left
PAUSE = 5.0  # seconds between two looks at the processes of --jobs
IN_A_ROW = 5  # moments of a suite, then another has its turn
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


# -- what is left ------------------------------------------------------------------------------------------------------


def files(place: Path) -> dict[str, str]:
    found = [path for path in place.rglob("*") if path.is_file()]
    return {p.relative_to(place).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def hidden(names: dict[str, str]) -> list[str]:
    return [name for name in names if any(p.startswith(".") for p in name.split("/")) and not KEPT.fullmatch(name)]


def half_written(place: Path, found: dict[str, str], old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Visible files that are neither the old nor the new one, and do not read back as what they are."""
    bad = []
    for name, digest in found.items():
        if name in hidden({name: ""}) or digest in (old.get(name), new.get(name)):
            continue
        try:
            if name.endswith(".json"):
                json.loads((place / name).read_text())
            elif name.endswith(".jsonl"):
                [json.loads(line) for line in (place / name).read_text().splitlines()]
            elif name.endswith(".png"):
                assert cv2.imread(str(place / name)) is not None
            elif name.endswith(".mp4"):
                with av.open(str(place / name)) as film:
                    assert sum(1 for _ in film.decode(video=0)) == 4
            elif name.endswith("state.safetensors"):
                read_metadata(place / name)
            elif not name.endswith("average.safetensors"):
                bad.append(name)
        except (ValueError, AssertionError, Lite3RError, OSError):
            bad.append(name)
    return bad


def comparable(found: dict[str, str]) -> dict[str, str]:
    """The files that are equal in two runs, because they contain no times."""
    timed = (*TIMED, "state.safetensors")
    return {k: v for k, v in found.items() if not k.endswith(timed) and "/." not in f"/{k}"}


def again(suite: Suite, found: dict[str, str]) -> str:
    """The command that a user gives next: it continues from the state of this run and keeps complete scenes."""
    words = suite.words
    state = next((name for name in found if name.endswith("/state.safetensors") and not hidden({name: ""})), None)
    if words.startswith(("distill", "train")) and state is not None and found[state] != suite.old.get(state):
        return f"{words} --resume"
    if words.startswith("synth") and found and "--overwrite" not in words:
        return f"{words} --overwrite"
    return words


@dataclasses.dataclass
class Suite:
    name: str
    words: str
    before: Path | None  # a copy of the old result
    old: dict[str, str]
    new: dict[str, str]
    operations: int
    seconds: float
    largest: int  # bytes of a file of the new result


def prepare(name: str, folder: Path) -> Suite:
    earlier, words = SUITES[name]
    before, old, place = None, {}, folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if earlier is not None:
        for line in earlier.split("; "):
            code, _, _ = run(line.replace("{}", str(place)))
            assert code == 0, (name, line, code, Path("stderr").read_text())
        old, before = files(place), folder / f"old-{name.replace(' ', '-')}"
        shutil.copytree(place, before)
    code, operations, seconds = run(words.replace("{}", str(place)))
    assert code in (0, WELL.get(words.split()[0], 0)), (name, code, Path("stderr").read_text())
    largest = max((path.stat().st_size for path in place.rglob("*") if path.is_file()), default=0)
    return Suite(name, words.replace("{}", str(place)), before, old, files(place), operations, seconds, largest)


def drawn(suite: Suite, rng: random.Random, errors: bool) -> Moment:
    if errors and rng.random() < 0.4:
        return Moment(file_size=rng.choice([0, rng.randint(0, 3000), rng.randint(0, max(1, suite.largest))]))
    at = rng.randint(1, max(1, suite.operations))
    if errors:
        return Moment(error=rng.choice(ERRORS), at=at)
    number = rng.choice(SIGNALS)
    if suite.operations and rng.random() < 0.7:
        return Moment(number, at=at, after=rng.random() < 0.5)
    return Moment(number, delay=rng.uniform(0.02, 1.1) * suite.seconds)


def unclear(suite: Suite, moment: Moment, code: int, said: list[str]) -> list[str]:
    """What a run said that met an error of the system, unless it is a line that names the output, with exit code 7. A
    batch goes on with its other scenes (exit code 3), and some operations are not needed.
    """
    if moment.signal:
        return []
    well = {0, 7, WELL.get(suite.words.split()[0], 0), *([3] if suite.words.startswith("batch") else [])}
    told = code != 7 or (said[-1:] and said[-1].startswith("error: "))
    return [] if code in well and told and not any("bug" in line for line in said) else [str(code), *said[-3:]]


def prepared(name: str, folder: Path) -> Suite | None:
    """The prepared suite; None, with a message, if a package that it needs is missing."""
    try:
        return prepare(name, folder)
    except AssertionError as error:
        print(f"LEFT OUT {error}", flush=True)
        return None


def one(suite: Suite, folder: Path, rng: random.Random, whole: bool = False, errors: bool = False) -> dict[str, object]:
    place = folder / "place"
    shutil.rmtree(place, ignore_errors=True)
    if suite.before is None:
        place.mkdir()
    else:
        shutil.copytree(suite.before, place)
    moment = drawn(suite, rng, errors)
    if whole:
        process = subprocess.Popen(
            [sys.executable, "-m", "lite3r_cli", *suite.words.split()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": sys.path[0]},
        )
        time.sleep(rng.uniform(0.3, 3 + 2 * suite.seconds))
        process.send_signal(moment.signal)
        code = process.wait(LIMIT)
    else:
        code, _, _ = run(suite.words, moment)
    said = [] if whole else Path("stderr").read_text(errors="replace").strip().splitlines()
    found = files(place)
    bad = half_written(place, found, suite.old, suite.new)
    left = len(hidden(found))
    finished = code == 0 and not suite.words.endswith("--overwrite")
    # whoever was not stopped is complete, and refuses to run again; likewise where the signal came after the last file
    complete = finished or comparable(found) == comparable(suite.new)
    next_words = again(suite, found)
    next_code = 0 if complete and not left else run(next_words)[0]
    if next_code == 7 and "go on with --resume" in Path("stderr").read_text():  # the state was among the hidden files
        next_code = run(f"{next_words} --resume")[0]
    after = files(place)
    same = comparable(after) == comparable(suite.new)
    if next_code == WELL.get(suite.words.split()[0]):
        next_code = 0
    if next_code == 7 and same:  # complete before the signal, hidden files aside: refused, as it has to be
        next_code = 0
    return {
        "suite": suite.name, "signal": moment.name, "whole": whole, "exit": code,
        "unclear": unclear(suite, moment, code, said), "half_written": bad, "hidden": left,
        "next": next_code, "same": same, "hidden_after": hidden(after),
        "said": f"{next_words}: {Path('stderr').read_text()[-300:]}" if next_code else "",
    }  # fmt: skip


def measure() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--moments", type=int, default=500)
    options.add_argument("--whole", type=int, default=0, help="whole processes, beside the moments")
    options.add_argument("--suites", default=";".join(SUITES))
    options.add_argument("--errors", action="store_true", help="a full disk, a quota or a read-only one, no signals")
    options.add_argument("--seed", type=int, help="default: another one for each portion of --json")
    options.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    options.add_argument("--jobs", type=int, default=1, help="processes that share the suites, --moments each")
    options.add_argument("--json", type=Path)
    options.add_argument("--cases", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    before = json.loads(asked.json.read_text()) if asked.json is not None and asked.json.exists() else {}
    seed = len(before.get("seeds", ())) if asked.seed is None else asked.seed
    names = [name.strip() for name in asked.suites.split(";")]
    start = time.monotonic()
    place = None if asked.json is None else asked.json.absolute()  # a portion works in another folder

    def keep(cases: list[dict]) -> None:
        if place is not None:
            place.with_suffix(".new").write_text(json.dumps(added(before, cases, seed), indent=1) + "\n")
            os.replace(place.with_suffix(".new"), place)

    cases = shared(asked, names, seed, keep) if asked.jobs > 1 else portion(asked, names, seed, keep)
    print(report(cases, time.monotonic() - start))


Keep = Callable[[list[dict]], None]


def shared(asked: argparse.Namespace, names: list[str], seed: int, keep: Keep) -> list[dict]:
    """Run `asked.jobs` processes, each with its own suites. If one fails, only its last cases are lost."""
    cases: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for job in range(asked.jobs):
            mine, file = names[job % len(names) :: asked.jobs], Path(folder) / str(job)
            words = [sys.executable, __file__, "--suites", ";".join(mine), "--seed", str(1000 * (seed + 1) + job)]
            words += [f"--{key}={getattr(asked, key)}" for key in ("moments", "whole", "seconds")]
            words += ["--errors"] * asked.errors
            running.append((file, subprocess.Popen([*words, "--cases", str(file)])))
        while True:
            ended = all(process.poll() is not None for _, process in running)
            cases = [case for file, _ in running if file.exists() for case in json.loads(file.read_text())]
            keep(cases)
            if ended:
                return cases
            time.sleep(PAUSE)


def portion(asked: argparse.Namespace, names: list[str], seed: int, keep: Keep) -> list[dict]:
    """Cases of one process."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="lite3r-kill-"))
    start, rng, cases = time.monotonic(), random.Random(seed), []
    os.chdir(folder)
    try:
        inputs(folder)
        known: dict[str, Suite | None] = {}
        for name in itertools.cycle(rng.sample(names, len(names))):
            if name not in known:
                known[name] = prepared(name, folder)
            suite, patched = known[name], name.startswith(("train", "synth", "add"))  # in this process alone
            for turn in range(IN_A_ROW if suite is not None else 0):
                if time.monotonic() - start > asked.seconds or len(cases) >= asked.moments + asked.whole:
                    return cases
                whole = turn == 0 and not patched and sum(bool(case["whole"]) for case in cases) < asked.whole
                cases.append(one(suite, folder, rng, whole, asked.errors))
                if is_fault(cases[-1]):
                    print("FAILED", json.dumps(cases[-1]), flush=True)
                if asked.cases is not None:
                    asked.cases.with_suffix(".new").write_text(json.dumps(cases))
                    os.replace(asked.cases.with_suffix(".new"), asked.cases)
            keep(cases)  # in case that the process is killed
            if time.monotonic() - start > asked.seconds or not any(known.get(each, True) for each in names):
                return cases
    finally:
        keep(cases)
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    return cases


def is_fault(case: dict) -> bool:
    if case["signal"] in CLEANED_UP and case["hidden"]:
        return True
    return bool(case["half_written"] or case["unclear"] or case["next"] or not case["same"] or case["hidden_after"])


def added(before: dict, cases: list[dict], seed: int) -> dict:
    """The sums over the cases and those of earlier portions."""
    suites = {name: Counter(row) for name, row in before.get("by_suite", {}).items()}
    for name, row in summary(cases).items():
        suites.setdefault(name, Counter()).update(row)
    everything: Counter[str] = Counter()
    for row in suites.values():
        everything.update(row)
    return {"seeds": [*before.get("seeds", ()), seed], "all": everything, "by_suite": suites}


def summary(cases: list[dict]) -> dict[str, dict[str, int]]:
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        row = rows.setdefault(case["suite"], Counter())
        row["moments"] += 1
        row[case["signal"].lower().replace(" ", "_")] += 1
        row["whole_processes"] += bool(case["whole"])
        row["unclear"] += bool(case["unclear"])
        row["stopped"] += case["exit"] != 0
        row["half_written"] += bool(case["half_written"])
        row["hidden_files_left"] += bool(case["hidden"])
        row["hidden_files_after_a_clean_up"] += case["signal"] in CLEANED_UP and bool(case["hidden"])
        row["next_run_failed"] += case["next"] != 0
        row["next_run_other_bytes"] += not case["same"]
        row["hidden_files_after_the_next_run"] += bool(case["hidden_after"])
    return {name: dict(row) for name, row in rows.items()}


def report(cases: list[dict], seconds: float) -> str:
    rows = summary(cases)
    columns = ("moments", "stopped", "unclear", "half_written", "hidden_files_left",
               "hidden_files_after_a_clean_up", "next_run_failed",
               "next_run_other_bytes", "hidden_files_after_the_next_run")  # fmt: skip
    lines = [f"{len(cases)} moments in {seconds / 60:.1f} minutes", "| suite | " + " | ".join(columns) + " |"]
    lines += [f"| {name} | " + " | ".join(str(row.get(c, 0)) for c in columns) + " |" for name, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    measure()
