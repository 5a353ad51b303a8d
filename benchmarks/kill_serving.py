"""Sends signals to `lite3r view --serve` while it starts, serves a browser, or follows a run in chunks.

    python benchmarks/kill_serving.py [--moments 60] [--json benchmarks/results/kill.json]

Every run is a whole process in its own group, and all use one port. After a signal (KILL, TERM or INT) the process has
to end of this signal within 20 seconds, nobody may listen at the port, no process of the group may be left, and every
file has to be as it was, hidden ones too. Of two runs that follow chunks, one is beside a run that goes on with them:
that run has to write what it writes alone. Needs viser. The results are added to those of benchmarks/kill.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import torch
from forked_runs import ROOT, Moment, inputs, run
from kill import SIGNALS, added, comparable, files, hidden, is_fault, report
from kill_suites import SCENE

PATIENCE = 20  # seconds for the end
CHUNKED = f"reconstruct walk -o {{}}/scene.ply {SCENE} --chunk 3 --no-loops --resume"
KINDS = ("starting", "serving", "following chunks", "following a run")


def lite3r(words: str) -> subprocess.Popen[str]:
    """A process in its own group."""
    command = [sys.executable, "-m", "lite3r_cli", *words.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        with suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


def is_left(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def chunks_of_a_stopped_run(folder: Path, seconds: float) -> Path:
    """A place with the finished chunks of a run that was stopped; it takes `seconds` otherwise."""
    for tenth in range(30):
        place = folder / "chunks"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        run(CHUNKED.replace("{}", str(place)), Moment(signal.SIGINT, delay=(4 + tenth % 6) / 10 * seconds))
        if list(place.glob(".scene.ply.lite3r-chunks/pass-*/pass.json")) and not (place / "scene.ply").exists():
            return place
    raise SystemExit("no run was stopped between its first chunk and its end")


def seconds_to_start(scene: Path, port: int) -> float:
    start = time.monotonic()
    process = lite3r(f"view {scene}/scene.ply --serve --port {port}")
    process.stdout.readline()
    seconds = time.monotonic() - start
    process.kill()
    process.communicate()
    return seconds


def one(kind: str, before: Path, new: dict[str, str], port: int, start: float, rng: random.Random) -> dict[str, object]:
    """One case. `new`: what a run in chunks writes alone; `start`: seconds that a start takes."""
    place = before.parent / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(before, place)
    old, number = files(place), rng.choice(SIGNALS)
    process, beside, faults = lite3r(f"view {place}/scene.ply --serve --port {port}"), None, []
    if kind == "starting":
        time.sleep(rng.uniform(0.05, 1.2) * start)
    else:
        address = process.stdout.readline().strip()
        if not address.startswith("http://127.0.0.1:"):
            faults.append(f"no address but {address!r}")
            address = "http://127.0.0.1:9"
        if kind == "following a run":
            beside = lite3r(CHUNKED.replace("{}", str(place)))
        with suppress(OSError), urlopen(address, timeout=PATIENCE) as answer:
            if answer.status == 200:
                address = ""
        faults += [f"no page at {address}: {process.poll()}"] if address else []
        time.sleep(rng.uniform(0, 8 if beside else 1))
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        faults.append(f"not ended after {PATIENCE} s")
        process.kill()
        _, said = process.communicate()
    if process.returncode != -number or "bug" in said or "Traceback" in said:
        faults.append(f"ended with {process.returncode}: {said[-300:]}")
    faults += ["somebody listens at the port"] * (not is_free(port)) + ["a process is left"] * is_left(process.pid)
    code, same = 0, True
    if beside is not None:
        said += beside.communicate()[1]
        code, same = beside.returncode, comparable(files(place)) == comparable(new)
    after = files(place)
    changed = sorted(name for name in {*old, *after} if old.get(name) != after.get(name)) if beside is None else []
    return {
        "suite": f"view --serve, {kind}", "signal": signal.Signals(number).name, "whole": True,
        "exit": process.returncode, "unclear": faults, "half_written": changed, "hidden": 0, "next": code,
        "same": same, "hidden_after": hidden(after) if beside is not None else [], "said": said[-300:],
    }  # fmt: skip


def measure() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--moments", type=int, default=60)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    torch.set_num_threads(1)
    folder, start, cases = Path(tempfile.mkdtemp(prefix="lite3r-serve-")), time.monotonic(), []
    rng = random.Random(asked.seed)
    os.chdir(folder)
    try:
        inputs(folder)
        scene, alone = folder / "scene", folder / "alone"
        for place, words in ((scene, f"reconstruct photos -o {{}}/scene.ply {SCENE}"), (alone, CHUNKED)):
            place.mkdir()
            code, _, seconds = run(words.replace("{}", str(place)))
            assert code == 0, Path("stderr").read_text()
        chunks, new = chunks_of_a_stopped_run(folder, seconds), files(alone)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        starting = seconds_to_start(scene, port)
        for number in range(asked.moments):
            kind = KINDS[number % len(KINDS)]
            cases.append(one(kind, chunks if "following" in kind else scene, new, port, starting, rng))
            if is_fault(cases[-1]):
                print("FAILED", json.dumps(cases[-1]), flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(folder, ignore_errors=True)
    print(report(cases, time.monotonic() - start))
    if asked.json is not None:
        before = json.loads(asked.json.read_text()) if asked.json.exists() else {}
        asked.json.write_text(json.dumps(added(before, cases, asked.seed), indent=1) + "\n")


if __name__ == "__main__":
    measure()
