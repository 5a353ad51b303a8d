"""The command line's contract: exit codes, one line for a failure, one document for --json, no heavy imports."""

from __future__ import annotations

import io
import json
import os
import pwd
import re
import signal
import subprocess
import sys

import pytest
import typer

from lite3r_cli import __version__, cli, console
from lite3r_cli.commands import lazy, options
from lite3r_cli.errors import (
    BackendError,
    InputError,
    Lite3RError,
    MemoryLimitError,
    OutputError,
    UsageError,
    WeightsError,
)


def lite3r(*arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lite3r_cli", *arguments], capture_output=True, text=True, **more)


@pytest.fixture
def command(monkeypatch):
    """Add a command `lite3r go` that runs a function of the test."""

    def install(function) -> None:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        app.command("go")(function)
        monkeypatch.setattr(cli, "app", app)

    return install


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from lite3r_cli.cli import main\n"
        "assert main(['--help']) == main(['--version']) == main(['reconstruct', '--help']) == main(['models']) == 0\n"
        "print(sorted({'torch', 'numpy', 'cv2', 'matplotlib', 'trimesh'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
    assert f"lite3r {__version__}" in run.stdout.splitlines()


def test_a_system_without_posix_locks_is_told_so():
    code = (
        "import sys; sys.modules['fcntl'] = None; from lite3r_cli.cli import main\n"
        "sys.exit(main(['reconstruct', 'nowhere']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 5 and "use WSL" in run.stderr and run.stderr.count("\n") == 1


def test_every_option_of_every_command_explains_itself():
    root = typer.main.get_command(cli.app)
    assert set(root.commands) >= {"reconstruct", "eval", "models", "train", "synth"}
    for name, listed in root.commands.items():
        command = lazy.build(name)
        assert listed.help == command.help.split("\n\n")[0].replace("\n", " "), name
        for parameter in command.params:
            assert (parameter.help or "").endswith("."), f"lite3r {name}: {parameter.name}"
        assert {"debug", "quiet"} <= {parameter.name for parameter in command.params}, name


@pytest.mark.parametrize(
    "kind, code",
    [
        (Lite3RError, 1), (UsageError, 2), (InputError, 3), (WeightsError, 4), (BackendError, 5), (MemoryLimitError, 6),
        (OutputError, 7),
    ],
)  # fmt: skip
def test_expected_failures_are_one_line_and_their_code(kind, code, command, capsys):
    def go() -> None:
        raise kind("a\nb.jpg: \x1b[31mbroken; get it again")

    command(go)
    assert cli.main(["go"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: a\\nb.jpg: \\x1b[31mbroken; get it again\n"


def test_a_value_of_thousands_of_letters_does_not_fill_the_screen(command, capsys):
    def go() -> None:
        raise InputError(f"a.json: {'x' * 9000} is no name; name it anew")

    command(go)
    assert cli.main(["go"]) == 3
    err = capsys.readouterr().err
    assert len(err) < 2000 and err.startswith("error: a.json: xxx") and err.endswith("xxx is no name; name it anew\n")


@pytest.mark.parametrize(
    "error, code, line",
    [
        (ZeroDivisionError("no"), 1, "bug: ZeroDivisionError: no (run again with --debug)"),
        (KeyboardInterrupt(), 130, "interrupted: "),
        (MemoryError(), 6, "error: out of memory"),
    ],
)
def test_unexpected_endings(error, code, line, command, capsys):
    def go() -> None:
        raise error

    command(go)
    assert cli.main(["go"]) == code
    err = capsys.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1


def test_torch_running_out_of_memory_is_exit_6(command, capsys):
    import torch

    def go() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    command(go)
    assert cli.main(["go"]) == 6
    assert capsys.readouterr().err == "error: out of memory; end other programs, or use a machine with more\n"


@pytest.mark.parametrize("name", cli.LESS_MEMORY)
def test_advice_for_less_memory_is_of_options_that_the_command_has(name, monkeypatch, capsys):
    flags = {flag for parameter in lazy.build(name).params for flag in parameter.opts}
    named = set(re.findall(r"--[a-z-]+", cli.LESS_MEMORY[name]))
    assert named and named <= flags

    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(cli, "app", full)
    assert cli.main([name]) == 6 and cli.LESS_MEMORY[name] in capsys.readouterr().err


def test_debug_shows_the_traceback(command, capsys):
    @options.command(general=("debug",))
    def go() -> None:
        raise InputError("a.jpg: broken")

    command(go)
    assert cli.main(["go", "--debug"]) == 3
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith("Traceback") and err[-1] == "error: a.jpg: broken"


def test_sigterm_unwinds_and_is_exit_143(command, capsys):
    cleaned = []

    def go() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)

    command(go)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["go"]) == 143
    assert cleaned and signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["reconstruct", "--resolutoin", "5"], ["--resolution", "lite3r reconstruct --help"]),
        (["reconstruct", "a", "--seed", "x"], ["--seed", "integer"]),
        (["reconstrcut"], ["reconstruct"]),
        (["reconstruct", "a", "--resolution", "5"], ["--resolution", "28"]),
        (["reconstruct", "a", "--stride", "0"], ["--stride"]),
        (["reconstruct", "a", "--max-views", "0"], ["--max-views"]),
        (["reconstruct", "a", "--device", "tpu"], ["--device", "cuda"]),
        (["reconstruct", "a", "--dtype", "float12"], ["--dtype", "bfloat16"]),
        (["reconstruct", "a", "--confidence-percentile", "100"], ["--confidence-percentile"]),
        (["reconstruct", "a", "--voxel-size", "-1"], ["--voxel-size"]),
        (["reconstruct", "a", "--voxel-size", "1e-300"], ["--voxel-size", "at least 1e-12"]),
        (["reconstruct", "a", "--seed", "-1"], ["--seed"]),
        (["reconstruct", "a", "--format", "colmpa"], ["colmap", "nerfstudio"]),
        (["reconstruct", "a", "-o", "scene.obj"], ["scene.obj", "--format"]),
        (["batch", "a", "-o", "b.zip"], ["-o b.zip", "a folder"]),
        (["batch", "a", "-o", ""], ["-o: the name is empty"]),
        (["synth", "-o", "s.npz"], ["-o s.npz", "a folder"]),
        (["train", "-o", "mini.safetensors"], ["-o mini.safetensors", "a folder"]),
        (["view", "a", "-o", "a.mp4"], ["-o a.mp4", ".html"]),
        (["splat", "a", "-o", "a.splat"], ["-o a.splat", ".ply"]),
        (["bench", "--plot", "bench.pdf"], ["--plot bench.pdf", ".png"]),
        (["render", "a", "--frames", "f.mov"], ["--frames f.mov", "a folder"]),
        (["render", "a", "-o", "f.html"], ["-o f.html", ".mp4"]),
        (["render", "a", "-o", "f.d/rgb/f.mp4", "--frames", "f.d"], ["below the frames"]),
        (["render", "a", "-o", "f.mp4", "--frames", "f.mp4/rgb"], ["below the video"]),
    ],
)
def test_usage_errors_name_the_way_out(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["reconstruct"]])
def test_without_arguments_there_is_help_and_no_complaint(arguments, capsys):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert "Usage: lite3r" in out and err == ""
    assert "<bool>" not in out and "<list" not in out and "Path" not in out  # words of Python


