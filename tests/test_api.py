"""The library: arrays give what files give, nothing global changes, and the import is light."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import lite3r_cli as lite3r
from lite3r_cli import cli
from lite3r_cli.config import PredictConfig
from lite3r_cli.config.keywords import from_keywords
from lite3r_cli.errors import InputError, OutputError, UsageError
from lite3r_cli.pipelines.beforehand import Beforehand

opencv_log = cv2 if hasattr(cv2, "getLogLevel") else cv2.utils.logging
SIZE = {"resolution": 112, "device": "cpu", "dtype": "float32"}
FACADE = Path(__file__).resolve().parents[1] / "sample_scenes" / "facade" / "images"


@pytest.fixture(scope="module")
def model() -> lite3r.Reconstructor:
    return lite3r.Reconstructor("mini", **SIZE)


@pytest.fixture
def pictures(tmp_path) -> tuple[Path, list[np.ndarray]]:
    """A folder of three PNG files and the same pixels in memory, one of another size than the others."""
    folder = tmp_path / "photos"
    folder.mkdir()
    arrays = []
    for i, path in enumerate(sorted(FACADE.iterdir())[:3]):
        rgb = cv2.imread(str(path))[..., ::-1]
        arrays.append(np.ascontiguousarray(cv2.resize(rgb, (168, 112) if i else (140, 126))))
        cv2.imwrite(str(folder / f"image_{i:03d}.png"), arrays[-1][..., ::-1])
    return folder, arrays


def same(a: lite3r.Scene, b: lite3r.Scene) -> bool:
    pairs = [(a.points, b.points), (a.colors, b.colors), (a.confidence, b.confidence)]
    for v, w in zip(a.views, b.views, strict=True):
        pairs += [(v.K, w.K), (v.cam_from_world, w.cam_from_world), (v.depth, w.depth), (v.confidence, w.confidence)]
        if (v.name, v.width, v.height) != (w.name, w.width, w.height):
            return False
    return all(np.array_equal(x, y) for x, y in pairs)


def test_import_is_light():
    code = (
        "import sys, time; start = time.perf_counter(); import lite3r_cli; took = time.perf_counter() - start\n"
        "assert not {'torch', 'numpy', 'cv2', 'typer', 'rich'} & set(sys.modules), sorted(sys.modules)\n"
        "assert set(lite3r_cli.__all__) <= set(dir(lite3r_cli)); lite3r_cli.load_model\n"
        "assert 'torch' not in sys.modules\n"
        "for name in lite3r_cli.__all__: getattr(lite3r_cli, name)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    with pytest.raises(AttributeError, match="reconstuct"):
        lite3r.reconstuct  # noqa: B018


def test_arrays_and_tensors_give_what_files_give(model, pictures):
    folder, arrays = pictures
    files = model(folder)
    tensors = [torch.from_numpy(rgb).permute(2, 0, 1) for rgb in arrays]
    assert same(files, model(sorted(folder.iterdir())))
    assert same(files, model(arrays)) and same(files, model(tensors))
    assert same(files, model([t.float() / 255 for t in tensors]))
    assert same(model(folder, max_views=2), model(arrays, max_views=2))
    assert len(files.views) == 3 and files.points.shape == (len(files.colors), 3) and files.points.dtype == np.float32
    assert files.views[0].depth.ndim == 2 and np.array_equal(files.views[0].cam_from_world, np.eye(4)[:3])


def test_masks_in_memory(model, pictures):
    _, arrays = pictures
    left = [np.arange(rgb.shape[1]) < rgb.shape[1] // 2 for rgb in arrays]
    masks = [np.broadcast_to(row, rgb.shape[:2]).copy() for row, rgb in zip(left, arrays)]
    everything, half = model(arrays), model(arrays, masks=masks)
    assert half.info["fusion"]["masked"] > 0 == everything.info["fusion"]["masked"]
    assert same(everything, model(arrays, masks=[None, np.ones(arrays[1].shape[:2], bool), None]))


def test_the_command_writes_what_save_writes(model, pictures, tmp_path):
    folder, arrays = pictures
    scene = model(folder, stride=1)
    files = scene.save(tmp_path / "api.ply", formats=["tum"], preview=True)
    options = "--resolution 112 --device cpu --dtype float32 --format tum --preview".split()
    assert cli.main(["reconstruct", str(folder), "-o", str(tmp_path / "cli.ply"), *options]) == 0
    assert files[-1].name == "run.json"
    for file in files[:-1]:
        twin = Path(str(file).replace(f"{tmp_path}/api", f"{tmp_path}/cli"))
        assert file.read_bytes() == twin.read_bytes(), file
    with pytest.raises(OutputError, match="exists"):
        scene.save(tmp_path / "api.ply")
    scene.save(tmp_path / "api.ply", overwrite=True)
    model(arrays, names=["front.jpg", "side.jpg", "back.jpg"]).save(tmp_path / "memory", formats=["nerfstudio"])
    assert (tmp_path / "memory" / "depth" / "front.png").is_file()


@pytest.mark.parametrize("option", ["cameras", "masks", "gcp"])
def test_paths_may_be_texts(pictures, option):
    with pytest.raises((InputError, UsageError), match="no-such"):
        lite3r.reconstruct(str(pictures[0]), **SIZE, **{option: "no-such"})


def test_the_path_of_depth_may_be_a_text():
    with pytest.raises((InputError, UsageError), match="no-such"):
        Beforehand.read(from_keywords(PredictConfig, {"depth": "no-such"}))


def test_nothing_global_changes(pictures, tmp_path):
    _, arrays = pictures

    def state() -> list[object]:
        return [
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.backends.cuda.matmul.allow_tf32,
            opencv_log.getLogLevel(),
            cv2.getNumThreads(),
            dict(os.environ),
        ]

    before = state()
    scene = lite3r.reconstruct(arrays, **SIZE, seed=7, attention="sla", keep_ratio=0.5)
    scene.save(tmp_path / "scene.ply")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(InputError):
        lite3r.reconstruct(tmp_path / "broken.png", **SIZE)
    assert state() == before
    assert scene.info["runtime"]["attention"]["chosen"] == "sla"


def test_wrong_requests_say_what_is_wrong(model):
    picture = np.zeros((56, 70, 3), np.uint8)
    for wrong, message in [
        ([picture.astype(np.int32)], "image 0: int32 values"),
        ([picture, picture[..., :2]], r"image 1: an array of shape"),
        ([picture + np.float32(300)], "between 0 and 1"),
        ([], "empty|no images"),
    ]:
        with pytest.raises(UsageError, match=message):
            model(wrong)
    with pytest.raises(UsageError, match="2 masks for 1"):
        model([picture], masks=[None, None])
    for no_list, message in [(picture, "one array of shape"), (3, "int; give"), ([picture, "a.jpg"], "image 1: str")]:
        with pytest.raises(UsageError, match=message):
            model(no_list)
    with pytest.raises(UsageError, match="masks: with image files"):
        model(FACADE, masks=[picture[..., 0] > 0])
    with pytest.raises(UsageError, match="model: Linear"):
        lite3r.Reconstructor(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="did you mean 'keep_ratio'"):
        lite3r.Reconstructor("mini", keep_ration=0.5)
    for wrong_type in (
        {"resolution": "112"},
        {"resolution": 112.5},
        {"refine": 1},
        {"keep_ratio": "0.5"},
        {"up": None},
    ):
        with pytest.raises(TypeError, match=f"^{next(iter(wrong_type))} takes "):
            lite3r.Reconstructor("mini", **wrong_type)
    with pytest.raises(TypeError, match="keep_ratio is an option of Reconstructor"):
        model([picture], keep_ratio=0.5)
    with pytest.raises(TypeError, match="max_views is an option of a call"):
        lite3r.Reconstructor("mini", max_views=2)


def test_every_option_of_the_images_arrives(pictures):
    folder, arrays = pictures
    with pytest.raises(InputError, match="pixels"):
        lite3r.reconstruct(folder, **SIZE, max_pixels=100)
    scene = lite3r.reconstruct(arrays[1:], **SIZE, keep_unrelated=True, focal=200, seed=np.int64(3))
    assert len(scene.views) == 2 and all(abs(view.K[0, 0] - 200) < 1e-3 for view in scene.views)


def test_threads_share_a_reconstructor(pictures):
    _, arrays = pictures
    model = lite3r.Reconstructor("mini", **SIZE, attention="sla", keep_ratio=0.5)
    sets = [arrays, arrays[1:]] * 2
    alone = [model(images) for images in sets[:2]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model, sets))
    assert all(same(scene, alone[i % 2]) for i, scene in enumerate(together))


def test_wrong_values_name_the_fix(model):
    with pytest.raises(UsageError, match="keep-ratio"):
        lite3r.Reconstructor("mini", attention="sla", keep_ratio=2)


@pytest.mark.parametrize("weights", ["float32", "fp8"])
def test_a_network_goes_out_and_comes_back(weights, tmp_path, pictures):
    _, arrays = pictures
    module = lite3r.load_model("mini")
    settings = lite3r.sparsify(module, 0.5)
    images = [torch.from_numpy(arrays[i]).permute(2, 0, 1)[:, :112, :112].float() / 255 for i in range(2)]
    with torch.inference_mode():
        given = module.predict(images)
    (file,) = lite3r.export(module, tmp_path / "mine.safetensors", weights=weights, licence="MIT")
    again = lite3r.load_model(file)
    assert settings.layers and not again.training
    with torch.inference_mode():
        found = again.predict(images)
    close = max(float(((a - b).abs() / a)[a > 0].median()) for a, b in zip(given.depth, found.depth))
    assert close < (1e-5 if weights == "float32" else 0.05)
    scene = lite3r.reconstruct(arrays, file, **SIZE, attention="sla")
    assert scene.info["model"]["licence"] == "MIT" and scene.info["runtime"]["attention"]["chosen"] == "sla"
    with pytest.raises(OutputError, match="exists"):
        lite3r.export(module, file)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
