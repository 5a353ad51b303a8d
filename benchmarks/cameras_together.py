"""The measurements of docs/cameras.md and docs/refine.md that take minutes, beside each other: each on two cores of
its own, until they are done or the time is over.

Runs of the sets of `REPEATED` (same_bytes.py: one beside a busy program on the same cores), pycolmap on the same cores,
drawn walks of 50 and 100 pictures, the lens table of the scenes of `LENSES`, 360° pictures of drawn streets, rooms seen
by a fisheye, and on all sets: mixes with pictures that do not belong, and warnings of lenses. A set is a folder with
images/ and cameras.json. What a measurement has written when the time is over counts, and where it was. One JSON
document, written after each.

    python benchmarks/cameras_together.py --sets SET... --json FILE [--seconds 480] [--runs 5] [--cameras]
                                          [--only NAME...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconstruct_cpu import processor
from same_bytes import told

HERE = Path(__file__).parent


@dataclass
class Job:
    """One measurement: a script of this folder with its arguments."""

    name: str
    arguments: list[str]
    cores: list[int] = field(default_factory=list)
    process: subprocess.Popen | None = None
    start: float = 0.0


REPEATED = ("castle-P30", "kitchen", "monstree", "herz-jesu-P8", "tower")  # sets whose bytes and times are compared
LENSES = ("proc-00", "proc-05", "herz-jesu-P8", "fountain-P11")  # scenes of the table of lenses

STREETS = (2, 1, 3, 4)  # seeds
K1 = (0.0, -0.02, -0.05, -0.12)  # of these lenses
BELONG_SHARES = 16  # parts in which the mixes are measured: what is not done when the time is over is lost


def jobs(sets: list[Path], device: str, runs: int, cameras: bool) -> list[Job]:
    """The measurements, the longest and most important ones first."""

    def run_of(folder: Path, *options: str) -> list[str]:
        only = ["--cameras"] if cameras else []
        return ["same_bytes.py", str(folder), "--runs", "1", "--busy", "1", "--busy-turn", *options, *only]

    def walk(frames: int, seed: int, *methods: str) -> list[str]:
        how = ["--frames", str(frames), "--seeds", str(seed), "--device", device, "--cores", "999"]
        return ["refine_walks.py", *how, "--methods", *methods]

    def street(seed: int) -> list[str]:
        return ["panorama.py", "--kinds", "street", "--device", device, "--seeds", str(seed)]

    repeated = [folder for folder in sets if folder.name in REPEATED]
    bent = [str(folder) for folder in sets if folder.name in LENSES]
    table = {"walk of 100": walk(100, 0, "refine"), "walk of 50": walk(50, 0, "refine")}
    table |= {f"{folder.name}, with pycolmap": run_of(folder, "0") for folder in repeated}
    table |= {f"street {seed}": street(seed) for seed in STREETS}
    for k1 in K1:
        how = ["--methods", "refine", "--k1", str(k1)]
        table |= {f"lenses of {Path(scene).name}, {k1}": ["refine_lenses.py", scene, *how] for scene in bent}
    for model in ("auto", "opencv-fisheye"):
        table |= {f"fisheye room, {model}": ["fisheye_room.py", "--camera-models", model]}
    shares = ([str(part), str(BELONG_SHARES)] for part in range(BELONG_SHARES))
    table |= {f"belong {share[0]}": ["belong.py", *map(str, sets), "--share", *share] for share in shares}
    table |= {"lens warning": ["lens_warning.py", *map(str, sets)]}
    table |= {f"{folder.name}, busy": run_of(folder, "1", "--pycolmap-turns", "0") for folder in repeated}
    for k in range(3, runs + 1):
        table |= {f"{folder.name}, run {k}": run_of(folder, "0", "--pycolmap-turns", "0") for folder in repeated}
    table |= {"walk of 100, seed 1": walk(100, 1, "refine"), "walk of 100, pycolmap": walk(100, 0, "pycolmap")}
    table |= {f"fisheye room, seed {seed}": ["fisheye_room.py", "--seeds", str(seed)] for seed in (1, 2)}
    return [Job(name, arguments) for name, arguments in table.items()]


def start(job: Job, cores: list[int], scratch: Path) -> None:
    command = [sys.executable, str(HERE / job.arguments[0]), *job.arguments[1:]]
    if job.arguments[0] in ("same_bytes.py", "refine_walks.py"):
        command += ["--json", str(scratch / f"{job.name}.json")]
    threads = str(len(cores))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    job.cores, job.start = cores, time.perf_counter()
    with (scratch / f"{job.name}.txt").open("w") as out, (scratch / f"{job.name}.err").open("w") as err:
        job.process = subprocess.Popen(
            command, stdout=out, stderr=err, env=environment, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )  # fmt: skip


def answer(job: Job, scratch: Path) -> dict[str, Any]:
    """What a measurement has written so far: its JSON, or the end of its output."""
    status = job.process.poll() if job.process else None
    row: dict[str, Any] = {"status": status, "seconds": round(time.perf_counter() - job.start, 1)}
    written = scratch / f"{job.name}.json"
    lines = (scratch / f"{job.name}.txt").read_text(encoding="utf-8").splitlines()
    if written.is_file():
        row["found"] = json.loads(written.read_text(encoding="utf-8"))
    elif status == 0 and lines:
        row["found"] = json.loads(lines[-1])
    else:
        row["output"] = lines
    if status != 0:
        row["error"] = (scratch / f"{job.name}.err").read_text(encoding="utf-8", errors="replace")[-3000:]
    return row


def bytes_together(sets: list[Path], rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each set the entry of same_bytes.py, made from its runs."""
    entries = {}
    for folder in sets:
        known = [
            row["found"]["sets"] for name, row in rows.items() if name.startswith(f"{folder.name}, ") and "found" in row
        ]
        parts = [each[folder.name] for each in known if folder.name in each]
        parts.sort(key=lambda part: "pycolmap" not in part)  # its turn belongs to the first quiet run
        mine = [one for part in parts for one in part["refine"]]
        if mine:
            entries[folder.name] = told(mine, [one for part in parts for one in part.get("pycolmap", [])])
    return entries


