"""The tables of figures in README and docs, made from the measurements in benchmarks/results/.

python benchmarks/figures.py           writes them between their marks, <!-- figures: NAME --> and <!-- /figures -->
python benchmarks/figures.py --check   measures and writes nothing; fails where a page says something else
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

import accuracy_tables
import attention_tables
import form_tables
import model_tables
import network_tables
import scale_tables
import speed_tables
import splat_tables
from stored import ROOT, load, table

PAGES = ("README.md", "checkpoints/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
MARK = re.compile(r"(<!-- figures: ([\w-]+) -->\n)(.*?)(<!-- /figures -->)", re.DOTALL)


TABLES: dict[str, Callable[[], str]] = {
    "lenses": accuracy_tables.lenses,
    "accuracy": accuracy_tables.accuracy,
    "refine": accuracy_tables.refine,
    "speed": speed_tables.speed,
    "targets": speed_tables.targets,
    "floors": speed_tables.floors,
    "stages": speed_tables.stages,
    "missed": speed_tables.missed,
    "kernels": speed_tables.kernels,
    "flash-layers": lambda: table(*attention_tables.layers(load("fa4-h100"))),
    "flash-sparse": lambda: table(*attention_tables.sparse(load("fa4-h100"))),
    "flash-networks": lambda: table(*attention_tables.networks(load("fa4-h100"))),
    "fewer-queries": lambda: table(*attention_tables.fewer_queries(load("fewer-queries"))),
    "packed-accuracy": lambda: accuracy_tables.packed_accuracy("packed-accuracy"),
    "packed-parts": lambda: accuracy_tables.packed_accuracy("packed-parts"),
    "many-views": accuracy_tables.many_views,
    "adapters": accuracy_tables.adapters,
    "attention-cpu": speed_tables.attention_cpu,
    "int8-cpu": speed_tables.int8_cpu,
    "paper": accuracy_tables.paper,
    "card-fp8": lambda: accuracy_tables.card("mini"),
    "mini-lenses": accuracy_tables.mini_lenses,
    "mini-sets": accuracy_tables.mini_sets,
    "mini-views": accuracy_tables.mini_views,
    "mini-trials": lambda: accuracy_tables.mini_tried("trials"),
    "mini-candidates": lambda: accuracy_tables.mini_tried("candidates"),
    "camera-errors": accuracy_tables.camera_errors,
    "card-before": lambda: accuracy_tables.card("before"),
    "picture-size": accuracy_tables.picture_size,
    "sparse-loss": accuracy_tables.sparse_loss,
    "located": accuracy_tables.located,
    "living": accuracy_tables.living,
    "long-walks": accuracy_tables.long_walks,
    "long-parts": accuracy_tables.long_parts,
    "loop-descriptors": accuracy_tables.loop_descriptors,
    "students": form_tables.students,
    "trained-forms": form_tables.trained_forms,
    "ablations": form_tables.ablations,
    "packed-forms": form_tables.packed_forms,
    "block-forms": form_tables.block_forms,
    "masks": form_tables.masks,
    "refined-scenes": form_tables.refined_scenes,
    "refine-targets": form_tables.refine_targets,
    "camera-times": form_tables.camera_times,
    "cpu-views": form_tables.cpu_views,
    "end-to-end": form_tables.end_to_end,
    "profile": speed_tables.profile,
    "comparison": model_tables.comparison,
    "goals": model_tables.goals,
    "card-means": model_tables.card_means,
    "training-runs": model_tables.training_runs,
    "conversion": network_tables.conversion,
    "kept-forms": network_tables.kept_forms,
    "cache-precision": network_tables.cache_precision,
    "network-speed": network_tables.speeds,
    "streaming": network_tables.streaming,
    "known-input": network_tables.known_input,
    "scale": scale_tables.scale,
    "scale-workers": scale_tables.workers,
    "scale-training": scale_tables.training,
    "scale-seeds": scale_tables.seeds,
    "splats": splat_tables.splats,
}


# Tables with numbers that are facts of the program and no measurements: first cells of the head → what checks them.
FACTS: dict[str, str] = {
    "| | |": "the file of the weights: tests/test_docs.py",
    "| case | what happens": "exit codes: tests/test_bad_inputs.py and the tests of each reader",
    "| command | case": "exit codes: tests/pipelines/test_damaged_scenes.py and the tests of each command",
    "| name | parameters": "the registry: tests/test_docs.py",
    "| kernel | in one pass": "sizes of tiles: GROUPS in attention/packed.py, constants in engine/*_kernels.py",
}
NUMBER = re.compile(r"(?<![\w.-])(?:\d+\.\d+|\d{2,})")  # not those in names: Apache-2.0
FEW = 6  # numbers: a table of fewer is no table of figures


def tables_by_hand(text: str) -> tuple[list[str], set[str]]:
    """Of the tables of figures in a page that are not made here: the heads that FACTS does not name, and the entries of
    FACTS that were found.
    """
    found = re.findall(r"(?:^\|[^\n]*\n)+", MARK.sub("", text), re.MULTILINE)
    heads = [part.split("\n")[0] for part in found if len(NUMBER.findall("".join(part.split("\n")[2:]))) >= FEW]
    names = {head: next((known for known in FACTS if head.startswith(known)), None) for head in heads}
    return [head for head, known in names.items() if known is None], {known for known in names.values() if known}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page says something else")
    check = parser.parse_args().check
    seen: set[str] = set()
    by_hand: set[str] = set()
    wrong = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        for _, name, found, _ in MARK.findall(text):
            seen.add(name)
            if found != TABLES[name]():
                wrong.append(f"{page}: the table {name!r} is not what benchmarks/results/ says")
        unknown, known = tables_by_hand(text)
        by_hand |= known
        wrong += [f"{page}: no measurement makes the table {head!r}" for head in unknown]
        made = MARK.sub(lambda m: m[1] + TABLES[m[2]]() + m[4], text)
        if made != text and not check:
            path.write_text(made, encoding="utf-8")
            print(f"{page}: written")
    wrong += [f"no page has the table {name!r}" for name in (TABLES.keys() - seen) | (FACTS.keys() - by_hand)]
    if check and wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    print(f"{len(seen)} tables in {len(PAGES)} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
