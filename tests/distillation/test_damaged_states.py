"""A damaged state is refused before it is used, and no file that changes meanwhile is read as if it had not."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file
from test_distill import distiller
from test_distill_command import checkpoint, command  # noqa: F401 (a fixture)

from lite3r_cli.cli import main
from lite3r_cli.distillation.distill_loop import STATE, Distiller
from lite3r_cli.errors import WeightsError
from lite3r_cli.training.own_files import mark_of
from lite3r_cli.training.state import STATE_FORMAT


@pytest.mark.parametrize("how", ["written to", "removed"])
def test_a_teacher_that_changes_meanwhile(photographs, checkpoint, monkeypatch, capsys, how):
    genuine = Distiller.finish

    def meanwhile(self):
        genuine(self)
        data = bytearray(checkpoint.read_bytes())
        data[-1] ^= 1
        if how == "removed":
            checkpoint.unlink()  # it is still open
        else:
            checkpoint.write_bytes(data)  # in place, of the same size

    monkeypatch.setattr(Distiller, "finish", meanwhile)
    code, output = command(photographs, checkpoint)
    said = capsys.readouterr().err
    if how == "removed":
        assert code == 0 and output.exists(), said
    else:
        assert code == 4 and "was changed or replaced" in said and not output.exists(), said


def spoilt(tensors: dict[str, torch.Tensor], part: str, value: float) -> dict[str, torch.Tensor]:
    """One value of the first tensor whose name begins or ends with `part` is replaced."""
    name = next(name for name in tensors if name.startswith(part) or name.endswith(part))
    changed = tensors[name].clone()
    changed.view(-1)[0] = value
    return tensors | {name: changed}


SPOILT = {
    "no tensors": lambda tensors, metadata: ({"a": torch.zeros(1)}, metadata),
    "half an average": lambda tensors, metadata: (
        {k: v[:1] if k.startswith("average.") and v.ndim else v for k, v in tensors.items()}, metadata
    ),
    "odd optimiser": lambda tensors, metadata: (tensors | {"optimiser.0.x.exp_avg": torch.zeros(2)}, metadata),
    "optimiser of another": lambda tensors, metadata: (tensors | {"optimiser.0.0.exp_avg": torch.zeros(7)}, metadata),
    "optimiser before its first step": lambda tensors, metadata: (
        tensors | {k: v * 0 - 1 for k, v in tensors.items() if k.endswith(".step")}, metadata
    ),
    "optimiser without a number": lambda tensors, metadata: (spoilt(tensors, ".exp_avg", float("nan")), metadata),
    "negative squares": lambda tensors, metadata: (spoilt(tensors, ".exp_avg_sq", -1.0), metadata),
    "no optimiser": lambda tensors, metadata: (
        {k: v for k, v in tensors.items() if not k.startswith("optimiser.")}, metadata
    ),
    "average without a number": lambda tensors, metadata: (spoilt(tensors, "average.", float("nan")), metadata),
    "infinite parameter": lambda tensors, metadata: (spoilt(tensors, "model.", float("inf")), metadata),
    "parameters of another type": lambda tensors, metadata: (
        {k: v.double() if k.startswith("model.") else v for k, v in tensors.items()}, metadata
    ),
    "step beyond the end": lambda tensors, metadata: (tensors, metadata | {"step": "3"}),
    "step with other digits": lambda tensors, metadata: (tensors, metadata | {"step": "１"}),
    "step of many digits": lambda tensors, metadata: (tensors, metadata | {"step": "1" * 4000}),
    "settings": lambda tensors, metadata: (tensors, metadata | {"settings": "[1]"}),
    "step": lambda tensors, metadata: (tensors, metadata | {"step": "-1"}),
    "time": lambda tensors, metadata: (tensors, metadata | {"elapsed": "nan"}),
    "format": lambda tensors, metadata: (tensors, metadata | {"format": "lite3r-1"}),
}  # fmt: skip


@pytest.mark.parametrize("how", SPOILT)
def test_a_state_is_checked_before_it_is_used(tmp_path, how):
    from safetensors import safe_open

    made = distiller(tmp_path, steps=2, validate_every=2)
    made.run()
    with safe_open(tmp_path / STATE, "pt") as file:
        tensors, metadata = SPOILT[how]({k: file.get_tensor(k) for k in file.keys()}, file.metadata())
    save_file(tensors, tmp_path / STATE, metadata)
    again = distiller(tmp_path, steps=2, validate_every=2)
    with pytest.raises(WeightsError, match="state.safetensors"):
        again.resume(tmp_path / STATE)


DAMAGED = {"cut": lambda data: data[: len(data) // 2], "empty": lambda data: b"", "foreign": lambda data: b"{}" * 40}


@pytest.mark.parametrize("how", DAMAGED)
@pytest.mark.parametrize("kind", ["train", "distill"])
def test_a_damaged_state_is_refused_before_anything_slow(photographs, checkpoint, monkeypatch, capsys, kind, how):
    def slow(*given, **more):
        raise AssertionError("the state was not checked first")

    folder = checkpoint.with_name("student")
    folder.mkdir()
    metadata = {"format": STATE_FORMAT, "run": kind, "settings": "{}", "step": "1", "elapsed": "1"}
    save_file({"t": torch.zeros(9)}, folder / STATE, metadata=metadata)
    spoilt = DAMAGED[how]((folder / STATE).read_bytes())
    (folder / STATE).write_bytes(spoilt)
    for module, name in (("train_mini", "Mini"), ("distill_student", "open_checkpoint")):
        monkeypatch.setattr(f"lite3r_cli.pipelines.{module}.{name}", slow)
    if kind == "train":
        assert main(["train", "-o", str(folder), "--resume", "--device", "cpu"]) == 4
    else:
        assert command(photographs, checkpoint, "--resume")[0] == 4
    assert "student/state.safetensors: not a training state" in capsys.readouterr().err
    assert (folder / STATE).read_bytes() == spoilt and os.listdir(folder) == [STATE]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("../tiny.safetensors")], ids=["pipe", "link"])
@pytest.mark.parametrize("kind", ["train", "distill"])
def test_neither_a_pipe_nor_a_link_is_a_state(photographs, checkpoint, capsys, kind, make):
    folder = checkpoint.with_name("student")
    folder.mkdir()
    make(folder / STATE)
    for more in ([], ["--resume"]):
        if kind == "train":
            assert main(["train", "-o", str(folder), "--device", "cpu", "--max-steps", "1", *more]) in (4, 7)
        else:
            assert command(photographs, checkpoint, *more)[0] in (2, 4, 7)
        assert "student" in capsys.readouterr().err and os.listdir(folder) == [STATE]


@pytest.mark.parametrize("name", ["mini.safetensors", "average.safetensors"])
def test_train_goes_on_only_beside_its_own_checkpoints(tmp_path, capsys, name):
    metadata = {"format": STATE_FORMAT, "run": "train", "settings": "{}", "step": "1", "elapsed": "1", "tensors": "1"}
    save_file({"t": torch.zeros(9)}, tmp_path / STATE, metadata=metadata)
    words = ["train", "-o", str(tmp_path), "--resume", "--device", "cpu"]
    for mine in ({}, {"run": mark_of("{} ")}):
        save_file({"t": torch.zeros(1)}, tmp_path / name, metadata=mine)
        before = (tmp_path / name).read_bytes()
        assert main(words) == 7 and f"{name}: is in the way" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == before
    save_file({"t": torch.zeros(1)}, tmp_path / name, metadata={"run": mark_of("{}")})
    assert main(words) == 2 and "was made with" in capsys.readouterr().err  # the settings of the state are no run's
