"""SHA-256 of a checkpoint, which `run.json` records. It is computed in the background, once per version of a file.

Reading a network of 5 GB takes seconds. Therefore the result is cached in the user's cache folder, with size,
modification times and inode of every file; if one of them differs, the file is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path

from lite3r_cli.checkpoints.shards import Identities, changed, identities, shard_files
from lite3r_cli.errors import WeightsError

BLOCK = 1 << 22  # bytes read at a time
KEPT = 100  # most checkpoints in the cache
UNFINISHED = ".fingerprints-"  # prefix of the file name while the cache is written
STALE = 60.0  # seconds after which such a file is taken as left by a killed process


def fingerprint(path: Path) -> str:
    """The SHA-256 (hex) of a checkpoint file, or of an index followed by its shards. Raises OSError."""
    return Fingerprint(path).result()


class Fingerprint:
    """A fingerprint from the cache, or computed by a background thread that starts here. `seen` are the `identities` of
    the files when they were opened.
    """

    def __init__(self, path: Path, seen: Identities | None = None) -> None:
        self._path, self._seen, self._value = path, seen, _look_up(path)
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        if self._value is not None:
            self._error = self._changed()
        else:
            # a daemon thread, so that the program can exit without waiting for it
            self._thread = threading.Thread(target=self._compute, name="fingerprint", daemon=True)
            self._thread.start()

    def result(self) -> str:
        """Wait for the fingerprint and return it. Raises OSError if the file cannot be read, WeightsError if it was
        changed since it was opened.
        """
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    def _compute(self) -> None:
        try:
            before = _marks(self._path)
            digest = hashlib.sha256()
            for part in shard_files(self._path):
                with part.open("rb") as file:
                    while block := file.read(BLOCK):
                        digest.update(block)
            self._error = self._changed()
            self._value = digest.hexdigest()
            if before == _marks(self._path):
                _remember(self._path, before, self._value)
        except Exception as error:  # `result` raises it
            self._error = error

    def _changed(self) -> WeightsError | None:
        return changed(self._path) if self._seen not in (None, identities(self._path)) else None


def _marks(path: Path) -> list[list[int]]:
    """Size, times of the last change of content and of status, and inode of each file of a checkpoint. Programs that
    copy a file over another one set the former time, but not the latter.
    """
    stats = [part.stat() for part in shard_files(path)]
    return [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat in stats]


def cache_file() -> Path:
    """The path of the cache, in the user's cache folder (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return folder / "lite3r" / "fingerprints.json"


def _read_cache() -> dict[str, dict[str, object]]:
    """Checkpoint path → marks and value. Empty if there is no cache, or if other users could have written it."""
    try:
        file = cache_file()
        stat = file.stat()
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
            return {}
        known = json.loads(file.read_text(encoding="utf-8"))
        return {k: v for k, v in known.items() if isinstance(v, dict)} if isinstance(known, dict) else {}
    except (OSError, ValueError, RecursionError, RuntimeError):  # RuntimeError: there is no home folder
        return {}


def _look_up(path: Path) -> str | None:
    try:
        entry = _read_cache().get(str(path.resolve()))
        value = entry.get("sha256") if entry is not None and entry.get("marks") == _marks(path) else None
    except OSError:
        return None
    return value if isinstance(value, str) and len(value) == 64 else None


def _remember(path: Path, marks: list[list[int]], value: str) -> None:
    """Add an entry to the cache. Errors are ignored: without the entry, the file is read again next time."""
    try:
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = _read_cache()
        known.pop(str(path.resolve()), None)
        kept = dict(list(known.items())[-(KEPT - 1) :])
        kept[str(path.resolve())] = {"marks": marks, "sha256": value}
        for left in file.parent.glob(f"{UNFINISHED}*"):  # left by killed processes
            if time.time() - left.lstat().st_mtime > STALE:
                left.unlink()
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=UNFINISHED)
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                json.dump(kept, stream)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, RuntimeError):
        return
