"""Every kind of network through `reconstruct`: photos of mixed sizes with masks, and known cameras of some of them."""

import json

import cv2
import numpy as np
import pytest
import test_any_size
import test_forms

import lite3r_cli as lite3r
from lite3r_cli.cli import main
from lite3r_cli.networks import standin
from lite3r_cli.networks.family import family_named

TINY = {**test_forms.TINY, "vggt-1b": test_any_size.TINY_VGGT, "da3-small": test_any_size.TINY_DA3}
SIZES = {"a.png": (84, 112), "b.png": (112, 84), "c.png": (51, 167), "d.png": (23, 31)}  # height, width
OPTIONS = "--device cpu -q -r 112 --keep-unrelated --confidence-percentile 0 --no-edge-filter --no-consistency".split()


@pytest.fixture(params=TINY)
def network(request, tmp_path):
    made = family_named(request.param).build(TINY[request.param], request.param)
    standin.fill(made, 3, made.constants())
    lite3r.export(made.eval(), tmp_path / "tiny.safetensors", weights="float32")
    return tmp_path / "tiny.safetensors"


def test_mixed_photos_with_masks_and_some_cameras(network, tmp_path, capsys):
    rng, cameras = np.random.default_rng(0), {}
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for i, (name, (height, width)) in enumerate(SIZES.items()):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / name), cv2.resize(coarse, (width, height)))
        mask = np.full((height, width), 255, np.uint8)
        mask[: height // 3] = 0
        cv2.imwrite(str(tmp_path / "masks" / name), mask)
        if i < 3:
            K = [[1.1 * width, 0, width / 2], [0, 1.1 * width, height / 2], [0, 0, 1]]
            pose = np.c_[cv2.Rodrigues(np.array([0, 0.1 * i, 0]))[0], [0.2 * i, 5.0, 0.1]]
            cameras[name] = {"K": K, "cam_from_world": pose.tolist(), "width": width, "height": height}
    (tmp_path / "known.json").write_text(json.dumps({"images": cameras}))
    given = ["--masks", str(tmp_path / "masks"), "--cameras", str(tmp_path / "known.json")]
    out = tmp_path / "out" / "scene.ply"
    photos = ["reconstruct", str(tmp_path / "photos"), "-o", str(out), "-m", str(network), "--save-npy"]
    assert main([*photos, *given, *OPTIONS]) == 0, capsys.readouterr().err
    found = json.loads((out.parent / "scene" / "cameras.json").read_text())["images"]
    assert list(found) == list(SIZES)
    for name, (height, width) in SIZES.items():
        assert (found[name]["height"], found[name]["width"]) == (height, width)
        depth = np.load(out.parent / "scene" / "depth" / f"{name[0]}.npy")
        masked = len(depth) * (height // 3) // height
        assert np.isfinite(depth).all() and not depth[: masked - 1].any()
        assert np.isfinite(found[name]["cam_from_world"]).all()
        if name in cameras:
            assert np.allclose(found[name]["cam_from_world"], cameras[name]["cam_from_world"])
            assert np.allclose(found[name]["K"], cameras[name]["K"])
