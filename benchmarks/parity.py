"""Compares each output of the networks with fixtures made by their authors' code.

Prints a table of relative errors ‖ours − given‖ / ‖given‖, then one JSON line; exit code 1 if one is above 1e-5.

    python benchmarks/parity.py tests/fixtures/*.npz [--forms dense "packed tokens" blocks] [--json FILE]

The other forms are sparse attention that keeps every key. FILE is written after each fixture; its other entries stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import torch

from lite3r_cli.errors import InputError
from lite3r_cli.networks.parity import FORMS, TOLERANCE, errors_of


def document(results: dict[str, dict[str, float]]) -> dict[str, object]:
    """The JSON of the errors; an infinite one is null."""
    finite = {name: {k: v if v != float("inf") else None for k, v in e.items()} for name, e in results.items()}
    return {"benchmark": "parity", "torch": torch.__version__, "tolerance": TOLERANCE, "results": finite}


def write(file: Path, results: dict[str, dict[str, float]]) -> None:
    """Add the errors of a fixture to the file."""
    before = json.loads(file.read_text(encoding="utf-8"))["results"] if file.is_file() else {}
    file.write_text(json.dumps(document(dict(sorted((before | results).items())))) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixtures", nargs="+", type=Path, metavar="FIXTURE.npz")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["dense"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for path, form in itertools.product(options.fixtures, options.forms):
        name = path.name if form == "dense" else f"{path.name}, {form}"
        try:
            results[name] = errors_of(path, form)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        for output, value in results[name].items():
            verdict = "" if value <= TOLERANCE else "  ABOVE THE LIMIT"
            print(f"{path.stem:36} {form:14} {output:18} {value:9.2e}{verdict}", flush=True)
        if options.json:
            write(options.json, {name: results[name]})
    worst = max(value for errors in results.values() for value in errors.values())
    print(f"{'largest':70} {worst:9.2e}")
    print(json.dumps(document(results)))
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
