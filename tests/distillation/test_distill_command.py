"""The command `distill`: its outputs, how it stops and how it resumes."""

import json

import pytest
import torch
from test_distill import mini, pictures

from lite3r_cli.distillation.distill_loop import Distiller
from lite3r_cli.networks import registry
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.sparsify import skipped_share, sparse_modules
from lite3r_cli.training.state import save_weights


def facts_of(name):
    with open_checkpoint(name) as checkpoint:
        return checkpoint.facts


@pytest.fixture
def checkpoint(tmp_path):
    model = mini()
    save_weights(tmp_path / "tiny.safetensors", model.state_dict(), model, torch.float8_e4m3fn)
    return tmp_path / "tiny.safetensors"


def command(photographs, checkpoint, *more):
    from lite3r_cli.cli import main

    folder = photographs(5)
    output = checkpoint.with_name("student.safetensors")
    options = ["--steps", "4", "--views", "4", "-r", "70", "--block", "4"]
    options += ["--calibration-batches", "2", "--validate-every", "2"]
    return main(["distill", str(folder), "-o", str(output), "-m", str(checkpoint), *options, *more]), output


def test_the_checkpoint_holds_both_forms(photographs, checkpoint, capsys):
    code, output = command(photographs, checkpoint, "--json", "--device", "cpu")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    report = json.loads(captured.out)
    assert report["trained"] == 3 * 16 * 16 and report["steps"] == 4 and report["skipped"] > 0.6
    student, teacher = registry.load(str(output)), registry.load(str(checkpoint))
    images = list(pictures(3)[0])
    assert not torch.equal(student.predict(images).depth[1], teacher.predict(images).depth[1])
    assert skipped_share(student) > 0.6
    for module in sparse_modules(student).values():
        module.backend = "dense"
    torch.testing.assert_close(student.predict(images).depth[1], teacher.predict(images).depth[1])
    assert facts_of(str(output)).fp8_trained
    assert (output.with_suffix("") / "losses.png").is_file() and not list(output.parent.glob(".*partial*"))
    again, _ = command(photographs, checkpoint)
    assert again == 7 and "--overwrite" in capsys.readouterr().err


def test_ctrl_c_saves_and_the_same_command_goes_on(photographs, checkpoint, monkeypatch, capsys):
    step = Distiller.train_step

    def interrupted(self, data):
        if self.step == 2:
            raise KeyboardInterrupt
        return step(self, data)

    monkeypatch.setattr(Distiller, "train_step", interrupted)
    code, output = command(photographs, checkpoint)
    assert code == 130 and not output.exists()
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(Distiller, "train_step", step)
    assert command(photographs, checkpoint)[0] == 7  # a run is there
    code, output = command(photographs, checkpoint, "--resume")
    assert code == 0 and output.exists()


def test_overwrite_touches_nothing_before_its_first_save(photographs, checkpoint, monkeypatch, capsys):
    code, output = command(photographs, checkpoint)
    assert code == 0, capsys.readouterr().err
    files = {path: path.read_bytes() for path in output.parent.rglob("student*/**/*") if path.is_file()}
    files |= {output: output.read_bytes()}
    assert {path.name for path in files} == {"student.safetensors", "state.safetensors", "log.jsonl", "losses.png"}

    def unchanged() -> bool:
        return all(path.read_bytes() == content for path, content in files.items())

    missing = checkpoint.with_name("missing.safetensors")
    assert command(photographs, missing, "--overwrite")[0] == 4 and unchanged()
    assert command(photographs, checkpoint, "--overwrite", "--textures", str(missing))[0] == 2 and unchanged()
    step = Distiller.train_step

    def broken(self, data):
        if self.step == 1:
            raise RuntimeError("broken")
        return step(self, data)

    monkeypatch.setattr(Distiller, "train_step", broken)
    assert command(photographs, checkpoint, "--overwrite")[0] == 1 and unchanged()
    monkeypatch.setattr(Distiller, "train_step", step)
    code, output = command(photographs, checkpoint, "--overwrite", "--seed", "7")
    assert code == 0 and not unchanged()
    log = (output.with_suffix("") / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [0, 2, 4, 4]  # of the new run alone


@pytest.mark.parametrize("words", ["distill {0} -o {0}.safetensors", "distill {0} -o {0}/one.safetensors",
                                   "train --photos {0} -o {0}", "train --photos {0} -o {0}/one"])  # fmt: skip
def test_a_run_leaves_no_files_among_its_data(tmp_path, monkeypatch, capsys, words):
    from lite3r_cli.cli import main

    monkeypatch.chdir(tmp_path)
    photo = tmp_path / "desk/one/photo.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"mine")
    assert main([*words.format("desk").split(), "-q"]) == 2
    assert "it is data; choose another -o" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [photo]


def test_what_cannot_be_is_said_with_its_option(photographs, checkpoint, tmp_path, capsys):
    cases = {
        "--fp8-from": ["--fp8-from", "2"], "--mix": ["--mix", "both"],
        "--distill-layers": ["--distill-layers", "none.*"],
        "--resume": ["--resume"], "--match-teacher": ["--match-teacher", "sometimes"],
    }  # fmt: skip
    for option, words in cases.items():
        code, output = command(photographs, checkpoint, *words)
        message = capsys.readouterr().err
        assert code == 2 and (option in message or option == "--mix"), message
        assert not output.exists()
