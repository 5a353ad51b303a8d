"""Check a wheel and a source archive: python check_wheel.py DIST."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path

WHEEL = ("lite3r_cli/api.py", "lite3r_cli/py.typed", "lite3r_cli/checkpoints/mini.safetensors")
SOURCE = ("README.md", "CHANGELOG.md", "tests/conftest.py", "sample_scenes/aloe/NOTICE.md", "LICENSES/Apache-2.0.txt")
LARGEST = 30e6  # bytes


def main(folder: Path) -> None:
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    with tarfile.open(source) as archive:
        inside = [name.partition("/")[2] for name in archive.getnames()]
    assert not [name for name in WHEEL if name not in names], "the wheel lacks something"
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))], "tests in the wheel"
    assert not [name for name in SOURCE if name not in inside], "the source archive lacks something"
    assert not re.search(r"\]\((?!https?:|#)", metadata), "README on an index has a link that leads nowhere"
    assert "License-Expression: MIT AND Apache-2.0 AND BSD-3-Clause" in metadata
    for file in (wheel, source):
        assert file.stat().st_size < LARGEST, f"{file.name}: {file.stat().st_size / 1e6:.1f} MB"
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
