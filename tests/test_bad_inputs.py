"""Every bad input that reaches the commands: the exit code, one line that names the culprit, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import photograph

from lite3r_cli.cli import main
from lite3r_cli.io.ply import read_ply
from lite3r_cli.networks import registry

SMALL = ("--resolution", "112", "--device", "cpu")


@pytest.fixture
def lite3r(tmp_path, monkeypatch, plane_backbone, capsys):
    """Run `lite3r reconstruct ARGUMENTS` in tmp_path → (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["reconstruct", *map(str, arguments), *SMALL])
        return code, *capsys.readouterr()

    return run


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fails(result: tuple[int, str, str], code: int, *words: str) -> None:
    """One line on standard error after the warnings, with all `words`; nothing on standard output."""
    found, out, err = result
    assert (found, out) == (code, ""), err
    *before, last = err.splitlines()
    assert last.startswith("error: ") and all(word in last for word in words), err
    assert not any(line.startswith(("error", "bug", "Traceback")) for line in before)


# --- images that are not there, or are not images ---------------------------------------------------------------------


def test_nothing_to_read(lite3r, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "note.txt").write_text("hello")
    fails(lite3r("nowhere"), 2, "nowhere", "no such file")
    fails(lite3r("no*.jpg"), 2, "no*.jpg: no such file or folder; no name fits the pattern")
    fails(lite3r("https://example.org/a.jpg"), 2, "https://example.org/a.jpg: lite3r does not download images")
    fails(lite3r(""), 2, "IMAGES", "empty")
    fails(lite3r("texts", "--masks", ""), 2, "--masks", "empty")
    fails(lite3r("texts", "--cameras="), 2, "--cameras", "empty")
    fails(lite3r("empty"), 3, "empty", ".jpg")
    fails(lite3r("texts"), 3, "texts", ".jpg")
    fails(lite3r("texts/note.txt"), 3, "note.txt", ".jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "texts"]


def test_one_image_is_monocular_with_a_warning(lite3r, photographs, tmp_path):
    code, _, err = lite3r(photographs(1))
    assert code == 0 and "warning: one image only (a0.jpg): monocular" in err
    assert len(read_ply(tmp_path / "scene.ply")) > 0


def test_two_identical_images_warn_of_low_parallax(lite3r, photographs, tmp_path):
    photos = photographs(1)
    shutil.copy(photos / "a0.jpg", photos / "b.jpg")
    code, _, err = lite3r(photos)
    assert code == 0 and "warning: low parallax: a0.jpg and b.jpg are the same image" in err
    assert np.isfinite(read_ply(tmp_path / "scene.ply").points).all()


def test_cameras_on_one_spot_warn_of_low_parallax(lite3r, photographs, monkeypatch):
    monkeypatch.setattr("conftest.STEP", 1e-4)
    code, _, err = lite3r(photographs(3))
    assert code == 0 and "warning: low parallax: the cameras move by" in err


def broken_files(photos: Path) -> list[str]:
    """Corrupt, truncated, empty, mislabelled; one good picture stays."""
    whole = (photos / "a0.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (photos / "zero.jpg").write_bytes(b"")
    (photos / "noise.png").write_bytes(np.random.default_rng(0).bytes(2000))
    (photos / "text.jpeg").write_text("not an image")
    return ["cut.jpg", "noise.png", "text.jpeg", "zero.jpg"]


def test_broken_images_are_skipped_and_listed(lite3r, photographs, tmp_path):
    photos = photographs(2)
    names = broken_files(photos)
    code, _, err = lite3r(photos)
    assert code == 0
    assert all(f"warning: skipped {name}: " in err for name in names)
    run = json.loads((tmp_path / "scene" / "run.json").read_text())
    assert sorted(i["name"] for i in run["images"] if i["verdict"] == "skipped") == names


def test_strict_fails_at_the_first_broken_image(lite3r, photographs, tmp_path):
    photos = photographs(2)
    broken_files(photos)
    fails(lite3r(photos, "--strict"), 3, "cut.jpg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_only_broken_images_fail(lite3r, photographs, tmp_path):
    photos = photographs(1)
    broken_files(photos)
    (photos / "a0.jpg").unlink()
    fails(lite3r(photos), 3, "cut.jpg", "3 more")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_sizes_that_cannot_be_reconstructed_are_skipped(lite3r, photographs):
    photos = photographs(2)
    photograph(photos / "dot.png", 1, 1)
    photograph(photos / "strip.png", 900, 100)
    code, _, err = lite3r(photos, "--json")
    assert code == 0 and "skipped dot.png" in err and "skipped strip.png" in err
    code, out, err = lite3r(photos, "--overwrite", "--json", "--max-pixels", 98 * 70 - 1)
    assert code == 3 and "--max-pixels" in err and out == ""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX file system")
def test_files_that_could_hang_are_skipped(lite3r, photographs):
    photos = photographs(2)
    os.mkfifo(photos / "pipe.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "folder.jpg").mkdir()
    (photos / "device.jpg").symlink_to("/dev/zero")
    code, _, err = lite3r(photos)
    assert code == 0
    assert all(f"skipped {name}" in err for name in ("pipe.jpg", "loop.jpg", "folder.jpg", "device.jpg"))


def test_odd_names_never_collide(lite3r, photographs, tmp_path):
    photos = photographs(0)
    names = ["a.jpg", "a.png", "A.JPG", "é ü.jpg", "img10.jpg", "img2.jpg", "new\nline.jpg", "-o.jpg"]
    for i, name in enumerate(names):
        photograph(photos / "x.jpg", seed=i).rename(photos / name)
    code, _, err = lite3r(photos, "--json")
    assert code == 0, err
    run = json.loads((tmp_path / "scene" / "run.json").read_text())
    used = [i["name"] for i in run["images"]]
    assert len(used) == len(set(used)) == len(names)
    assert used.index("img2.jpg") < used.index("img10.jpg")
    depth = [f.casefold() for f in run["files"] if f.startswith("scene/depth/")]
    assert len(depth) == len(set(depth)) == len(names)


def test_kinds_of_pixels(lite3r, photographs, tmp_path):
    photos = photographs(1)
    picture = np.full((70, 98, 3), (20, 120, 220), np.uint8)
    transparent = np.dstack([picture, np.zeros((70, 98), np.uint8)])
    cv2.imwrite(str(photos / "grey.png"), picture[..., 0])
    cv2.imwrite(str(photos / "alpha.png"), transparent)
    cv2.imwrite(str(photos / "deep.png"), picture.astype(np.uint16) * 257)
    code, _, err = lite3r(photos, "--confidence-percentile", "0", "--no-consistency")
    assert code == 0, err
    cloud = read_ply(tmp_path / "scene.ply")
    assert len(cloud) == 3 * 112 * 84  # nothing of the transparent picture
    assert ([220, 120, 20] == cloud.colors).all(axis=1).sum() == 112 * 84  # 16 bit scaled, not clipped


def video(path: Path, frames: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (98, 70))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG")
    for i in range(frames):
        writer.write(np.full((70, 98, 3), 10 * i, np.uint8))
    writer.release()
    return path


def test_videos(lite3r, tmp_path):
    whole = video(tmp_path / "whole.avi", 12)
    code, out, err = lite3r(whole, "--max-views", "4", "--json")
    assert code == 0 and json.loads(out)["views"] == 4, err
    data = whole.read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    code, _, err = lite3r("cut.avi", "-o", "cut.ply")
    assert code in (0, 3) and "Traceback" not in err
    (tmp_path / "fake.mp4").write_bytes(b"\0" * 5000)
    fails(lite3r("fake.mp4", "-o", "fake.ply"), 3, "fake.mp4")


# --- output -----------------------------------------------------------------------------------------------------------


def test_an_existing_output_is_refused_then_replaced_file_by_file(lite3r, photographs, tmp_path):
    photos = photographs(2)
    assert lite3r(photos, "--save-npy")[0] == 0
    (tmp_path / "scene" / "mine.txt").write_text("keep me")
    before = everything(tmp_path)
    fails(lite3r(photos), 7, "scene.ply", "--overwrite")
    assert everything(tmp_path) == before
    assert lite3r(photos, "--overwrite")[0] == 0
    after = everything(tmp_path)
    assert after["scene/mine.txt"] == b"keep me"
    assert "scene/depth/a0.npy" in before and "scene/depth/a0.npy" not in after


def test_a_file_of_somebody_else_is_never_replaced(lite3r, photographs, tmp_path):
    (tmp_path / "scene.ply").write_text("my own cloud")
    fails(lite3r(photographs(1), "--overwrite"), 7, "scene.ply")
    assert (tmp_path / "scene.ply").read_text() == "my own cloud"


def test_skip_existing_answers_at_once(lite3r, photographs, tmp_path):
    photos = photographs(1)
    assert lite3r(photos, "--skip-existing")[0] == 0
    before = (tmp_path / "scene" / "run.json").stat().st_mtime_ns
    code, out, err = lite3r(photos, "--skip-existing", "--json")
    assert code == 0 and json.loads(out)["skipped_existing"] and err.count("\n") == 1
    assert (tmp_path / "scene" / "run.json").stat().st_mtime_ns == before
    code = (
        "import sys; from lite3r_cli.cli import main\n"
        "assert main(['reconstruct', 'photos', '--skip-existing', '-q']) == 0 and 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_a_folder_that_nobody_may_write_to(lite3r, photographs):
    fails(lite3r(photographs(1), "-o", "/proc/scene.ply"), 7, "/proc/scene.ply")


def test_an_output_below_a_file(lite3r, photographs, tmp_path):
    (tmp_path / "file").write_text("x")
    fails(lite3r(photographs(1), "-o", "file/scene.ply"), 7, "file")


def test_a_full_disk_leaves_nothing(lite3r, photographs, tmp_path, monkeypatch):
    photos = photographs(2)
    before = everything(tmp_path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    fails(lite3r(photos), 7, "disk is full")
    assert everything(tmp_path) == before and sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_two_runs_into_one_output(lite3r, photographs, tmp_path, plane_backbone, monkeypatch):
    photos = photographs(1)
    honest = plane_backbone.predict
    codes = []

    def meanwhile(self, batch):
        monkeypatch.setattr(plane_backbone, "predict", honest)
        codes.append(main(["reconstruct", str(photos), *SMALL]))
        return honest(self, batch)

    monkeypatch.setattr(plane_backbone, "predict", meanwhile)
    codes.append(lite3r(photos)[0])
    assert codes == [7, 0]
    assert (tmp_path / "scene" / "run.json").is_file()


def test_every_point_filtered_away(lite3r, photographs, tmp_path):
    photos = photographs(2)
    (tmp_path / "masks").mkdir()
    for name in ("a0.jpg.png", "a1.jpg.png"):
        cv2.imwrite(str(tmp_path / "masks" / name), np.zeros((70, 98), np.uint8))
    fails(lite3r(photos, "--masks", "masks", "--strict"), 3, "no point")
    code, _, err = lite3r(photos, "--masks", "masks", "--preview", "--format", "glb", "--format", "colmap")
    assert code == 0 and "warning: no point is left" in err
    assert len(read_ply(tmp_path / "scene.ply")) == 0


# --- weights, devices -------------------------------------------------------------------------------------------------


@pytest.fixture
def real_weights(tmp_path, monkeypatch, capsys, photographs):
    """Run `reconstruct` of one photograph with the real loader and a checkpoint file."""
    photos = photographs(1)
    monkeypatch.chdir(tmp_path)

    def run(model: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["reconstruct", str(photos), "--model", model, *SMALL])
        return code, *capsys.readouterr()

    return run


def _pickle() -> bytes:
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, ("exploded",))

    import pickle

    return pickle.dumps(Bomb())


def _checkpoint_bytes() -> bytes:
    return registry.resolve("mini").read_bytes()


@pytest.mark.parametrize(
    "content, words",
    [
        (None, ["no such checkpoint"]),
        (lambda: b"", ["empty"]),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", ["git lfs pull"]),
        (lambda: _checkpoint_bytes()[:100_000], ["damaged or truncated"]),
        (lambda: b"\x93NUMPY" * 50, ["damaged or truncated"]),
        (_pickle, ["pickle"]),
    ],
    ids=["missing", "empty", "lfs", "truncated", "other", "pickle"],
)
def test_checkpoints_that_cannot_be_used(content, words, real_weights, tmp_path):
    if content is not None:
        (tmp_path / "weights.safetensors").write_bytes(content())
    fails(real_weights("weights.safetensors"), 4, "weights.safetensors", *words)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("weights")) == ["photos"]


def test_a_checkpoint_of_another_model_lists_five_keys_at_most(real_weights, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(registry.resolve("mini"), "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    lost = {name for name in tensors if name.startswith("blocks.3.") and not name.endswith("::scale")}
    others = {name: tensor for name, tensor in tensors.items() if name not in lost}
    save_file(others, tmp_path / "other.safetensors", metadata=metadata)
    result = real_weights("other.safetensors")
    fails(result, 4, "other.safetensors", "missing")
    assert 0 < sum(name in result[2] for name in lost) <= 5 < len(lost)


def test_a_checkpoint_with_numbers_that_are_not_finite(real_weights, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(registry.resolve("mini"), "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    tensors["norm.weight"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors", metadata=metadata)
    fails(real_weights("nan.safetensors"), 4, "nan.safetensors", "norm.weight")


def test_an_unknown_model_names_the_known_ones(real_weights):
    fails(real_weights("mimi"), 4, "mimi", "did you mean mini")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cuda(device, photographs, tmp_path, monkeypatch, capsys):
    photos = photographs(1)
    monkeypatch.chdir(tmp_path)
    code = main(["reconstruct", str(photos), "--device", device])
    fails((code, *capsys.readouterr()), 5, device, "--device cpu")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]
