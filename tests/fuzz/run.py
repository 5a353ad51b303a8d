"""Changed files through the readers of the package, in a process of their own, for a given time.

    python tests/fuzz/run.py --seconds 60 [--seed N] [--only jpeg,tiff]     # exit 1 if anything is found
    python tests/fuzz/run.py --replay jpeg:20261127:4711 --keep FOLDER      # write one case and read it

A case follows from its reader, the seed and its number alone. A fault is any exception that is not one of
lite3r_cli.errors, an answer that is not sound, more than 2 GB beyond what the process held before, more than 5 s of
processor time, or the end of the process. Each is one line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
MOST_SECONDS = 5.0  # of processor time for one case
MOST_BYTES = 2 << 30
ADDRESS_SPACE = 14 << 30
_BEAT = "<qqd"  # case, reader, processor time at its start


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")))
    parser.add_argument("--only", help="names of readers, with commas")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--replay", metavar="READER:SEED:NUMBER")
    parser.add_argument("--keep", type=Path, help="folder for the files of --replay")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return 0
    if options.replay:
        return replay(options.replay, options.keep)
    return watch(options)


def names_of(only: str | None) -> list[str]:
    from readers import readers

    table = readers()
    chosen = only.split(",") if only else list(table)
    return [name for name in chosen for _ in range(table[name].weight)]


# --- the process that reads -------------------------------------------------------------------------------------------


def one(name: str, seed: int, number: int, folder: Path) -> dict | None:
    """Run a case and return the fault, or None."""
    from readers import readers, write

    from lite3r_cli.errors import Lite3RError

    if not _table:
        _table.update(readers())
    reader = _table
    write(folder, reader[name].make(random.Random(f"{name}:{seed}:{number}")))
    before = _memory("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.process_time()
    found: dict | None = None
    try:
        unsound = reader[name].read(folder)
        if unsound:
            found = {"fault": "unsound", "text": unsound}
    except Lite3RError as error:
        text = str(error)
        if "\n" in text or len(text) > 2000:
            found = {"fault": "message", "text": text[:200]}
    except MemoryError:
        found = {"fault": "memory", "text": "MemoryError"}
    except Exception as error:
        found = {"fault": type(error).__name__, "text": "".join(traceback.format_exception(error))[-1500:]}
    used, seconds = _memory("VmHWM") - before, time.process_time() - start
    if found is None and used > MOST_BYTES:
        found = {"fault": "memory", "text": f"{used / 2**30:.1f} GiB"}
    if found is None and seconds > MOST_SECONDS:
        found = {"fault": "slow", "text": f"{seconds:.1f} s"}
    return None if found is None else {"case": f"{name}:{seed}:{number}", **found}


_table: dict = {}


def _memory(key: str) -> int:
    """Bytes that the process holds (VmRSS) or held at the most (VmHWM)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) << 10
    return 0


def work(options: argparse.Namespace) -> None:
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    warnings.simplefilter("ignore")
    names = names_of(options.only)
    with open(options.worker, "r+b") as file, mmap.mmap(file.fileno(), 64) as beat:
        root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        try:
            end, number = time.monotonic() + options.seconds, options.first
            while time.monotonic() < end:
                name = names[number % len(names)]
                folder = root / str(number % 8)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                beat[: struct.calcsize(_BEAT)] = struct.pack(_BEAT, number, 1, time.process_time())
                found = one(name, options.seed, number, folder)
                beat[: struct.calcsize(_BEAT)] = struct.pack(_BEAT, number + 1, 0, time.process_time())
                if found:
                    print(json.dumps(found), flush=True)
                number += 1
        finally:
            shutil.rmtree(root, ignore_errors=True)


# --- the process that watches -----------------------------------------------------------------------------------------


def watch(options: argparse.Namespace) -> int:
    """Start the reading process, and start it again after a case that ends it. Returns 1 if anything was found."""
    names = names_of(options.only)
    end, first, faults, cases = time.monotonic() + options.seconds, options.first, 0, 0
    with tempfile.NamedTemporaryFile() as beat:
        while time.monotonic() < end - 1:
            beat.seek(0)
            beat.write(struct.pack(_BEAT, first, 0, 0.0).ljust(64, b"\0"))
            beat.flush()
            command = [
                sys.executable,
                __file__,
                "--worker",
                beat.name,
                "--seed",
                str(options.seed),
                "--first",
                str(first),
            ]
            command += ["--seconds", str(end - time.monotonic())] + (["--only", options.only] if options.only else [])
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            died = _wait(process, Path(beat.name), end)
            number, busy, _ = struct.unpack(_BEAT, Path(beat.name).read_bytes()[: struct.calcsize(_BEAT)])
            for line in process.stdout or ():
                print(line, end="", flush=True)
                faults += 1
            cases += number - first
            first = number
            if died and busy:
                case = f"{names[number % len(names)]}:{options.seed}:{number}"
                print(json.dumps({"case": case, "fault": died}), flush=True)
                faults += 1
                first += 1
            elif died:
                print(json.dumps({"fault": f"{died} between cases"}), flush=True)
                return 1
    print(f"{cases} cases, {faults} faults, seed {options.seed}", file=sys.stderr)
    return 1 if faults else 0


def _wait(process: subprocess.Popen, beat: Path, end: float) -> str:
    """Until the process ends; "" if it ended well, else how. One that needs too long for a case is killed."""
    while (code := process.poll()) is None:
        time.sleep(0.2)
        _, busy, start = struct.unpack(_BEAT, beat.read_bytes()[: struct.calcsize(_BEAT)])
        used = _processor_time(process.pid) - start
        if busy and used > 2 * MOST_SECONDS:
            process.kill()
            process.wait()
            return f"hang: {used:.0f} s of processor time"
        if time.monotonic() > end + 60:
            process.kill()
            process.wait()
            return "hang: waits for something" if busy else ""
    return "" if code == 0 else f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def _processor_time(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def replay(case: str, keep: Path | None) -> int:
    name, seed, number = case.split(":")
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = one(name, int(seed), int(number), folder)
        print(
            *(f"{p.relative_to(folder)} {p.stat().st_size} bytes" for p in folder.rglob("*") if p.is_file()), sep="\n"
        )
    print(json.dumps(found, indent=1) if found else "sound")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
