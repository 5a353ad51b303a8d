"""A training state belongs to one step of one run with one data set, and this is checked when it is read."""

from __future__ import annotations

import json
import os
import pkgutil
import re
import signal
import socket

import numpy as np
import pytest
import torch
from conftest import photograph
from safetensors.torch import load_file, save_file
from test_distill import CPU, distiller, mini
from test_distill_command import checkpoint, command  # noqa: F401 (a fixture)

from lite3r_cli.cli import main
from lite3r_cli.commands import lazy
from lite3r_cli.config.training_run import LoopConfig, TrainConfig
from lite3r_cli.distillation import distill_loop as loop
from lite3r_cli.distillation.distill_loop import STATE, Distiller
from lite3r_cli.errors import InputError, OutputError, UsageError
from lite3r_cli.io.locks import run_folder
from lite3r_cli.pipelines import train_mini
from lite3r_cli.stopping import between_steps
from lite3r_cli.training.optimiser import DivergedError, WeightAverage
from lite3r_cli.training.state import STATE_FORMAT, Dependencies, save_weights, saved_as_it_stops

WHERE = {
    "measuring": (Distiller, "_distance"),
    "averaging": (WeightAverage, "update"),
    "stepping": (torch.optim.AdamW, "step"),
    "logging": (Distiller, "_log"),
    "saving": (loop, "save_training_state"),
    "losses": (Distiller, "losses"),
}


