"""Videos as streams: more frames than other networks take, one scene, memory said before, one picture at a time."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

from lite3r_cli import cli
from lite3r_cli.config import InputConfig
from lite3r_cli.console import Progress
from lite3r_cli.networks import standin
from lite3r_cli.networks.lingbot_map.network import LingBotMap, LingBotMapConfig
from lite3r_cli.pipelines.reconstruct_scene import find_images

TINY = LingBotMapConfig(
    dim=64, pairs=4, heads=1, encoder_depth=1, encoder_heads=1, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, camera_heads=2, position_grid=5,
)  # fmt: skip
FRAMES = 70


@pytest.fixture
def checkpoint(tmp_path):
    model = LingBotMap(TINY)
    standin.fill(model, 2)
    model.camera_head.pose_branch.fc2.bias.data[6:] = 1.0  # a usable rotation and field of view
    metadata = {"config": json.dumps(dataclasses.asdict(TINY)), "model": "lingbot-map"}
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "tiny.safetensors", metadata)
    return tmp_path / "tiny.safetensors"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A textured wall that passes by."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, (112, 84))
    wall = cv2.resize(np.random.default_rng(1).integers(0, 255, (12, 40, 3), np.uint8), (400, 84))
    for i in range(FRAMES):
        writer.write(wall[:, 4 * i : 4 * i + 112])
    writer.release()
    return path


def test_a_stream_takes_more_frames_of_a_video(clip):
    counts = {
        model: len(find_images(InputConfig((clip,), frames="even"), Progress(), lambda text: None, model))
        for model in ("lingbot-map", "mini", "somewhere.safetensors")
    }
    assert counts == {"lingbot-map": FRAMES, "mini": 60, "somewhere.safetensors": 60}
    for frames, expected in (("auto", FRAMES), ("9", 9)):
        assert len(find_images(InputConfig((clip,), frames=frames), Progress(), print, "lingbot-map")) == expected


def test_a_video_is_streamed_into_one_scene(checkpoint, clip, tmp_path, capsys, monkeypatch):
    held = []
    stream = LingBotMap.stream

    def watched(self, frames, count):
        held.append(type(frames).__name__)
        return stream(self, frames, count)

    monkeypatch.setattr(LingBotMap, "stream", watched)
    out = tmp_path / "out"
    arguments = ["reconstruct", str(clip), "-o", str(out), "--model", str(checkpoint), "--resolution", "56"]
    assert cli.main([*arguments, "--device", "cpu", "--max-views", "20", "--dtype", "float32"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "stream of 20 frames of 56x42 pixels: 0.00 GiB" in told and held == ["generator"]
    info = json.loads((out / "run.json").read_text())
    assert len(info["images"]) == 20 and not (out / "part-2").exists()
    assert np.isfinite(json.loads((out / "cameras.json").read_text())["images"]["frame_000069.png"]["K"]).all()
