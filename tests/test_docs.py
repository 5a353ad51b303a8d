"""The examples of docs/python.md run, in their order, as one program; links between the pages lead somewhere; what a
user reads says "image" or "photo", not two more words for the same.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lite3r_cli.networks import NETWORKS

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("README.md", "CONTRIBUTING.md", "checkpoints/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]


def test_python_examples(tmp_path, monkeypatch):
    for scene in ("desk", "facade"):  # some pictures of each: the examples are to run, not to impress
        (tmp_path / "sample_scenes" / scene / "images").mkdir(parents=True)
        for picture in sorted((ROOT / "sample_scenes" / scene / "images").iterdir())[:4]:
            shutil.copy(picture, tmp_path / "sample_scenes" / scene / "images")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert {"facade.ply", "mine.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    scene, view, in_world = names["scene"], names["view"], names["in_world"]
    assert len(scene.views) == 2 and view.depth.shape == in_world.shape[:2]
    assert len(names["settings"].layers) > 0


def test_figures_are_those_of_the_measurements():
    script = ROOT / "benchmarks" / "figures.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [target for target in targets if not (page.parent / target).exists()] == []


def strings(file: Path) -> str:
    """The texts of a Python file that have spaces: help, messages, docstrings."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return "\n".join(text for text in texts if " " in text)


def test_an_image_is_called_image_or_photo():
    other = re.compile(r"(?<![\w/.-])(?:picture|photograph)s?(?![\w/(=-]|\.\w)", re.IGNORECASE)
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    help_texts = (file for part in ("commands", "config") for file in (ROOT / "lite3r_cli" / part).glob("*.py"))
    texts |= {file: strings(file) for file in help_texts}
    hits = ((path, text, hit.span()) for path, text in texts.items() for hit in other.finditer(text))
    assert [(path.name, text[first - 20 : end + 20]) for path, text, (first, end) in hits] == []


def test_the_card_is_about_the_file_that_ships():
    text = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    weights = (ROOT / "checkpoints" / "mini.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in text and f"{len(weights) / 1e6:.1f} MB" in text
    mini = next(model for model in import_module("lite3r_cli.networks.mini.published").MODELS if model.name == "mini")
    assert f"{mini.parameters / 1e6:.2f} M parameters" in text
    measured = json.loads((ROOT / "benchmarks" / "results" / "mini-accuracy.json").read_text(encoding="utf-8"))
    assert measured["models"]["mini"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_the_table_of_models_is_the_registry():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("\n## ")[0]  # later tables count files
    rows = dict(re.findall(r"^\| (`[^|]*) \| ([\d,.]+) M \|", text, re.MULTILINE))
    named = {name: float(rows[cell].replace(",", "")) for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    published = [model for name in NETWORKS for model in import_module(f"lite3r_cli.networks.{name}.published").MODELS]
    known = {model.name: model.parameters / 1e6 for model in published if not model.name.startswith("hf:")}
    assert named.keys() == known.keys()
    assert {name: count for name, count in named.items() if abs(count - known[name]) > 0.5} == {}