def finished(made: Distiller) -> dict[str, torch.Tensor]:
    with saved_as_it_stops(made, CPU, lambda text: None), between_steps() as signals:
        made.run(between=signals.obey)
    return load_file(made.folder / STATE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, torch.Tensor]:
    return finished(distiller(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("call", [2, 3])
@pytest.mark.parametrize("where", WHERE)
def test_stopped_anywhere_a_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, whole, where, call):
    owner, name = WHERE[where]
    genuine, calls = getattr(owner, name), []

    def hit(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return genuine(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, hit)
        finished(distiller(tmp_path))
    made = distiller(tmp_path)
    made.resume(tmp_path / STATE)
    resumed = finished(made)
    assert resumed.keys() == whole.keys()
    assert not [name for name in whole if not torch.equal(whole[name], resumed[name])]


def test_a_second_signal_is_obeyed_at_once_and_costs_the_steps_since_the_last_save(tmp_path, monkeypatch):
    genuine = WeightAverage.update

    def twice(self, step):
        if step == 5:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        genuine(self, step)

    monkeypatch.setattr(WeightAverage, "update", twice)
    made = distiller(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finished(made)
    monkeypatch.undo()
    again = distiller(tmp_path)
    again.resume(tmp_path / STATE)
    assert again.step == 4 and not made.whole  # saved at step 4; what it was in is of no step


@pytest.mark.parametrize("error, saved", [(InputError("gone"), 3), (DivergedError("nan"), 0), (RuntimeError("bug"), 0)])
def test_an_expected_error_saves_the_last_step_and_others_do_not(tmp_path, monkeypatch, error, saved):
    genuine = Distiller.losses

    def fails(self, batch):
        if self.step == 3:
            raise error
        return genuine(self, batch)

    monkeypatch.setattr(Distiller, "losses", fails)
    with pytest.raises(type(error)):
        finished(distiller(tmp_path))
    again = distiller(tmp_path)
    again.resume(tmp_path / STATE)
    assert again.step == saved


def test_out_of_memory_while_measuring_leaves_the_weights_in_place(tmp_path, monkeypatch):
    made = distiller(tmp_path)
    made.run()
    before = {name: p.detach().clone() for name, p in made.trained.named_parameters()}
    monkeypatch.setattr(Distiller, "_distance", lambda self, network, batch: [][0])
    with pytest.raises(IndexError):
        made.validate()
    assert all(torch.equal(p, before[name]) for name, p in made.trained.named_parameters())


# -- another run -------------------------------------------------------------------------------------------------------


def test_resume_with_other_data_is_refused_by_name(photographs, checkpoint, tmp_path, capsys):
    code, output = command(photographs, checkpoint)
    assert code == 0, capsys.readouterr().err
    output.unlink()
    photograph(photographs(5) / "z.png", 98, 70, seed=77)
    assert command(photographs, checkpoint, "--resume")[0] == 2
    said = capsys.readouterr().err
    assert "data = " in said and "--resume-anyway" in said and not output.exists()
    code, _ = command(photographs, checkpoint, "--resume-anyway", "--lr", "0.01")
    told = capsys.readouterr().err
    assert code == 0 and "data = " in told and "lr = 0.001, not 0.01" in told and output.exists()


OTHERS = {"train": "of lite3r train", "old": "older version", "stranger": "not a training state", "log": "in the way"}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_folder_that_is_not_of_this_command_is_left_alone(photographs, checkpoint, tmp_path, kind, capsys):
    folder = tmp_path / "student"
    folder.mkdir()
    if kind in ("train", "old"):
        metadata = {"format": "lite3r-state-1", "run": "train", "settings": "{}", "step": "5", "elapsed": "1.0"}
        if kind == "old":
            metadata = {"format": "lite3r-1", "model": "mini", "config": "{}", "step": "5", "elapsed": "1.0"}
        save_file({"a": torch.zeros(1)}, folder / STATE, metadata)
    if kind == "stranger":
        (folder / STATE).write_bytes(b"a state of the union")
    (folder / "log.jsonl").write_bytes(b"years of work")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for more in ([], ["--overwrite"], ["--resume"]):
        code, output = command(photographs, checkpoint, *more)
        said = capsys.readouterr().err
        assert code in (2, 4, 7) and not output.exists(), said
        assert OTHERS[kind] in said or (kind == "log" and more == ["--resume"]), said
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_neither_the_teacher_nor_what_a_link_leads_to_is_written(tmp_path, photographs, checkpoint, capsys):
    teacher = checkpoint.read_bytes()
    options = ["distill", str(photographs(5)), "-m", str(checkpoint), "--steps", "2", "--views", "4", "-r", "70", "-q"]
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    for name, words in ((checkpoint.name, "the checkpoint that is read"), ("link.safetensors", "it is a link")):
        assert main([*options, "-o", str(tmp_path / name), "--overwrite"]) == 7
        assert words in capsys.readouterr().err
    assert checkpoint.read_bytes() == teacher and not list((tmp_path / "home").iterdir())
    assert not checkpoint.with_suffix("").exists()


def test_two_runs_in_one_folder(tmp_path, photographs, checkpoint, capsys):
    with run_folder(tmp_path / "student"):
        assert command(photographs, checkpoint)[0] == 7
        assert "another run is writing here" in capsys.readouterr().err
    assert not (tmp_path / "student").exists()
    with pytest.raises(OutputError), run_folder(tmp_path / "tiny.safetensors"):
        pass


def test_what_a_run_wrote_meanwhile_is_not_replaced(photographs, checkpoint, tmp_path, monkeypatch, capsys):
    genuine = Distiller.finish

    def meanwhile(self):
        genuine(self)
        (tmp_path / "student.safetensors").write_bytes(b"of another run")

    monkeypatch.setattr(Distiller, "finish", meanwhile)
    code, output = command(photographs, checkpoint)
    assert code == 7 and output.read_bytes() == b"of another run", capsys.readouterr().err


def test_differences_are_named_and_long_values_are_short(tmp_path):
    made = distiller(tmp_path, steps=1)
    made.run()
    other = Dependencies("distill", {"recipe": {"lr": 1}, "inputs": {"teacher": "f" * 64}})
    with pytest.raises(UsageError, match="teacher = None, not f{12}….*and .* more"):
        other.check(tmp_path / STATE, print)
    with pytest.raises(UsageError, match="of lite3r distill, not of train"):
        Dependencies("train", {}).check(tmp_path / STATE, print)
    named = {"format": STATE_FORMAT, "run": "x" * 3000, "settings": "{}", "step": "1", "elapsed": "1"}
    save_file({"t": torch.zeros(1)}, tmp_path / "long.safetensors", metadata=named)
    with pytest.raises(UsageError, match="of lite3r x{12}…, not of train"):
        Dependencies("train", {}).check(tmp_path / "long.safetensors", print)


@pytest.mark.parametrize(("kind", "advice"), [("distill", "--overwrite"), ("train", "with another -o")])
def test_the_advice_is_an_option_that_the_command_has(tmp_path, kind, advice):
    metadata = {"format": STATE_FORMAT, "run": kind, "settings": '{"recipe": {"lr": 2}}', "step": "1", "elapsed": "1"}
    save_file({"t": torch.zeros(1)}, tmp_path / STATE, metadata=metadata)
    with pytest.raises(UsageError, match="lr = 2, not 1") as refused:
        Dependencies(kind, {"recipe": {"lr": 1}}).check(tmp_path / STATE, print)
    assert advice in str(refused.value)
    options = {word for word in lazy.build(kind).params for word in word.opts}
    assert set(re.findall(r"(?<!\\w)--?[a-z][a-z-]*", str(refused.value).split("; ")[-1])) <= options


# -- the environment ---------------------------------------------------------------------------------------------------

PLACES = [
    {"RANK": "1"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "x"}, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"RANK": "a", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999999"},
    {"RANK": "0", "WORLD_SIZE": "9" * 23, "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29514"},
    {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "00000000129500"},
    {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "no.such.host.invalid", "MASTER_PORT": "1"},
]  # fmt: skip


@pytest.mark.parametrize("left_over", PLACES, ids=lambda each: " ".join(f"{k}={v}" for k, v in each.items()))
def test_an_environment_that_only_looks_like_torchruns(photographs, checkpoint, monkeypatch, capsys, left_over):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    code, output = command(photographs, checkpoint)
    assert code == 2 and "torchrun" in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize("kind", ["train", "distill"])
def test_a_port_in_use_is_no_bug(photographs, checkpoint, monkeypatch, tmp_path, capsys, kind):
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
        for name, value in (place | {"MASTER_PORT": other.getsockname()[1]}).items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        if kind == "train":
            code = main(["train", "-o", str(tmp_path / "t"), "--max-steps", "1", "--device", "cpu"])
        else:
            code, _ = command(photographs, checkpoint, "--device", "cpu")
    assert code == 5 and "choose another MASTER_PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, code", [("--device gpu", 2), ("--device cuda", 5), ("--dtype float99", 2), ("--seed -1", 2)]
)
def test_devices_and_precisions_are_checked_as_everywhere(photographs, checkpoint, capsys, words, code):
    if torch.cuda.is_available() and code == 5:
        pytest.skip("there is a CUDA device")
    assert command(photographs, checkpoint, *words.split())[0] == code
    assert words.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", ["--device gpu", "--seed -1", "--max-steps 0", "--budget-minutes inf"])
def test_the_same_for_train(tmp_path, capsys, words):
    assert main(["train", "-o", str(tmp_path / "t"), *words.split()]) == 2
    assert words.split()[0] in capsys.readouterr().err and not os.listdir(tmp_path)


def test_train_leaves_files_of_its_names_alone(tmp_path, capsys):
    (tmp_path / "mini.safetensors").write_bytes(b"mine")
    for more in ([], ["--resume"]):
        assert main(["train", "-o", str(tmp_path), "--max-steps", "1", *more]) in (2, 7)
    assert os.listdir(tmp_path) == ["mini.safetensors"] and json.loads("1")


def recorded(monkeypatch, **slow: str) -> list[str]:
    """A list to which the name of each function is added when it is called."""
    calls: list[str] = []
    for name, place in slow.items():
        genuine = pkgutil.resolve_name(f"lite3r_cli.{place}")

        def called(*given, name=name, genuine=genuine, **more):
            calls.append(name)
            return genuine(*given, **more)

        monkeypatch.setattr(f"lite3r_cli.{place}", called)
    return calls


def test_distill_compares_each_value_with_the_state_before_anything_slower(
    photographs, checkpoint, tmp_path, monkeypatch, capsys
):
    assert command(photographs, checkpoint, "--seed", "1")[0] == 0
    (tmp_path / "student.safetensors").unlink()
    np.savez(tmp_path / "textures.npz", data=np.zeros(1, np.uint8), offsets=np.array([0, 1]))
    other, model = tmp_path / "other.safetensors", mini(seed=2)
    save_weights(other, model.state_dict(), model, torch.float8_e4m3fn)
    calls = recorded(
        monkeypatch, teacher="pipelines.distill_student.open_checkpoint", data="distillation.distill_data._splits",
        scenes="distillation.distill_data.ProceduralSource", weights="networks.checkpoint.Checkpoint.load",
        loop="pipelines.distill_student.Distiller",
    )  # fmt: skip
    cases = {
        "--seed 2": ("seed = 1, not 2", []), "--lr 0.01": ("lr = ", []), "--dtype bfloat16": ("dtype = ", []),
        f"--textures {tmp_path / 'textures.npz'}": ("textures = ", []), "-r 84": ("resolution = ", []),
        f"-m {other}": ("teacher = ", ["teacher"]), "--keep-ratio 0.5": ("keep_ratio = ", ["teacher"]),
        "procedural": ("data = ", ["teacher", "data"]),
    }  # fmt: skip
    for words, (told, before) in cases.items():
        calls.clear()
        assert command(photographs, checkpoint, "--resume", "--seed", "1", *words.split())[0] == 2
        assert told in capsys.readouterr().err and calls == before, words
    assert command(photographs, checkpoint, "--resume-anyway", "--seed", "2")[0] == 0
    assert capsys.readouterr().err.count("--resume-anyway: ") == 1
    assert calls[2:] == ["teacher", "data", "weights", "loop"]


def test_train_compares_each_value_with_the_state_before_anything_slower(tmp_path, monkeypatch, capsys):
    parts = json.loads(train_mini._dependencies(TrainConfig(LoopConfig(tmp_path)), CPU).to_json())
    calls = recorded(
        monkeypatch, photos="pipelines.train_mini.content_of", network="pipelines.train_mini.Mini",
        data="pipelines.train_mini.TrainingData",
    )  # fmt: skip
    metadata = {"format": STATE_FORMAT, "run": "train", "step": "1", "elapsed": "1"}
    for group, name, before in (("loop", "lr", []), ("shapes", "tokens", []), ("inputs", "photos", ["photos"] * 2)):
        calls.clear()
        settings = json.dumps(parts | {group: parts[group] | {name: 7}})
        save_file({"t": torch.zeros(1)}, tmp_path / STATE, metadata=metadata | {"settings": settings})
        assert main(["train", "-o", str(tmp_path), "--resume", "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert f"{name} = 7" in said and "--resume-anyway" in said and calls == before
