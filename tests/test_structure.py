"""The house rules that a machine can check: imports point downwards, files stay short, a file name occurs once."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from collections.abc import Container, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lite3r_cli"
MAX_LINES = 400

# From the top to the ground. A module may import from its own floor and from those below it.
FLOORS = (
    {"__main__", "worker_entry"},
    {"entry"},
    {"cli"},
    {"commands"},
    {"api"},
    {"pipelines", "batch", "bench"},
    {"long", "world", "networks", "distillation", "training", "data", "refine", "splats", "viewer"},
    {"engine", "checkpoints", "io"},
    {"attention", "quant"},
    {"layers"},
    {"scene"},
    {"config", "children", "console", "cores", "cuda_start", "errors", "extras", "ranks", "runtime", "stopping"},
)
FLOOR = {name: len(FLOORS) - i for i, names in enumerate(FLOORS) for name in names}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def top(path: Path) -> str:
    """The entry of FLOORS that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """The entries of FLOORS that a file imports from, wherever in the file and for whatever purpose."""
    parts = ("lite3r_cli", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level] if node.level else ()
            source = [*base, *(node.module.split(".") if node.module else [])]
            names = [[*source, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        yield from {name[1] for name in names if name[0] == "lite3r_cli" and len(name) > 1 and name[1] in FLOOR}


def test_every_module_has_a_floor() -> None:
    assert {top(path) for path in modules()} - FLOOR.keys() == {"__init__"}


def test_imports_point_downwards() -> None:
    upwards = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in modules()
        if top(path) in FLOOR
        for name in imported(path)
        if FLOOR[name] > FLOOR[top(path)]
    }
    assert not upwards


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run_on_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from run_on_import([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from run_on_import(node.body)


def needed_first(path: Path, names: Container[str]) -> Iterator[str]:
    """The modules that this one imports when it is loaded, without the packages that contain it."""
    name = module_name(path)
    package = name.split(".")[: None if path.stem == "__init__" else -1]
    for node in run_on_import(tree(path).body):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found = [source, *(f"{source}.{alias.name}" for alias in node.names)]
        for parts in (each.split(".") for each in found):
            above = (".".join(parts[:k]) for k in range(1, len(parts) + 1))
            yield from (each for each in above if each in names and not f"{name}.".startswith(f"{each}."))


def test_any_module_can_be_imported_first() -> None:
    """There is no cycle of imports: whether a cycle works depends on what was imported before."""
    files = {module_name(path): path for path in modules()}
    graph = {name: set(needed_first(path, files)) for name, path in files.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the modules


def test_files_are_short() -> None:
    files = [path for part in ("lite3r_cli", "tests", "benchmarks") for path in (ROOT / part).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {str(path): length for path, length in lengths.items() if length > MAX_LINES}


def test_a_file_name_occurs_once() -> None:
    """The folders of the networks have the same files each: those names count once."""
    places = {
        (path.name, "networks/*" if path.parent.parent == PACKAGE / "networks" else str(path.parent))
        for path in modules()
        if path.stem != "__init__"
    }
    names = Counter(name for name, _ in places)
    assert not {name for name, count in names.items() if count > 1}


DOCUMENTED = (
    "scene",
    "attention",
    "quant",
    "networks",
    "checkpoints",
    "api.py",
    "layers/dense.py",
    "layers/fa4_backend.py",
    "runtime.py",
    "errors.py",
)  # every public function, class and method has a docstring


def without_docstring(path: Path) -> Iterator[str]:
    """The public functions, classes and methods of a file that have none; `forward` is its class's."""
    for node in tree(path).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        methods = [
            m for m in getattr(node, "body", []) if isinstance(node, ast.ClassDef) and isinstance(m, ast.FunctionDef)
        ]
        for method in methods:
            own = not method.name.startswith("_") and method.name not in ("forward", "extra_repr")
            if own and ast.get_docstring(method) is None:
                yield f"{node.name}.{method.name}"


def test_what_is_public_explains_itself() -> None:
    missing = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for package in DOCUMENTED
        for path in (PACKAGE / package, *sorted((PACKAGE / package).rglob("*.py")))
        if path.suffix == ".py"
        for name in without_docstring(path)
    }
    assert not missing


def test_what_the_library_offers_explains_itself() -> None:
    import lite3r_cli

    assert not [name for name in lite3r_cli.__all__ if name != "__version__" and not getattr(lite3r_cli, name).__doc__]


def test_the_names_that_benchmarks_and_tests_import_exist():
    """No other test runs every benchmark; without this one a moved function would be noticed only when figures are
    made.
    """
    missing = []
    for file in sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lite3r_cli")):
                continue
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                folders = [Path(folder) for folder in getattr(module, "__path__", ())]
                if not hasattr(module, name) and not any((f / name).with_suffix(".py").is_file() for f in folders):
                    missing.append(f"{file.name}: {node.module}.{name}")
    assert not missing
