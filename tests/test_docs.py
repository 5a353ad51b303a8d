"""The examples of docs/python.md run, in their order, as one program; links between the pages lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
