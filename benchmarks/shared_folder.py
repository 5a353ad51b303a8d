"""One user plants links, hidden folders and lists in a folder that others may write to; another one runs lite3r there.

    sudo python benchmarks/shared_folder.py [--only synth,view] [--json benchmarks/results/shared-folder.json]
    sudo python benchmarks/shared_folder.py --suites "batch, overwrite;merge, new" --json …   # others' results stay

Needs root, to become the users 2001 and 2002. The commands of kill_suites.py run as 2002, whose home holds files that
the other one is after. What 2001 plants, made from the names that the command writes: links and dangling links in place
of output files and folders, links, pipes and dangling links in place of locks and temporary names, hidden folders as of
a stopped run with a journal that removes and brings back files behind a link, and lists of files (run.json and others)
that name files outside, paths of 2,000 folders, or are nested 100,000 levels deep. With "exchanged", a process of 2001
renames every hidden folder that appears, and puts a link into the home in its place; that folder has no sticky bit. A
fault: a file of the home is gone, changed or new, the command hangs, or it ends as a bug.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
from forked_runs import inputs, run
from kill_suites import SUITES, WELL

from lite3r_cli.cli import main
from lite3r_cli.io.transaction import ABOUT, MARKER

ATTACKER, VICTIM = 2001, 2002
LIMIT = 600  # seconds of a run, which takes some 10 where nothing else runs
HIDDEN = "lite3r-0123456789ab"
COMMANDS = "reconstruct,convert,distill,synth,batch,render,splat,view,merge,train,add,bench"
LISTS = {  # kind → content of a record
    "names a path of 2,000 folders": json.dumps({"files": {"y/" * 2000 + "a": {"bytes": 1, "sha256": ""}}}),
    "is nested 100,000 levels deep": '{"files": ' + "[" * 100_000,
}
RECORDS = ("run.json", "synth.json", "render.json", "safetensors.index.json", "batch.json")


class Field:
    """A shared folder, and the home of the victim."""

    def __init__(self, root: Path, sticky: bool) -> None:
        self.shared, self.home = root / "shared", root / "home"
        for folder in (self.shared, self.home):
            shutil.rmtree(folder, ignore_errors=True)
        self.shared.mkdir()
        self.shared.chmod(0o1777 if sticky else 0o777)
        (self.home / "autostart").mkdir(parents=True)
        (self.home / "new").mkdir()  # as the folder of new files within a hidden one
        for name in ("thesis.txt", "precious.ply", "autostart/mine.desktop", "new/run.json"):
            (self.home / name).write_text("years of work")
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, VICTIM, VICTIM)
        self.home.chmod(0o700)

    def content(self) -> dict[str, str]:
        """What is in the home, and in what the attacker's links could make there."""
        return {
            str(p.relative_to(self.home)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
            for p in self.home.rglob("*")
            if ".cache" not in p.parts
        }


def as_user(user: int, function: Callable[[], object], limit: int, said: Path | None = None) -> int:
    """Exit code of the function in a process of that user."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            signal.alarm(limit)
            resource.setrlimit(resource.RLIMIT_AS, (14 << 30, 14 << 30))
            if said is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(os.open(said, os.O_WRONLY | os.O_TRUNC), 2)
            code = function()
            os._exit(code if isinstance(code, int) else 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def plants(names: list[str], field: Field) -> Iterator[tuple[str, Callable[[], None]]]:
    """What can be planted where a command writes `names`, as (description, function for the attacker)."""
    shared, home = field.shared, field.home
    firsts = {str(Path(name).parent): name for name in reversed(names)}  # a file of each folder

    def link(at: Path, to: Path) -> Callable[[], None]:
        def plant() -> None:
            _open_folders(at.parent, shared)
            at.symlink_to(to)

        return plant

    for folder, name in firsts.items():
        yield f"{name} is a link to a file", link(shared / name, home / "precious.ply")
        yield f"{name} is a link to nothing", link(shared / name, home / "autostart/evil.desktop")
        if folder != ".":
            yield f"{folder}/ is a link to a folder", link(shared / folder, home / "autostart")
        for form in (f".{Path(name).name}.lock", f"{Path(name).stem}.tmp", f"{Path(name).name}.tmp", ".lite3r.lock"):
            yield f"{folder}/{form} is a link", link(shared / folder / form, home / "thesis.txt")
        yield (
            f"{folder}/.{Path(name).name}.lock is a link to nothing",
            link(shared / folder / f".{Path(name).name}.lock", home / "new-file"),
        )
    for name in sorted({Path(name).parts[0] for name in names} | {name for name in names if name.endswith(RECORDS)}):
        for mode in (0o700, 0o777):
            place = shared / Path(name).parent / f".{Path(name).name}.{HIDDEN}"
            yield f"{place.name} of mode {mode:o}", lambda place=place, mode=mode: _stopped(place, names, mode, field)
    for name in names:
        if name.endswith(RECORDS):
            yield f"{name} names files outside", lambda name=name: _listed(shared / name, names, field)
            for kind, text in LISTS.items():
                yield f"{name} {kind}", lambda name=name, text=text: _recorded(shared / name, text, shared)


def _open_folders(folder: Path, shared: Path) -> None:
    """Make folders in which the victim may write, too."""
    for path in reversed([folder, *folder.parents]):
        if path.is_relative_to(shared) and not path.exists():
            path.mkdir()
            path.chmod(0o777)


def _stopped(place: Path, names: list[str], mode: int, field: Field) -> None:
    """Plant a hidden folder like that of a stopped commit, which would remove home/thesis.txt through a link and
    restore a file.
    """
    _open_folders(place.parent, field.shared)
    (place / "new").mkdir(parents=True)
    (place / MARKER).write_text(ABOUT)
    link = place.parent / "ln"
    link.symlink_to(field.home)
    for target in ("ln/autostart/evil.desktop", *names[:3]):
        (place / "old" / target).parent.mkdir(parents=True, exist_ok=True)
        (place / "old" / target).write_text("planted")
    last = names[-1]
    (place / "new" / last).parent.mkdir(parents=True, exist_ok=True)
    (place / "new" / last).write_text("{}")
    files = {name: [13, 0] for name in ("ln/thesis.txt", "../home/thesis.txt", str(field.home / "thesis.txt"))}
    (place / "journal.json").write_text(json.dumps({"last": last, "files": files, "folders": ["ln"]}))
    for path in (place, *place.rglob("*")):
        if not path.is_symlink() and path.is_dir():
            path.chmod(mode)


def _recorded(record: Path, text: str, shared: Path) -> None:
    """Plant a list of files that is meant to take the program's time or memory."""
    _open_folders(record.parent, shared)
    record.write_text(text)


def _listed(record: Path, names: list[str], field: Field) -> None:
    """Plant the list of files of an earlier run of this command; it names files outside the folder."""
    _open_folders(record.parent, field.shared)
    (record.parent / "ln").symlink_to(field.home)
    outside = ("../home/thesis.txt", "ln/thesis.txt", str(field.home / "thesis.txt"), "../../home/thesis.txt")
    for name in names[:2]:
        _open_folders((field.shared / name).parent, field.shared)
        (field.shared / name).write_text("13 characters")
    entries = {key: {"bytes": 13, "sha256": ""} for key in (*names, *outside)}
    document = {"files": entries, "weight_map": dict.fromkeys(outside, "../home/thesis.txt")}
    record.write_text(json.dumps(document))


def _exchange(field: Field) -> None:
    """Replace every hidden folder by a link into the home, until this process is killed."""
    number = 0
    while True:
        for place in [p for p in field.shared.rglob(".*") if ".lite3r-" in p.name]:
            try:
                if not stat.S_ISLNK(place.lstat().st_mode):
                    number += 1
                    place.rename(field.shared / f"taken{number}")
                    place.symlink_to(field.home)
            except OSError:
                pass
        time.sleep(0.002)


def attacked(words: str, plant: Callable[[], None] | None, field: Field) -> dict[str, object]:
    """Run the victim with planted files, or beside a process that exchanges folders if nothing was planted."""
    said = field.shared.parent / "said"
    said.touch()
    said.chmod(0o666)
    rival = 0
    if plant is not None and as_user(ATTACKER, plant, 20, said):  # a file of the victim is there, or a folder is closed
        return {"exit": None, "bad": []}
    if plant is None:
        rival = os.fork()
        if rival == 0:
            os.setgid(ATTACKER)
            os.setuid(ATTACKER)
            _exchange(field)
    before = field.content()
    try:
        code = as_user(VICTIM, lambda: main(words.split()), LIMIT, said)
    finally:
        if rival:
            os.kill(rival, signal.SIGKILL)
            os.waitpid(rival, 0)
    told, after = said.read_text(errors="replace"), field.content()
    if plant is None:  # what is written before the exchange is noticed goes through the link; see SECURITY.md
        after = {name: digest for name, digest in after.items() if name in before or not name.startswith("new/")}
        after = {name: before[name] if name.startswith("new/") and name in before else d for name, d in after.items()}
    bad = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    bad += [f"exit {code}: {told[-300:]}"] if code not in (0, 3, 7) or "bug" in told else []
    return {"exit": code, "bad": bad}


def alike(names: list[str]) -> list[str]:
    """Two names of each folder and suffix: the others are written in the same way."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        groups.setdefault((str(Path(name).parent), Path(name).suffix), []).append(name)
    return sorted(name for group in groups.values() for name in (group[:1] + group[-1:] if group[1:] else group))


def keep(file: Path, counts: Counter[str], faults: list[dict[str, object]]) -> None:
    """Write the results; those of suites that did not run now stay."""
    before = json.loads(file.read_text()) if file.exists() else {}
    suites = {**before.get("by_suite", {}), **counts}
    others = [fault for fault in before.get("faults", ()) if fault["suite"] not in counts]
    document = {"cases": sum(suites.values()), "faults": [*others, *faults], "by_suite": suites}
    document |= {key: value for key, value in before.items() if key == "note"}
    file.write_text(json.dumps(document, indent=1) + "\n")


def _clean(words: str, root: Path) -> None:
    """An undisturbed run in a fork, because threads do not survive a second fork. It also imports the modules that the
    other runs need: other users may not be allowed to read Python's folder.
    """

    def undisturbed() -> int:
        code = main(words.split())
        (root / "modules").write_text("\n".join(sys.modules))
        return code

    code = as_user(os.geteuid(), undisturbed, LIMIT)
    assert code in (0, WELL.get(words.split()[0], 0)), f"the undisturbed run ended with {code}: {words}"
    for name in (root / "modules").read_text().splitlines():
        with suppress(Exception):
            importlib.import_module(name)


def measure() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default=COMMANDS)
    options.add_argument("--suites", help="names of kill_suites.py, separated by semicolons, in place of --only")
    options.add_argument("--seconds", type=float, default=1e9)
    options.add_argument("--jobs", type=int, default=1, help="processes that share the cases of every suite")
    options.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    wanted = (
        asked.suites.split(";") if asked.suites else [n for n, (_, w) in SUITES.items() if w.split()[0] in asked.only]
    )
    asked.wanted = [n for n in wanted if "--workers" not in SUITES[n][1] and "writes nothing" not in n]
    torch.set_num_threads(1)
    if asked.jobs > 1 and not asked.part:
        counts, faults = in_parts(asked)
    else:
        counts, faults = one_part(asked)
    for name, count in counts.items():
        print(f"{name}: {count} cases, {sum(fault['suite'] == name for fault in faults)} faults", flush=True)
    if asked.json is not None:
        keep(asked.json, counts, faults)
    return 1 if faults else 0


def in_parts(asked: argparse.Namespace) -> tuple[Counter[str], list[dict[str, object]]]:
    """The cases of `asked.jobs` processes, each of which runs every n-th case."""
    counts: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for part in range(1, asked.jobs + 1):
            words = [sys.executable, __file__, "--jobs", str(asked.jobs), "--part", str(part), "--seconds",
                     str(asked.seconds), "--suites", ";".join(asked.wanted), "--json", f"{folder}/{part}"]  # fmt: skip
            running.append(subprocess.Popen(words))
        for part, process in enumerate(running, 1):
            process.wait()
            found = json.loads(Path(folder, str(part)).read_text()) if Path(folder, str(part)).exists() else {}
            counts.update(found.get("by_suite", {}))
            faults += found.get("faults", [{"suite": "?", "kind": f"part {part} ended", "bad": ["no result"]}])
    return counts, faults


def one_part(asked: argparse.Namespace) -> tuple[Counter[str], list[dict[str, object]]]:
    """The cases of this process. They are kept suite by suite, for it may be stopped."""
    counts: Counter[str] = Counter()
    faults: list[dict[str, object]] = []
    start = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="lite3r-two-users-"))
    root.chmod(0o755)
    try:
        os.chdir(root)
        inputs(root)
        os.environ["HOME"] = str(root / "home")
        for name in asked.wanted:
            words, before, names = prepared(name, root)
            cases = [*plants(alike(names), Field(root, True)), ("exchanged", None), ("exchanged again", None)]
            for kind, plant in cases[asked.part - 1 :: asked.jobs] if asked.part else cases:
                if time.monotonic() - start > asked.seconds:
                    return counts, faults
                field = Field(root, plant is not None)
                if before is not None:
                    _give(before, field.shared)
                result = attacked(words.replace("{}", str(field.shared)), plant, field)
                counts[name] += result["exit"] is not None
                if result["bad"]:
                    faults.append({"suite": name, "kind": kind, **result})
                    print("FAULT", json.dumps(faults[-1]), flush=True)
            print(f"{name}: {time.monotonic() - start:.0f} s, {counts[name]} cases, {len(faults)} faults", flush=True)
            if asked.json is not None:
                keep(asked.json, counts, faults)
    finally:
        os.chdir("/")
        shutil.rmtree(root, ignore_errors=True)
    return counts, faults


def prepared(name: str, root: Path) -> tuple[str, Path | None, list[str]]:
    """The command of a suite, what the victim has in the shared folder before it (`add` changes a scene that is there),
    and the names that the command writes.
    """
    earlier, words = SUITES[name]
    command, field, before = words.split()[0], Field(root, True), None
    made = root / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    if command in ("render", "splat", "view", "merge", "add"):  # their scenes are the victim's own
        for line in (earlier or "").split("; "):
            if line.startswith("reconstruct"):
                run(line.replace("{}", str(made)))
        if command == "add":
            before = made
            _give(made, field.shared)
        else:
            shutil.copytree(made, root / "own", dirs_exist_ok=True)
            words = _out_of_own(words)
    _clean(words.replace("{}", str(field.shared)), root)
    names = sorted(str(p.relative_to(field.shared)) for p in field.shared.rglob("*") if p.is_file())
    return words, before, [n for n in names if not Path(n).name.startswith(".")]


def _give(before: Path, shared: Path) -> None:
    """Copy what the victim has there."""
    mode = shared.stat().st_mode
    shutil.copytree(before, shared, dirs_exist_ok=True)
    shared.chmod(mode & 0o7777)  # copytree sets that of `before`
    for path in shared.rglob("*"):
        os.chown(path, VICTIM, VICTIM)


def _out_of_own(words: str) -> str:
    """The scene is read from own/, the output goes to the shared folder."""
    given = [word.replace("{}", "own") if word.endswith(".ply") and "-splats" not in word else word
             for word in words.split()]  # fmt: skip
    if "-o" in given:
        at = given.index("-o") + 1
        given[at] = given[at].replace("own", "{}")
        return " ".join(given)
    name = {"render": "film.mp4", "view": "page.html", "splat": "s.ply"}[given[0]]
    return " ".join([*given, "-o", f"{{}}/{name}"])


if __name__ == "__main__":
    sys.exit(measure())
