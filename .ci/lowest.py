"""The lowest versions that pyproject.toml allows, as pip takes them: python .ci/lowest.py [EXTRA…].

torch is left out: its old builds for GPUs are gigabytes, and which build there is depends on the machine.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

LEFT_OUT = {"torch", "lite3r"}


def main(extras: list[str]) -> None:
    project = tomllib.loads(Path(__file__).resolve().parents[1].joinpath("pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        name = re.match(r"[\w-]+", requirement)[0]
        lowest = re.search(r">=([\d.]+)", requirement)
        if name not in LEFT_OUT:
            print(f"{name}=={lowest[1]}")


if __name__ == "__main__":
    main(sys.argv[1:])
