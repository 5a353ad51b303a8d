"""Compares each output of the networks with fixtures made by their authors' code.

Prints a table of relative errors ‖ours − given‖ / ‖given‖, then one JSON line; exit code 1 if one is above 1e-5.

    python benchmarks/parity.py tests/fixtures/*.npz [--forms dense "packed tokens" blocks] [--workers 8] [--json FILE]

The other forms are sparse attention that keeps every key. FILE is written after each network; its other entries stay.
The weights of a network are made once for all its fixtures and forms. A full-size one needs 6 to 12 GB of memory.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch

from lite3r_cli.errors import InputError
from lite3r_cli.networks import standin
from lite3r_cli.networks.parity import FORMS, TOLERANCE, errors_of

Results = dict[str, dict[str, float]]


def document(results: Results) -> dict[str, object]:
    """The JSON of the errors; an infinite one is null."""
    finite = {name: {k: v if v != float("inf") else None for k, v in e.items()} for name, e in results.items()}
    return {"benchmark": "parity", "torch": torch.__version__, "tolerance": TOLERANCE, "results": finite}


def write(file: Path, results: Results) -> None:
    """Add the errors of fixtures to the file."""
    before = json.loads(file.read_text(encoding="utf-8"))["results"] if file.is_file() else {}
    file.write_text(json.dumps(document(dict(sorted((before | results).items())))) + "\n", encoding="utf-8")


def by_network(fixtures: Sequence[Path]) -> list[list[Path]]:
    """The fixtures that have the same weights, together."""
    groups: dict[tuple[object, ...], list[Path]] = defaultdict(list)
    for path in fixtures:
        try:
            with np.load(path) as file:
                config = json.loads(str(file["config"]))
            groups[config["model"], config["seed"]].append(path)
        except (OSError, ValueError, KeyError):
            groups[(path,)].append(path)  # `errors_of` will say what is wrong
    return list(groups.values())


def of_network(fixtures: Sequence[Path], forms: Sequence[str]) -> Results:
    """The errors of fixtures with the same weights."""
    make = standin.tensor_for
    standin.tensor_for = functools.cache(make)
    try:
        return {
            path.name if form == "dense" else f"{path.name}, {form}": errors_of(path, form)
            for path, form in itertools.product(fixtures, forms)
        }
    finally:
        standin.tensor_for = make


def of_all(groups: Sequence[Sequence[Path]], forms: Sequence[str], workers: int) -> Iterator[Results]:
    """The errors of one network after the other, as they come."""
    if workers == 1:
        yield from (of_network(group, forms) for group in groups)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for future in as_completed([pool.submit(of_network, group, forms) for group in groups]):
            yield future.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fixtures", nargs="+", type=Path, metavar="FIXTURE.npz")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["dense"])
    parser.add_argument("--workers", type=int, default=1, help="networks at the same time, with two threads each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results: Results = {}
    try:
        for found in of_all(by_network(options.fixtures), options.forms, options.workers):
            results |= found
            for name, errors in found.items():
                for output, value in errors.items():
                    verdict = "" if value <= TOLERANCE else "  ABOVE THE LIMIT"
                    print(f"{name:52} {output:18} {value:9.2e}{verdict}", flush=True)
            if options.json:
                write(options.json, found)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    worst = max(value for errors in results.values() for value in errors.values())
    print(f"{'largest':71} {worst:9.2e}")
    print(json.dumps(document(results)))
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
