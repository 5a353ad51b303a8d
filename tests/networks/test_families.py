"""Every fact that a family states is true of its network, and a family that forgets one cannot be made."""

from __future__ import annotations

import dataclasses
import json
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
import toy_network

from lite3r_cli.attention.module import attention_modules
from lite3r_cli.errors import UsageError, WeightsError
from lite3r_cli.networks import NETWORKS, registry
from lite3r_cli.networks.base import KnownCameras, Network, Prediction, Streaming
from lite3r_cli.networks.family import TOLD, Family, families, family_named, family_of, register
from lite3r_cli.networks.fast_form import form_reason
from lite3r_cli.networks.recognise import recognise

EVERY = [(family, size) for family in families().values() for size in family.sizes]
IDS = [size for _, size in EVERY]
CAN_BE_RUN = ("mini", "toy", "da3-small")  # by this test, in a moment


def on_meta(family: Family, size: str) -> torch.nn.Module:
    with torch.device("meta"):
        return family.made(family.sizes[size], size)


def test_every_network_of_the_package_and_the_toy_are_there():
    assert len(families()) >= len(NETWORKS) + 1 and "toy" in families()


@pytest.mark.parametrize("family, size", EVERY, ids=IDS)
def test_the_facts_are_true_of_the_network(family, size):
    model = on_meta(family, size)
    config = model.config
    assert isinstance(model, Network) and model.name == size == family.name_of(config) and family_of(model) is family
    assert isinstance(model.compute_dtype, torch.dtype) and model.patch_size >= 1
    assert isinstance(model, Streaming) is family.streams
    for info in family.models:  # what is told of it without importing it
        assert (info.streams, info.metric) == (family.streams, family.scale == "metric")
        assert set(info.takes) == set(family.options) & set(TOLD)
        assert info.fast is (form_reason(model, size) is None) or info.name != size
    modules, weights = dict(model.named_modules()), [n for n, t in model.named_parameters() if t.ndim >= 2]
    across = family.global_layers(config)
    assert across and set(across) <= attention_modules(model).keys() and len(set(across)) == len(across)
    trunk = [family.trunk] if isinstance(family.trunk, str) else family.trunk or ()
    for name in (family.encoder, *family.heads, *family.unused, *trunk):
        assert name in modules, name
    last = family.last_projections(config)
    assert len(last) == 2 and all(isinstance(modules[name], torch.nn.Linear) for name in last)
    for pattern in family.high_precision:
        assert "proj_lin" in pattern or any(fnmatchcase(name, pattern) for name in weights), pattern
    assert family.preparation.resolution >= model.patch_size and family.special_tokens >= 0
    if set(family.options) - set(TOLD):
        assert callable(model.configure)


@pytest.mark.parametrize(
    "fact, wrong",
    [
        ({"global_layers": lambda config: ["blocks.1"]}, "global_layers names 'blocks.1', which is no Attention"),
        (
            {"last_projections": lambda config: ["blocks.1.attn"]},
            "no Linear of the network; there are blocks.0.attn.qkv",
        ),
        ({"heads": ("depth_head", "pose_head")}, "'pose_head'"),
    ],
)
def test_a_fact_that_is_not_true_is_told_when_the_network_is_built(fact, wrong):
    with pytest.raises(UsageError, match=wrong):
        dataclasses.replace(toy_network.FAMILY, **fact).made(toy_network.ToyConfig(), "toy")


@pytest.mark.parametrize("family, size", EVERY, ids=IDS)
def test_a_checkpoint_is_recognised(family, size, tmp_path):
    model = on_meta(family, size)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    metadata = {"model": size, "config": json.dumps(dataclasses.asdict(model.config))}
    found = recognise({f"model.{name}": shape for name, shape in shapes.items()}, metadata, tmp_path)
    assert (found.family, found.name, found.config) == (family, size, model.config)
    assert set(found.sources) == set(shapes) and not found.left_out
    try:
        assert family.config_from_shapes(shapes) == model.config
    except KeyError:
        pass  # its tensors do not tell


@pytest.mark.parametrize(
    "size, wrong, message",
    [
        ("map-anything", {"heads": 7}, "heads = 7 does not divide"),
        ("da3-small", {"heads": 0}, "heads = 0 does not divide"),
        ("pi3", {"head_heads": 11}, "head_heads = 11 does not divide"),
        ("vggt-1b", {"camera_heads": 9}, "camera_heads = 9 does not divide 2048"),
        ("vggt-omega", {"register_pairs": [1, 99]}, "register_pairs"),
        ("pi3x", {"inject_after": [9, 9, 1, 1, 1]}, "inject_after"),
    ],
)
def test_settings_that_no_network_can_have_are_refused(size, wrong, message, tmp_path):
    model = on_meta(family_named(size), size)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    config = json.dumps(dataclasses.asdict(model.config) | wrong)
    with pytest.raises(WeightsError, match=message):
        recognise(shapes, {"model": size, "config": config}, tmp_path)


@pytest.mark.parametrize("size", CAN_BE_RUN)
def test_the_answer_is_that_of_predict(size):
    family = family_named(size)
    torch.manual_seed(0)
    model = family.build(family.sizes[size], size).eval()
    images = torch.rand(3, 3, 28, 42)
    with torch.no_grad():
        raw = family.answer(model, images[None], torch.tensor([0, 2]))
        prediction = model.predict(list(images))
    assert isinstance(prediction, Prediction) and raw.decoded.tolist() == [0, 2]
    seen = prediction.depth[2] > 0  # mini has no depth where it sees sky
    torch.testing.assert_close(raw.log_depth[0, 1].exp()[seen], prediction.depth[2][seen], rtol=1e-4, atol=1e-5)
    R, t = prediction.cam_from_world[:, :, :3], prediction.cam_from_world[:, :, 3:]
    centres = (-R.transpose(1, 2) @ t)[..., 0]
    relative = R[0] @ (centres - centres[0]).T
    ours = raw.rotation[0, 0].T @ (raw.centre[0] - raw.centre[0, :1]).T
    torch.testing.assert_close(ours, relative, rtol=1e-3, atol=1e-4)
    if family.takes_cameras:
        cameras = KnownCameras(torch.eye(3, 4).repeat(3, 1, 1), prediction.K)
        assert len(model.predict(list(images), cameras).depth) == 3


def test_names_lead_to_families():
    for family in families().values():
        for name in [*family.sizes, *(info.name for info in family.models)]:
            assert family_named(name) is family
        for info in family.models:
            assert registry.MODELS[info.name] is info and info.licence and info.parameters > 0
            assert info.repository or info.file
    assert family_named("resnet") is None and family_named("vggt-1b.safetensors") is families()["vggt"]


def test_a_forgotten_or_impossible_fact_fails_at_once():
    facts = {f.name: getattr(toy_network.FAMILY, f.name) for f in dataclasses.fields(Family)}
    for name in ("special_tokens", "preparation", "answer", "high_precision"):
        with pytest.raises(TypeError, match=name):
            Family(**{key: value for key, value in facts.items() if key != name})
    for wrong in (
        {"sizes": {}},
        {"sizes": {"toy": np.ones(1)}},
        {"options": ("focal",)},
        {"name": "Toy Net"},
        {"scale": "metres"},
        {"heads": "depth_head"},
        {"special_tokens": -1},
    ):
        with pytest.raises(ValueError):
            Family(**facts | wrong)
    with pytest.raises(ValueError, match="already"):
        register(toy_network.FAMILY)