def test_models_json_is_one_document(capsys):
    assert cli.main(["models", "--json"]) == 0
    out, err = capsys.readouterr()
    models = {model["name"]: model for model in json.loads(out)["models"]}
    assert models["pi3x"]["engines"] == ["ordinary", "fast"] and "fp8" in models["pi3x"]["forms"]
    assert err == ""
    assert models["mini"]["parameters"] <= 25_000_000 and models["mini"]["licence"]
    told = {"takes", "metric", "streams", "engine", "engines", "forms", "figures"}
    assert set(models["mini"]) == {"name", "parameters", "licence", "source", "path", "summary"} | told
    assert models["map-anything"]["takes"] == ["images", "cameras", "depth"] and models["map-anything"]["metric"]


@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["--help"], ["--version"]])
def test_a_closed_reader_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run([sys.executable, "-m", "lite3r_cli", *arguments], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert run.returncode == 141
    assert run.stderr == b""


def test_names_outside_the_terminals_encoding_are_escaped(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = lite3r("reconstruct", "Grüße", "-o", str(tmp_path / "a.ply"), env=environment)
    assert run.returncode in (2, 3)
    assert run.stderr.startswith("error: ") and "Gr\\xfc\\xdfe" in run.stderr


def test_stages_add_up_and_report_away_from_a_terminal(capsys):
    console.reset()
    progress = console.progress()
    for _ in range(2):
        with progress.stage("Read images", total=3) as step:
            step()
    assert list(progress.seconds) == ["Start", "Read images"] and progress.so_far()["Read images"] <= progress.wall
    assert capsys.readouterr().err.startswith("Read images (3): 0.0 s\n")
    console.set_quiet(True)
    with console.progress().stage("Fuse"):
        pass
    console.table(("a",), [("b",)])
    console.reset()
    assert capsys.readouterr() == ("", "")


def test_a_live_display_draws_on_a_terminal_and_leaves_one_line(monkeypatch):
    """Under a pseudo-terminal, as a user sees it."""
    pty = pytest.importorskip("pty")
    code = (
        "from lite3r_cli import console\n"
        "with console.progress().stage('Fuse', total=2) as step:\n    step(); step()\n"
        "console.warn('odd'); console.table(('view', 'points'), [('a.jpg', 5)], title='Result')"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1"}
    run = subprocess.Popen([sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # Linux says EIO when the other side has gone
            break
        if not chunk:
            break
        seen += chunk
    assert run.wait() == 0
    assert b"2/2" in seen and b"Fuse (2):" in seen and b"warning: " in seen and b"a.jpg" in seen
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7]", seen)  # NO_COLOR


@pytest.mark.parametrize("width, one_paragraph_a_row", [(20, True), (40, True), (200, False)])
def test_a_table_in_a_narrow_terminal_breaks_no_words(monkeypatch, width, one_paragraph_a_row):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    columns = ("model", "parameters", "licence", "here", "what it is")
    console.table(columns, [("vggt-1b", "1190.6 M", "research licence", "no", "cameras and depth")], numbers=False)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdout.getvalue())  # type: ignore[attr-defined]
    lines = [line.strip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= width
    words = {word.strip(":") for line in lines for word in line.split()}
    assert {"parameters", "1190.6", "research", "licence", "cameras"} <= words
    assert ("parameters: 1190.6 M" in lines) == one_paragraph_a_row


@pytest.mark.parametrize("home, word", [(None, "home"), ("FILE", "--show-completion"), ("FILE/below", "FILE/below")])
def test_shell_completion_without_a_home_to_write_to(tmp_path, monkeypatch, capsys, home, word):
    def unknown(uid: int):
        raise KeyError(uid)

    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    assert cli.main(["--install-completion", "bash"]) == 7
    err = capsys.readouterr().err
    assert err.startswith("error: --install-completion: ") and err.count("\n") == 1 and word in err
