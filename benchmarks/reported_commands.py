"""Faults of the commands that were reported once, and whether each ends as docs/inputs.md says.

    python benchmarks/reported_commands.py FOLDER [--only G7,G9]      # exit 1 if one does not

FOLDER holds small inputs: networks of some 10⁵ numbers in the published shapes (vggt and mini, each as .safetensors and
.pt), variants of them that are damaged, photographs, sets as of BlendedMVS and DTU, and texture archives. The tests
make such inputs themselves, one by one; this is the whole program at work on all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from forked_runs import run

from lite3r_cli.cli import main

DISTILL = "-m vggt.safetensors --views 2 -r 56 --calibration-batches 1 --device cpu -q"
SHORT = f"{DISTILL} --steps 2 --seed 3 --validate-every 2"
SYNTH = "synth -o e --views 1 --width 32 --height 32 --samples 1 --device cpu -q"
PROCEDURAL = f"distill procedural {DISTILL} --steps 1 --workers 1 -o w.safetensors"


@dataclass(frozen=True)
class Case:
    """A command line, how it has to end, and words that its last line has to hold."""

    fault: str
    words: str
    code: int = 0
    says: str = ""


def cases() -> list[Case]:
    long = "a" * 300
    textures = {"cut": 3, "crc": 3, "plain": 3, "offsets": 3, "scalar": 3}
    return [
        Case("G7", f"distill scene scene {DISTILL[:-3]} --steps 0 -o d.safetensors", 0, "held out"),
        Case("G8", f"{SYNTH} --textures empty.npz", 3, "empty.npz"),
        Case("G10", f"distill bm-cut-picture {SHORT} -o c.safetensors", 0, "00000001.jpg"),
        Case("G10", f"distill bm-cut-picture {SHORT} -o c2.safetensors --strict", 3, "00000001.jpg"),
        *(Case("G6", f"distill bm-{d} {SHORT} --strict -o {d}.safetensors", 3) for d in ("sheared", "nan-K")),
        Case("G6", f"distill bm-large-pictures {SHORT} -o l.safetensors", 3, "size"),
        *(Case("G11", f"convert {f}.pt -o y.safetensors -q", 4, f"{f}.pt") for f in ("record-short", "hole")),
        Case("G11", "convert deflated.pt -o y.safetensors -q", 4, "compression"),
        *(
            Case("G12", f"reconstruct photos -m {f}.safetensors -o x.ply --device cpu -q", 4, f)
            for f in ("config-heads-0", "config-taps", "config-list", "recipe-list", "config-depth-million")
        ),
        *(Case("G13", f"convert {f}.pt -o y.safetensors -q", 4, f) for f in ("int-key", "sparse", "pickle-cut")),
        Case("G14", "convert float64-too-large.safetensors -o z.safetensors -q", 4, "float"),
        Case("G14", "convert legacy.pt -o legacy.safetensors -q"),
        Case("G14", "convert safetensors-named.pt -o y.safetensors -q", 4, "safetensors files end in .safetensors"),
        Case("G15", f"eval {long} -q", 3, "long"),
        Case("G15", f"distill photos {DISTILL} -o {long}.safetensors", 7, "long"),
        Case("G15", "train -o file/x --max-steps 1 --device cpu -q", 7, "file"),
        *(Case("G16", f"{SYNTH} --textures {f}.npz", code, f) for f, code in textures.items()),
        Case("G17", f"distill bm-name {SHORT} -o n.safetensors", 0, "left"),
        Case("G17", f"distill bm-list {SHORT} -o i.safetensors"),  # two bytes that begin a text in UTF-16: no scene
        Case("G17", f"distill bm-pfm-empty {SHORT} -o p.safetensors --strict", 0, "another draw takes its place"),
        Case("G17", f"distill dtu {SHORT} -o u.safetensors --strict", 3, "000000.png"),
        Case("G18", f"distill photos {DISTILL} --steps 0 -o d1.safetensors --device gpu", 2, "gpu"),
        Case("G18", f"distill photos {DISTILL} -o d2.safetensors --device cuda", 5, "cuda"),
        Case("G18", f"distill photos {DISTILL} -o d3.safetensors --dtype float99", 2, "float99"),
        Case("G19", "reconstruct photos -m self.safetensors.index.json -o x.ply --device cpu -q", 4, "self"),
    ]


def ended(case: Case) -> tuple[bool, int, str]:
    """Whether the case ended as it has to; its exit code and what it said last."""
    code, _, _ = run(case.words)
    said = Path("stderr").read_text(errors="replace").strip()
    bad = any(line.startswith("bug") or "Traceback" in line for line in said.splitlines())
    return code == case.code and not bad and case.says in said, code, (said.splitlines() or [""])[-1]


def spawned(method: str) -> int:
    """`distill` with worker processes that are not forked, as Python 3.14 starts them."""
    multiprocessing.set_start_method(method, force=True)
    return main(PROCEDURAL.split())


def measure() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--only", default="")
    asked = options.parse_args()
    only = set(filter(None, asked.only.split(",")))
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(asked.folder, place, dirs_exist_ok=True)
        os.chdir(place)
        Path("file").write_text("in the way")
        for case in [case for case in cases() if not only or case.fault in only]:
            good, code, said = ended(case)
            wrong += not good
            print(
                f"{'ok   ' if good else 'WRONG'} {case.fault} lite3r {case.words[:60]}: exit {code}, {said[:200]}",
                flush=True,
            )
        if not only or "G9" in only:
            code = spawned("forkserver")
            wrong += code != 0
            print(f"{'ok   ' if code == 0 else 'WRONG'} G9 workers by forkserver: exit {code}", flush=True)
        os.chdir("/")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(measure())
