"""Inputs of public bug reports through the command line, and whether each ends as docs/inputs.md says.

    python benchmarks/reported_inputs.py FOLDER [--only F2,F9]      # exit 1 if one does not

FOLDER holds small inputs, made from `sample_scenes/facade`: bars, cameras-malformed, damaged-middle, exif-one-bad-tag,
exif-turned, lens-distortion, masks-alpha, other-kinds, several-in-one, square-pixels, sub-folders and video. The tests
make such inputs themselves, one by one; this is the whole program at work on all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lite3r_cli.io.ply import read_ply

PACKAGE = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "lite3r_cli", "reconstruct"]
SMALL = ["-q", "--device", "cpu"]


class Wrong(AssertionError):
    """What came out is not what should."""


class Case:
    """The inputs, a place to write to, and the program."""

    def __init__(self, given: Path, out: Path) -> None:
        self.given, self.out = given, out
        search = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(part)]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACKAGE), *search])}

    def run(self, *arguments: Any, code: int = 0, **options: Any) -> str:
        """What the program says on standard error. Raises Wrong for another exit code, or for a bug."""
        options = {"env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        done = subprocess.run([*COMMAND, *map(os.fspath, arguments), *SMALL], **options)
        said = (done.stderr or b"").decode("utf-8", "replace")
        require(done.returncode == code and "bug:" not in said, f"exit {done.returncode}: {said.strip()[-300:]}")
        return said

    def read(self, file: str) -> Any:
        return json.loads((self.out / file).read_text())


def require(ok: bool, found: object) -> None:
    if not ok:
        raise Wrong(str(found))


def odd_name(case: Case) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(case.given / "video/clip.mp4", case.out / name)
    case.run(name, "--max-views", "2", "-o", "s.ply", cwd=case.out)
    require(sorted(os.listdir(case.out)) == sorted([name, "s", "s.ply"]), os.listdir(case.out))


def hole(case: Case) -> None:
    said = case.run(case.given / "damaged-middle", "--strict", "-o", case.out / "a.ply", code=3)
    require("02.jpg: damaged" in said, said)
    case.run(case.given / "damaged-middle", "-o", case.out / "a.ply")
    verdicts = {image["name"]: image["verdict"] for image in case.read("a/run.json")["images"]}
    require("used" not in verdicts.get("02.jpg", "") and verdicts["00.jpg"] == "used", verdicts)


def lens(case: Case) -> None:
    truth = json.loads((case.given / "lens-distortion/truth.json").read_text())["images"]
    case.run(case.given / "lens-distortion/images", "--refine", "-o", case.out / "a.ply")
    found = case.read("a/cameras.json")["images"]
    bent = {name: found[name]["original_camera"]["params"][0] / truth[name]["K"][0][0] for name in found}
    require(all(abs(ratio - 1) < 0.05 for ratio in bent.values()), bent)


def video_exports(case: Case) -> None:
    case.run(case.given / "video/clip.mp4", "--max-views", "3", "-f", "nerfstudio", "-f", "colmap", "-o", case.out)
    files = [frame["file_path"] for frame in case.read("transforms.json")["frames"]]
    require(len(files) == 3 and all((case.out / file).is_file() for file in files), files)
    model = (case.out / "sparse/0/images.txt").read_text()
    require(all(Path(file).name in model for file in files), model[:300])


def turned_exports(case: Case) -> None:
    case.run(case.given / "exif-turned", "-f", "nerfstudio", "-o", case.out)
    for frame in case.read("transforms.json")["frames"]:
        stored = cv2.imread(str(case.out / frame["file_path"]), cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_COLOR)
        require(stored.shape[:2] == (frame["h"], frame["w"]), (frame, stored.shape))


def stopped_loop(case: Case) -> None:
    line = " ".join([*COMMAND, str(case.given / "exif-turned"), *SMALL, "-o", str(case.out / "a$i.ply")])
    loop = ["bash", "-c", f"for i in 1 2; do echo begin $i; {line}; done"]
    process = subprocess.Popen(loop, start_new_session=True, stdout=subprocess.PIPE, env=case.environment)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    begun = process.communicate()[0]
    require(process.returncode == -signal.SIGINT and b"begin 2" not in begun, (process.returncode, begun))


def own_outputs(case: Case) -> None:
    shutil.copytree(case.given / "exif-turned", case.out / "house")
    for options in ([], ["--overwrite"]):
        case.run("house", "-o", "house.ply", "--preview", *options, cwd=case.out)
    names = [image["name"] for image in case.read("house/run.json")["images"]]
    require(names == ["00.jpg", "02.jpg", "04.jpg"], names)
    require("earlier run" in case.run("house/depth", "-o", "b.ply", cwd=case.out, code=3), names)


def full_output(case: Case) -> None:
    picture = case.given / "other-kinds/00.jpg"
    with open("/dev/full", "wb") as full:
        said = case.run(picture, "-o", case.out / "a.ply", "--json", stdout=full, code=7)
    require("cannot be written" in said and (case.out / "a/run.json").is_file(), said)


def other_kinds(case: Case) -> None:
    case.run(case.given / "other-kinds", "-o", case.out / "a.ply")
    verdicts = {image["name"]: image["verdict"] for image in case.read("a/run.json")["images"]}
    require(set(verdicts.values()) == {"used"} and len(verdicts) == 7, verdicts)


def sub_folders(case: Case) -> None:
    said = case.run(case.given / "sub-folders", "-o", case.out / "a.ply")
    require("left (3), right (3); --recursive" in said, said)


def square_pixels(case: Case) -> None:
    case.run(case.given / "square-pixels", "-o", case.out / "a.ply")
    ratios = [image["K"][0][0] / image["K"][1][1] for image in case.read("a/cameras.json")["images"].values()]
    require(np.allclose(ratios, 1, atol=1e-9), ratios)


def transparent_masks(case: Case) -> None:
    folder = case.given / "masks-alpha"
    case.run(folder / "images", "--masks", folder / "masks", "-o", case.out / "a.ply")
    masked = case.read("a/run.json")["fusion"]["masked"] / (3 * 256 * 192)
    require(abs(masked - 0.39) < 0.005, masked)


def bad_tag(case: Case) -> None:
    case.run(case.given / "exif-one-bad-tag", "-o", case.out / "a.ply")
    image = case.read("a/run.json")["images"][0]
    require((image["width"], image["height"], image["orientation"]) == (256, 192, 6), image)


def bars(case: Case) -> None:
    require("plain bars" in case.run(case.given / "bars", "-o", case.out / "a.ply"), "not said")
    black = (read_ply(case.out / "a.ply").colors.max(axis=1) <= 6).mean()
    require(black < 0.001, black)


def malformed_cameras(case: Case) -> None:
    images, cameras = case.given / "lens-distortion/images", case.given / "cameras-malformed"
    said = case.run(images, "--refine", "--cameras", cameras / "width-nan.json", "-o", case.out / "a.ply", code=3)
    require("frames[0]: w has to be a whole number" in said, said)
    case.run(images, "--cameras", cameras / "fisheye.json", "-o", case.out / "a.ply")
    camera = next(iter(case.read("a/cameras.json")["images"].values()))["original_camera"]
    require(camera["model"] == "OPENCV_FISHEYE", camera)


def av1(case: Case) -> None:
    case.run(case.given / "video/av1.mp4", "-o", case.out / "a.ply")


def pair(case: Case) -> None:
    said = case.run(case.given / "several-in-one/pair.jpg", "-o", case.out / "a.ply")
    require("holds several pictures: pair.jpg (2)" in said, said)


def ascii_json(case: Case) -> None:
    shutil.copy(case.given / "other-kinds/00.jpg", case.out / "é.jpg")
    arguments = [case.out / "é.jpg", "-o", case.out / "a.ply", "--json"]
    with open(case.out / "answer.json", "wb") as answer:
        case.run(*arguments, stdout=answer, env=case.environment | {"PYTHONIOENCODING": "ascii"})
    require(case.read("answer.json")["views"] == 1, "views")


def folder_gone(case: Case) -> None:
    gone, kept = case.out / "gone", case.out / "kept"
    gone.mkdir()
    kept.mkdir()
    line = " ".join([*COMMAND, str(case.given / "exif-turned"), *SMALL, "-o", str(kept / "a.ply")])
    shell = f"cd {gone} && rmdir {gone} && {line}"
    done = subprocess.run(["bash", "-c", shell], env=case.environment, capture_output=True)
    require(done.returncode == 0 and sorted(os.listdir(kept)) == ["a", "a.ply"], (done.stderr, os.listdir(kept)))


CASES: dict[str, Callable[[Case], None]] = {
    "F1": odd_name, "F2": hole, "F3": lens, "F4": video_exports, "F5": turned_exports, "F6": stopped_loop,
    "F7": own_outputs, "F8": full_output, "F9": other_kinds, "F10": sub_folders, "F11": square_pixels,
    "F12": transparent_masks, "F13": bad_tag, "F14": bars, "F15": malformed_cameras, "F16": av1, "F17": pair,
    "F18": ascii_json, "F19": folder_gone,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="cases, with commas")
    options = parser.parse_args()
    wrong = 0
    for name in options.only.split(",") if options.only else CASES:
        with tempfile.TemporaryDirectory() as out:
            try:
                CASES[name](Case(options.folder.resolve(), Path(out)))
                verdict = "right"
            except (Wrong, KeyError, OSError, ValueError) as error:
                wrong += 1
                verdict = f"WRONG: {type(error).__name__}: {error}"
        print(f"{name:4} {CASES[name].__name__.replace('_', ' '):18} {verdict}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
