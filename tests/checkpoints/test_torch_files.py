"""torch's files: damaged, repacked or non-tensor contents are refused with the reason; valid ones are read exactly."""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from lite3r_cli.checkpoints import tensor_sources as sources
from lite3r_cli.checkpoints.tensor_sources import open_source
from lite3r_cli.checkpoints.weights import read_float
from lite3r_cli.errors import WeightsError

STATE = {"a": torch.arange(3000.0), "b": torch.arange(7, dtype=torch.float16), "c": torch.arange(4000.0).view(2, 2000)}


def saved(content: object = None, **options) -> bytes:
    out = io.BytesIO()
    torch.save(STATE if content is None else content, out, **options)
    return out.getvalue()


def repacked(change: Callable[[str, bytes], bytes], kind: int = zipfile.ZIP_STORED, twice: str = "") -> bytes:
    out, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(saved()))
    with zipfile.ZipFile(out, "w", kind) as archive:
        for item in source.infolist():
            archive.writestr(item.filename, change(item.filename, source.read(item)))
            if twice and item.filename.endswith(twice):
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr(item.filename, source.read(item))
    return out.getvalue()


def hole(size: int) -> bytes:
    data = bytearray(saved())
    at = data.index(STATE["c"].numpy().tobytes()[:64]) + 402
    data[at : at + size] = bytes(size)
    return bytes(data)


def far_away(data: bytes) -> bytes:
    """The archive, whose directory says that its first record lies behind the end of the file."""
    place = data.index(b"PK\x01\x02") + 42
    return data[:place] + b"\xfe\xff\xff\x7f" + data[place + 4 :]


REFUSED = {
    "record half": (lambda: repacked(lambda n, d: d[: len(d) // 2] if n.endswith("/data/0") else d), "shorter"),
    "largest record short": (lambda: repacked(lambda n, d: d[:-4] if n.endswith("/data/2") else d), "shorter"),
    "hole": (lambda: hole(4096), "damaged"),
    "one byte": (lambda: hole(1), "damaged"),
    "compressed": (lambda: repacked(lambda n, d: d, zipfile.ZIP_DEFLATED), "compression"),
    "two of one name": (lambda: repacked(lambda n, d: d, twice="/data/1"), "two records"),
    "pickle cut": (lambda: repacked(lambda n, d: d[:-40] if n.endswith("data.pkl") else d), "damaged"),
    "cut": (lambda: saved()[:-100], "damaged"),
    "TorchScript": (lambda: repacked(lambda n, d: d) + b"", ""),
    "safetensors": (lambda: save(STATE), "safetensors"),
    "page of the web": (lambda: b"<!DOCTYPE html><title>404</title>", "its content is none"),
    "arguments beside": (lambda: saved({"model": STATE, "args": argparse.Namespace(lr=1)}), "argparse.Namespace"),
    "records beyond the end": (lambda: far_away(saved()), ""),
    "int key": (lambda: saved({5: torch.ones(1), **STATE}), "called '5'"),
    "bytes key": (lambda: saved({b"k": torch.ones(1), **STATE}), "no text"),
    "sparse": (lambda: saved({**STATE, "s": torch.eye(3).to_sparse()}), "sparse"),
    "meta": (lambda: saved({**STATE, "m": torch.empty(2, device="meta")}), "meta"),
    "quantised": (lambda: saved({**STATE, "q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}), ""),
    "another FP8": (lambda: saved({**STATE, "f": torch.zeros(2).to(torch.float8_e4m3fnuz)}), "float8_e4m3fnuz"),
    "complex": (lambda: saved({**STATE, "z": torch.zeros(2, dtype=torch.complex64)}), "complex"),
    "number": (lambda: saved(3), "state dict"),
    "empty": (lambda: saved({}), "state dict"),
}
del REFUSED["TorchScript"]  # has a test of its own


@pytest.mark.filterwarnings("ignore:.*quantiz.*", "ignore::DeprecationWarning", "ignore:TypedStorage")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_whole_or_not_plain_is_refused(tmp_path: Path, kind: str) -> None:
    make, word = REFUSED[kind]
    (tmp_path / "m.pt").write_bytes(make())
    with pytest.raises(WeightsError) as caught, open_source(tmp_path / "m.pt"):
        pass
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'm.pt'}: ") and word in said and "\n" not in said


def test_a_program_is_not_weights(tmp_path: Path) -> None:
    source, path = zipfile.ZipFile(io.BytesIO(saved())), tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for item in source.infolist():
            archive.writestr(item.filename, source.read(item))
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
    with pytest.raises(WeightsError, match="TorchScript"):
        open_source(path)


SHARED = torch.arange(10.0)
READ = {
    "repacked as it was": lambda: repacked(lambda n, d: d),
    "before 1.6": lambda: saved(_use_new_zipfile_serialization=False),
    "as state_dict": lambda: saved({"epoch": 3, "state_dict": STATE}),
    "as model_state_dict": lambda: saved({"model_state_dict": STATE, "loss": 0.1}),
    "with an optimiser": lambda: saved({"model": STATE, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}),
}


@pytest.mark.parametrize("kind", READ)
def test_what_is_sound_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "m.pt").write_bytes(READ[kind]())
    with open_source(tmp_path / "m.pt") as source:
        assert all(torch.equal(source.read(name), value) for name, value in STATE.items())


def test_views_of_one_storage_and_files_without_checksums(tmp_path: Path) -> None:
    content = {"whole": SHARED, "part": SHARED[3:5], "across": SHARED.view(2, 5).T, "none": torch.empty(0)}
    before = torch.serialization.get_crc32_options() if hasattr(torch.serialization, "get_crc32_options") else None
    if before is not None:
        torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "m.pt")
    finally:
        if before is not None:
            torch.serialization.set_crc32_options(before)
    with open_source(tmp_path / "m.pt") as source:
        assert all(torch.equal(source.read(name), value) for name, value in content.items())


def test_the_environment_and_the_system_are_not_called_damage(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "m.pt").write_bytes(saved())
    with monkeypatch.context() as patch, pytest.raises(WeightsError, match="unset them"):
        for name in ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
            patch.setenv(name, "1")
        open_source(tmp_path / "m.pt")
    (tmp_path / "m.safetensors").write_bytes(save(STATE))
    for error in (OSError(24, "Too many open files"), sources.SafetensorError("Too many open files (os error 24)")):

        def full(*arguments, error=error):
            raise error

        with monkeypatch.context() as patch, pytest.raises(WeightsError, match="ulimit -n"):
            patch.setattr(sources, "safe_open", full)
            open_source(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value, sound", [(1e300, False), (-1e39, False), (1e38, True), (1e-300, True)])
def test_float64_beyond_float32_is_refused_where_it_is_read(tmp_path: Path, value: float, sound: bool) -> None:
    (tmp_path / "m.safetensors").write_bytes(save({"a": torch.tensor([0.0, value], dtype=torch.float64)}))
    with open_source(tmp_path / "m.safetensors") as source:
        if sound:
            assert read_float(source, "a").dtype == torch.float32
        else:
            with pytest.raises(WeightsError, match="beyond float32"):
                read_float(source, "a")


@pytest.mark.parametrize("size", [0x0280, 0x0580])
def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path, size: int) -> None:
    plain = save(STATE, {"x": ""})
    path = tmp_path / "m.safetensors"
    path.write_bytes(save(STATE, {"x": " " * (size - int.from_bytes(plain[:8], "little"))}))
    assert path.read_bytes()[:8] == size.to_bytes(8, "little")
    with open_source(path) as source:
        assert torch.equal(source.read("a"), STATE["a"])