def run_all(waiting: list[Job], cores_each: int, until: float, done: Callable[[Job, Path], None]) -> None:
    """Start the measurements on free cores until none is left or the clock says `until`; `done` gets each that has
    ended, and in the end those that are stopped."""
    cores = sorted(os.sched_getaffinity(0))
    free = [cores[i : i + cores_each] for i in range(0, len(cores) - cores_each + 1, cores_each)]
    running: list[Job] = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        try:
            while (waiting or running) and time.perf_counter() < until:
                while waiting and free:
                    start(waiting[0], free.pop(), scratch)
                    running.append(waiting.pop(0))
                time.sleep(1)
                for job in [job for job in running if job.process is not None and job.process.poll() is not None]:
                    running.remove(job)
                    free.append(job.cores)
                    done(job, scratch)
        finally:
            for job in running:
                done(job, scratch)
                assert job.process is not None
                with suppress(ProcessLookupError):  # it has ended by now
                    os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()
    print("not begun:", [job.name for job in waiting], "stopped:", [job.name for job in running])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--runs", type=int, default=5, help="of each set; one beside a busy program")
    parser.add_argument("--cameras", action="store_true", help="network and cameras only, not the whole command")
    parser.add_argument("--cores-each", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of the network in walks and 360° pictures")
    parser.add_argument("--only", nargs="*", default=[""], help="words of which a measurement's name must have one")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    until = time.perf_counter() + options.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what runs is ended, too
    known = jobs(options.sets, options.device, options.runs, options.cameras)
    waiting = [job for job in known if any(word in job.name for word in options.only)]
    machine = {
        "processor": processor(), "cores": len(os.sched_getaffinity(0)), "cores_each": options.cores_each,
        "device_of_walks_and_streets": options.device,
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}

    def done(job: Job, scratch: Path) -> None:
        rows[job.name] = answer(job, scratch)
        print(job.name, json.dumps(rows[job.name])[:600], flush=True)
        entries = bytes_together(options.sets, rows)
        document = {"benchmark": "cameras_together", **machine, "same_bytes": entries, "measurements": rows}
        options.json.write_text(json.dumps(document) + "\n", encoding="utf-8")

    run_all(waiting, options.cores_each, until, done)


if __name__ == "__main__":
    main()
