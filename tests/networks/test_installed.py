"""Networks of other installed packages are found by their entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lite3r_cli.cli import main
from lite3r_cli.networks import installed
from lite3r_cli.networks.family import families


@pytest.fixture
def package(tmp_path, monkeypatch):
    """package("name", "source") → an installed package with that module under the entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, source: str) -> Path:
        info = tmp_path / f"{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(f"[{installed.GROUP}]\n{name} = {name}\n")
        (tmp_path / f"{name}.py").write_text(source)
        return tmp_path

    return install


def test_an_installed_network_is_imported_once_when_families_are_asked_for(package):
    package("some_network", "from lite3r_cli.networks.family import families\nKNOWN = set(families())\n")
    assert {"mini", "vggt"} <= set(families())
    assert {"mini", "vggt"} <= sys.modules["some_network"].KNOWN  # it may ask for the others while it is imported
    first = sys.modules["some_network"]
    families()
    assert sys.modules["some_network"] is first


def test_one_that_cannot_be_imported_is_named(package, capsys):
    package("broken_network", "import nothing_like_this\n")
    assert main(["models"]) == 5
    error = capsys.readouterr().err
    assert "broken_network" in error and "nothing_like_this" in error and error.count("\n") == 1
