"""The plot of a training log whose lines are cut, as a full disk, a kill or a power cut leaves them."""

from __future__ import annotations

import json
import os

import cv2
import pytest

from lite3r_cli import cli
from lite3r_cli.training import loss_plot

RECORDS = [{"step": i, "seconds": 60.0 * i, "total": 2.0 / i, "camera": 1.0 / i, "lr": 1e-3} for i in (1, 2, 3)]
WHOLE = [json.dumps(record) for record in RECORDS]


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("\n".join([*WHOLE, WHOLE[0][:-9]]), RECORDS),  # the last write did not fit
        ("\n".join([WHOLE[0], WHOLE[1][:20] + WHOLE[1], WHOLE[2]]), [RECORDS[0], RECORDS[2]]),  # resumed after a cut
        ("\n".join([WHOLE[0], "\0" * 400, WHOLE[2]]), [RECORDS[0], RECORDS[2]]),  # blocks that never reached the disk
        ("\n".join([WHOLE[0], "\udcff\udc80", "[" * 100_000, "7", "null", '{"step": 2}', WHOLE[2]]),
         [RECORDS[0], RECORDS[2]]),
        (WHOLE[0][:12], []),
        ("", []),
    ],
)  # fmt: skip
def test_cut_lines_are_skipped(tmp_path, content, kept):
    log = tmp_path / "log.jsonl"
    log.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert loss_plot._records(log) == kept


def test_only_a_plot_of_a_run_is_drawn_anew(tmp_path):
    log, plot, told = tmp_path / "log.jsonl", tmp_path / "losses.png", []
    log.write_text("\n".join(WHOLE))
    loss_plot.plot_losses(log, plot, pytest.fail)
    loss_plot.plot_losses(log, plot, pytest.fail)
    assert cv2.imread(str(plot)) is not None
    cv2.imwrite(str(plot), cv2.imread(str(plot)))
    mine = plot.read_bytes()
    loss_plot.plot_losses(log, plot, told.append)
    assert plot.read_bytes() == mine and "losses.png: is not from lite3r" in told[0]


def test_a_pipe_is_no_log(tmp_path):
    os.mkfifo(tmp_path / "log.jsonl")
    assert loss_plot._records(tmp_path / "log.jsonl") == []


def test_the_other_lines_are_drawn(tmp_path):
    log, plot = tmp_path / "log.jsonl", tmp_path / "losses.png"
    for content in (None, "", WHOLE[0][:-9]):
        if content is not None:
            log.write_text(content)
        loss_plot.plot_losses(log, plot, pytest.fail)
        assert not plot.exists()
    log.write_text("\n".join([*WHOLE, WHOLE[0][:-9]]))
    loss_plot.plot_losses(log, plot, pytest.fail)
    assert cv2.imread(str(plot)).std() > 0


@pytest.mark.parametrize("name", ["losses.png", "mini.safetensors", "state.safetensors", ".lite3r"])
def test_what_a_killed_training_left_goes_with_the_next_command_even_if_it_is_refused(tmp_path, capsys, name):
    folder, lock = tmp_path / "t", tmp_path / "t" / f".{name.removeprefix('.')}.lock"
    folder.mkdir()
    lock.touch()
    (folder / "state.safetensors").touch()  # a run is there
    assert cli.main(["train", "-o", str(folder), "--max-steps", "1", "--device", "cpu"]) == 7
    assert "holds a training run" in capsys.readouterr().err and not lock.exists()
