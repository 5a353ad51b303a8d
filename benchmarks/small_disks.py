"""Every command that writes, on file systems that are too small, in bytes and in inodes.

    sudo python benchmarks/small_disks.py [--suites "synth, new;convert, new"] [--json FILE]

It mounts a tmpfs, whose limits change while it is mounted, and an ext4 in a file, which other files fill; so it needs
root. A disk that holds the old result gets a little more room each time, until the command succeeds. Before that the
exit code has to be 7 (3 of a batch, whose other scenes go on) with one line that says why, nothing hidden may be left,
and every file has to be that of the old result. Scenes of a batch and of synth are whole one by one, and a training
keeps the state of its last whole step: some of these may be new. With --resume whole chunks stay, and the next run has
to go on with them and to remove them. Quotas are not tried here but by benchmarks/kill.py
--errors, which lets each operation fail with EDQUOT.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from forked_runs import inputs, run
from kill import files, half_written, hidden
from kill_suites import SUITES, WELL

PAGE = 4096
LESS = {"bytes": [0, 16], "inodes": [0, 2, 8]}  # pages or inodes more than the old result takes
CHUNKS = ".scene.ply.lite3r-chunks/"
WRITERS = [name for name in SUITES if "writes nothing" not in name]


def shell(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


class Tmpfs:
    """A tmpfs, whose limits can change while it is mounted."""

    def __init__(self, mount: Path, kind: str) -> None:
        self.mount, self.place, self.kind = mount, mount, kind

    def __enter__(self) -> Tmpfs:
        shell("mount", "-t", "tmpfs", "-o", "size=512m,nr_inodes=20000", "lite3r-small", self.mount)
        return self

    def __exit__(self, *error: object) -> None:
        shell("umount", "-l", self.mount)

    def limit(self, more: int | None) -> None:
        """`more` pages or inodes than are in use; None: as many as are needed."""
        now = os.statvfs(self.mount)
        inodes, size = 20000, 512 << 20
        if more is not None and self.kind == "inodes":
            inodes = now.f_files - now.f_ffree + more
        elif more is not None:
            size = (now.f_blocks - now.f_bfree) * now.f_frsize + PAGE * more
        shell("mount", "-o", f"remount,size={max(PAGE, size)},nr_inodes={inodes}", self.mount)


class Ext4:
    """An ext4 image that other files fill, except for some blocks or inodes."""

    def __init__(self, mount: Path, kind: str) -> None:
        self.mount, self.place, self.kind = mount, mount / "place", kind
        self.image, self.others = mount.with_name("disk.img"), mount / "others"

    def __enter__(self) -> Ext4:
        with open(self.image, "wb") as stream:
            stream.truncate(64 << 20)
        shell("mkfs.ext4", "-q", "-m", "0", "-N", "600", self.image)
        shell("mount", "-o", "loop", self.image, self.mount)
        self.place.mkdir()
        self.others.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        shell("umount", "-l", self.mount)
        self.image.unlink()

    def limit(self, more: int | None) -> None:
        shell("find", self.others, "-mindepth", "1", "-delete")
        if more is None:
            return
        os.sync()
        if self.kind == "inodes":
            for i in range(max(0, os.statvfs(self.mount).f_ffree - more)):
                (self.others / str(i)).touch()
            return
        file = os.open(self.others / "large", os.O_CREAT | os.O_WRONLY)
        try:
            now = os.statvfs(self.mount)
            os.posix_fallocate(file, 0, max(1, now.f_bavail * now.f_frsize - PAGE * (more + 1)))
        finally:
            os.close(file)


DISKS = {"tmpfs": Tmpfs, "ext4": Ext4}


def cases(name: str, disk: Tmpfs | Ext4) -> list[dict[str, object]]:
    """The results of a command on growing disks, until one is large enough."""
    earlier, words = SUITES[name]
    place, whole = str(disk.place), {0, WELL.get(words.split()[0], 0)}
    some = words.startswith(("batch", "synth", "train", "distill"))
    disk.limit(None)
    shell("find", place, "-mindepth", "1", "-delete")
    new: dict[str, str] = {}
    if words.startswith(("batch", "synth")):
        run(words.removesuffix(" --overwrite").replace("{}", place))
        new = files(disk.place)
        shell("find", place, "-mindepth", "1", "-delete")
    for line in filter(None, (earlier or "").split("; ")):
        assert run(line.replace("{}", place))[0] == 0, (name, Path("stderr").read_text())
    old, found = files(disk.place), []
    for more in LESS[disk.kind]:
        disk.limit(more)
        code, _, _ = run(words.replace("{}", place))
        said = Path("stderr").read_text(errors="replace").strip().splitlines()
        disk.limit(None)
        if code in whole:
            return found
        after = files(disk.place)
        unfinished = _goes_on(words, place, disk) if "--resume" in words and hidden(after) else []
        if "--resume" in words:
            after = {name: digest for name, digest in after.items() if not name.startswith(CHUNKS)}
        told = [line for line in said if not line.startswith("warning: ")]
        good = code == 7 and len(told) == 1 and told[0].startswith("error: ")
        good = good or (words.startswith("batch") and code == 3)
        kept = not half_written(disk.place, after, old, new) if some else after == old
        bad = [*([] if good else [f"exit {code}: {said[-2:]}"]), *([] if kept else ["the old result is not whole"])]
        bad += [f"left: {sorted(hidden(after))[:3]}"] if hidden(after) else []
        bad += unfinished
        found.append({"suite": name, "more": more, "bad": bad})
    return found


def _goes_on(words: str, place: str, disk: Tmpfs | Ext4) -> list[str]:
    """With --resume whole chunks stay: whether the next run takes them and removes them. The place is empty then."""
    code, _, _ = run(words.replace("{}", place))
    bad = [] if code == 0 and not hidden(files(disk.place)) else [f"the next run: exit {code}, or leaves the chunks"]
    shell("find", place, "-mindepth", "1", "-delete")
    return bad


def measure() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--suites", default=";".join(WRITERS))
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="lite3r-small-") as folder:
        os.chdir(folder)
        inputs(Path(folder))
        mount = Path(folder) / "mount"
        mount.mkdir()
        for name in asked.suites.split(";"):
            for system, kind in [(system, kind) for system in DISKS for kind in LESS]:
                with DISKS[system](mount, kind) as disk:
                    mine = [{"disk": f"{system}, {kind}", **row} for row in cases(name, disk)]
                rows += mine
                bad = [row for row in mine if row["bad"]]
                print(f"{system}, {kind}, {name}: {len(mine)} too small, {len(bad)} faults {bad or ''}", flush=True)
                if asked.json is not None:
                    asked.json.write_text(json.dumps(summary(rows), indent=1) + "\n")
        os.chdir("/")
    return 1 if any(row["bad"] for row in rows) else 0


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    by_disk: dict[str, Counter[str]] = {}
    for row in rows:
        by_disk.setdefault(str(row["disk"]), Counter())[str(row["suite"])] += 1
    return {"cases": len(rows), "faults": [row for row in rows if row["bad"]], "too_small": by_disk}


if __name__ == "__main__":
    sys.exit(measure())
